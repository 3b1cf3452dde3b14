"""Shifts of level within one window of forecasts: found where they are, and seldom where they are not."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.decisions.demand_paths import Backtest, Histories, PathModel, fit_paths
from many_models.decisions.drift import Found
from many_models.decisions.drift_windows import (
    LEAST_AFTER,
    LEAST_BEFORE,
    Wander,
    later,
    limit,
    noises,
    statistics,
    wanders,
    window_shifts,
)

STEPS, BEGINS, TEN_DAYS = 28, 14, 24


def missed_levels(rng: np.random.Generator, series: int, windows: int, level: float = 0.1) -> np.ndarray:
    """Sales of windows whose level the forecast missed by a deviation of `level`, alike at all steps; the usual error
    beside it is a seventh of the level. Each seventh day is closed.
    """
    missed = np.maximum(1.0 + level * rng.normal(size=(series, windows, 1)), 0.3)
    y = rng.poisson(100.0 * missed * rng.gamma(120.0, size=(series, windows, STEPS)) / 120.0).astype(float)
    y[:, :, 6::7] = np.nan
    return y


def made(rng: np.random.Generator, series: int) -> tuple[PathModel, Backtest]:
    y = missed_levels(rng, series, 2)
    histories = Histories(np.nan_to_num(y, nan=100.0).reshape(-1), np.arange(0, series * 2 * STEPS + 1, 2 * STEPS))
    backtest = Backtest([f"s{i}" for i in range(series)], y, np.full_like(y, 100.0))
    return fit_paths(backtest.series, np.full((series, STEPS), 100.0), backtest, histories), backtest


def found_in(y: np.ndarray, seed: int = 5) -> Found:
    """What the test finds in the windows `y` (series × steps)."""
    model, earlier = made(np.random.default_rng(seed), len(y))
    return window_shifts(model, earlier, y, np.full_like(y, 100.0))


@pytest.mark.slow
def test_a_shift_of_forty_per_cent_within_a_window_is_found_in_ten_days() -> None:
    """Though one day in seven is closed, and levels are missed by a tenth."""
    y = missed_levels(np.random.default_rng(12), 400, 1)[:, 0]
    y[:, BEGINS:] *= 1.4
    y[:, TEN_DAYS:] = np.nan
    found = found_in(y)
    assert float((found.alarm >= BEGINS).mean()) >= 0.9
    assert found.alarm.max() < TEN_DAYS
    assert np.abs(found.began[found.alarm >= BEGINS] - BEGINS).mean() < 2
    assert (found.direction[found.alarm >= 0] == 1).mean() > 0.99


def test_where_nothing_shifted_one_window_in_a_thousand_alarms() -> None:
    """Of 4,000: levels that were missed from the first day on are no shift, and uncertain noise adds little."""
    rng = np.random.default_rng(11)
    alarms = sum(int((found_in(missed_levels(rng, 1000, 1)[:, 0], at).alarm >= 0).sum()) for at in range(4))
    assert alarms <= 8  # two in a thousand: two windows tell less of noise than a year does


def test_the_tests_are_those_of_generalised_least_squares() -> None:
    """By the covariance of level and noise, its inverse, and a loop; missing days left out."""
    rng, usual = np.random.default_rng(3), Wander(0.3, 0.02)
    x = rng.normal(size=(6, STEPS))
    x[:, 6::7], x[2, 3:9] = np.nan, np.nan
    found, began = statistics(x, [usual], np.zeros(6, np.int64))
    t = np.arange(STEPS)
    covariance = np.eye(STEPS) + usual.missed + usual.added * np.minimum.outer(t, t)
    for i in range(6):
        for step in range(STEPS):
            known = np.flatnonzero(np.isfinite(x[i, : step + 1]))
            weight = np.linalg.inv(covariance[np.ix_(known, known)])
            tests = {0: 0.0}
            for start in range(step + 1):
                shift = (known >= start).astype(float)
                if (known < start).sum() >= LEAST_BEFORE and shift.sum() >= LEAST_AFTER:
                    tests[start] = float(shift @ weight @ x[i, known] / np.sqrt(shift @ weight @ shift))
            best = max(tests.values(), key=abs)
            assert found[i, step] == pytest.approx(best)
            assert tests[int(began[i, step])] == pytest.approx(best)


@pytest.mark.slow
def test_the_limit_holds_where_a_simulation_can_see_it() -> None:
    """Far from the share at which the drawn windows are read: one in a hundred, and the next decade by its slope."""
    usual, rng, n = Wander(0.1, 0.005), np.random.default_rng(8), 3000
    level = np.sqrt(0.1) * rng.normal(size=(n, 1)) + np.sqrt(0.005) * np.cumsum(rng.normal(size=(n, STEPS)), axis=1)
    tests, _ = statistics(level + rng.normal(size=(n, STEPS)), [usual], np.zeros(n, np.int64))
    assert float((np.abs(tests).max(1) > limit(usual, STEPS, 0.01)).mean()) == pytest.approx(0.01, abs=0.005)
    assert limit(usual, STEPS, 0.001) > limit(usual, STEPS, 0.01) + 0.3


def test_noise_and_wander_are_those_that_made_the_windows() -> None:
    rng, n = np.random.default_rng(9), 600
    deviation = np.exp(rng.normal(0, 0.4, n))
    level = np.sqrt(0.2) * rng.normal(size=(n, 3, 1))
    z = (level + rng.normal(size=(n, 3, STEPS))) * deviation[:, None, None]
    kind = np.full(n, 3)
    found = np.sqrt(noises(z, kind))
    assert np.corrcoef(np.log(found), np.log(deviation))[0, 1] > 0.95
    assert np.median(found / deviation) == pytest.approx(1.0, abs=0.03)
    assert wanders(z / found[:, None, None], kind)[3] == (0.2, 0.0)
    assert (noises(np.full((4, 2, STEPS), np.nan), kind[:4]) == 1.0).all()


def test_a_window_of_nonsense_changes_no_other_series() -> None:
    y = missed_levels(np.random.default_rng(2), 60, 1)[:, 0]
    before = found_in(y)
    others = np.arange(60) != 7
    for poison in (np.nan, np.inf, 1e300, -1e9):
        bad = y.copy()
        bad[7] = poison
        after = found_in(bad)
        for name in ("alarm", "began", "kind", "direction", "charts"):
            assert np.array_equal(getattr(before, name)[others], getattr(after, name)[others]), (name, poison)


def test_of_two_alarms_the_later_one_is_told() -> None:
    def of(alarm: list[int], kind: int) -> Found:
        at = np.array(alarm)
        return Found(at, at - 2, np.full(2, kind), np.ones(2, np.int64), np.full((2, 3), float(kind)))

    both = later(of([5, 9], 2), of([7, 3], 0))
    assert both.alarm.tolist() == [7, 9]
    assert both.kind.tolist() == [0, 2]
    assert both.began.tolist() == [5, 7]
