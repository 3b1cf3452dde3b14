"""Drift: false alarms by simulation of processes that did not change, and how soon a change is found."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.decisions.demand_paths import Backtest, Histories, PathModel, fit_paths
from many_models.decisions.drift import (
    MONTH,
    chart_limits,
    drift_table,
    normal_scores,
    plain_scores,
    scores_of,
    watch,
    whitened,
)

SERIES, STEPS = 400, 28


def sales(rng: np.random.Generator, shape: tuple[int, ...], mean: float = 100.0) -> np.ndarray:
    return rng.poisson(mean * rng.gamma(50.0, size=shape) / 50.0).astype(float)


def model(mean: float = 100.0, series: int = SERIES, seed: int = 1) -> PathModel:
    rng = np.random.default_rng(seed)
    y = sales(rng, (series, 3, STEPS), mean)
    names = [f"s{i}" for i in range(series)]
    histories = Histories(sales(rng, (series * 60,), mean), np.arange(0, series * 60 + 1, 60))
    return fit_paths(names, np.full((series, STEPS), mean), Backtest(names, y, np.full_like(y, mean)), histories)


def test_false_alarms_of_the_charts_are_those_that_were_set() -> None:
    """At a share that a simulation can see: one in fifty a month, over a year of 4,000 series."""
    z = np.random.default_rng(0).normal(size=(4000, 12 * MONTH))
    alarms = sum(int((watch(z[:, at : at + MONTH], 0.02).alarm >= 0).sum()) for at in range(0, 12 * MONTH, MONTH))
    share = alarms / 4000 / 12
    assert 0.003 < share <= 0.02


@pytest.mark.slow
def test_at_most_one_series_in_a_thousand_alarms_in_a_month_where_nothing_changed() -> None:
    """End to end, from counts that are not normal: 4,000 series × 6 months."""
    m, rng = model(series=1000), np.random.default_rng(7)
    months, alarms = 0, 0
    for _ in range(4):
        y = sales(rng, (1000, 6 * MONTH))
        found = watch(scores_of(m, y, np.full_like(y, 100.0)), 0.001)
        alarms += int((found.alarm >= 0).sum())
        months += 6 * 1000
    assert alarms / months <= 0.001


@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_a_level_shift_of_forty_per_cent_is_found_within_ten_days_in_nine_of_ten(factor: float) -> None:
    """Of series whose errors are below a fifth of their level: no test with so few false alarms can for all."""
    m, rng = model(), np.random.default_rng(3)
    y = np.concatenate([sales(rng, (SERIES, 60)), sales(rng, (SERIES, 10), 100.0 * factor)], axis=1)
    found = watch(scores_of(m, y, np.full_like(y, 100.0)), 0.001)
    assert float((found.alarm >= 60).mean()) >= 0.9
    assert (found.direction[found.alarm >= 60] == (1 if factor > 1 else -1)).all()


def test_a_wider_error_is_found_by_the_chart_of_coverage() -> None:
    rng = np.random.default_rng(5)
    z = np.concatenate([rng.normal(size=(200, 30)), rng.normal(0, 2.5, (200, 60))], axis=1)
    found = watch(np.clip(z, -4, 4), 0.001)
    assert float((found.alarm >= 30).mean()) > 0.9
    assert (found.kind[found.alarm >= 30] == 2).any()


def test_the_charts_are_pages_recursion_by_hand() -> None:
    z = np.random.default_rng(9).normal(0.5, 1, (3, 40))
    level, _, _ = chart_limits(0.001)
    found = watch(z[:, :10], 0.001)
    for i in range(3):
        up = down = 0.0
        for value in z[i, :10]:
            up, down = max(up + value - 0.8, 0.0), max(down - value - 0.8, 0.0)
        assert found.charts[i, 0] == pytest.approx(max(up, down) / level)


def test_a_series_of_nonsense_changes_no_other_series() -> None:
    m, rng = model(series=50), np.random.default_rng(2)
    y = sales(rng, (50, 90))
    days = np.arange(90).astype("datetime64[us]")
    before = drift_table(m.series, days, watch(scores_of(m, y, np.full_like(y, 100.0))), np.ones(50), 30)
    for poison in (np.nan, np.inf, 1e300, -1e9):
        bad = y.copy()
        bad[7] = poison
        after = drift_table(m.series, days, watch(scores_of(m, bad, np.full_like(bad, 100.0))), np.ones(50), 30)
        others = [i for i in range(50) if i != 7]
        assert before.take(others).equals(after.take(others)), poison


def test_errors_that_hang_together_are_no_drift() -> None:
    rng = np.random.default_rng(4)
    z = np.zeros((2000, 200))
    for at in range(1, 200):
        z[:, at] = 0.5 * z[:, at - 1] + np.sqrt(0.75) * rng.normal(size=2000)
    assert float((watch(whitened(z[:, 20:], 0.5), 0.001).alarm >= 0).mean()) <= 0.001 * 6 * 2
    assert float((watch(z[:, 20:], 0.001).alarm >= 0).mean()) > 0.05


def test_normal_scores_of_the_sample_itself_are_standard_normal() -> None:
    sample = np.random.default_rng(6).gamma(2.0, size=20_000)
    z = normal_scores(sample, sample[None])
    assert abs(z.mean()) < 0.01
    assert z.std() == pytest.approx(1.0, abs=0.01)


def test_closed_days_of_the_backtest_change_no_score() -> None:
    """Those of windows with a closed Sunday, of which nothing is known, are those of windows without Sundays."""
    rng, names = np.random.default_rng(6), [f"s{i}" for i in range(60)]
    y, histories = sales(rng, (60, 3, STEPS)), Histories(np.full(60 * 20, 100.0), np.arange(0, 1201, 20))
    is_open = np.arange(STEPS) % 7 != 6
    closed = np.where(is_open, y, np.nan)
    watched = sales(rng, (60, 40))
    found = []
    for windows in (closed, y[:, :, is_open]):
        past = Backtest(names, windows, np.full_like(windows, 100.0))
        own = fit_paths(names, np.full((60, windows.shape[2]), 100.0), past, histories)
        found.append(plain_scores(own, watched, np.full_like(watched, 100.0)))
    np.testing.assert_array_equal(*found)
