"""Quantiles of sums against what comes next, where a backtest looks better than that: over many made series."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.decisions import demand_paths
from many_models.decisions.demand_paths import Backtest, Histories, fit_paths, sum_quantiles, whole_units

STEPS = 10


def histories_of(past: np.ndarray) -> Histories:
    return Histories(past.ravel(), np.arange(0, past.size + 1, past.shape[1]))


@pytest.mark.parametrize("windows", [1, 3, 9])
def test_what_was_known_before_a_window_is_what_a_loop_counts(windows: int) -> None:
    """Also of series that are shorter than their windows, or hold a number that is out of all proportion."""
    rng = np.random.default_rng(6)
    y = np.where(rng.random(300) < 0.4, rng.integers(0, 5, 300), np.nan)
    y[[70, 71]] = 1e300
    start = np.array([0, 0, 40, 100, 104, 300])
    found = Histories(y, start).before(windows, STEPS)
    for i in (1, 3, 4):
        for w in range(windows):
            past = y[start[i] : max(start[i + 1] - (windows - w) * STEPS, start[i])]
            past = past[np.isfinite(past)]
            counts = [len(past), (past > 0).sum(), past.sum(), (past**2).sum()]
            assert [found.periods[i, w], found.sales[i, w], found.sold[i, w], found.squares[i, w]] == counts
    assert not found.periods[0].any()


def test_what_left_the_shelf_is_missing_wholly_however_large_it_was() -> None:
    """One window in eight sells nothing, of series that sell 2 to 2000 a period, hundreds of usual errors."""
    rng = np.random.default_rng(1)
    series = 400
    level = np.exp(rng.uniform(np.log(2), np.log(2000), series))[:, None, None] * np.ones((1, 4, STEPS))
    there = rng.random((series, 4, 1)) >= 1 / 8
    y = rng.poisson(level) * there
    names, past = [f"s{i}" for i in range(series)], rng.poisson(level[:, 0].repeat(6, 1)).astype(float)
    model = fit_paths(names, level[:, 3], Backtest(names, y[:, :3].astype(float), level[:, :3]), histories_of(past))
    low, middle = sum_quantiles(model, np.full(series, STEPS), (0.08, 0.2), paths=500).T
    assert (low == 0).mean() > 0.97
    assert (middle > 0.5 * level[:, 3].sum(1)).mean() > 0.9


def test_a_window_belongs_to_the_kind_that_its_series_was_of_before() -> None:
    """All sell in 60 % of periods. Those that did more often so far are the lucky ones, and have no luck to come."""
    rng = np.random.default_rng(2)
    series, before = 3000, 20
    sold = np.where(rng.random((series, before + 4 * STEPS)) < 0.6, rng.integers(1, 9, (series, before + 4 * STEPS)), 0)
    past, ahead = sold[:, :-STEPS].astype(float), sold[:, -STEPS:].sum(1)
    windows = past[:, before:].reshape(series, 3, STEPS)
    names, mean = [f"s{i}" for i in range(series)], np.full((series, 4, STEPS), 0.6 * 4.5)
    model = fit_paths(names, mean[:, 3], Backtest(names, windows, mean[:, :3]), histories_of(past))
    often = model.kind == 2
    assert 0.3 < often.mean() < 0.7
    at = sum_quantiles(model, np.full(series, STEPS), (0.2, 0.5, 0.8))
    reached = (ahead[:, None] <= at)[often].mean(0)
    assert reached == pytest.approx([0.2, 0.5, 0.8], abs=0.04)


def test_series_whose_errors_differ_hold_what_comes_though_three_windows_tell_little() -> None:
    """Each has a size of error of its own, which its windows tell roughly: a window lies further out than they say."""
    rng = np.random.default_rng(3)
    series = 3000
    size = np.exp(rng.normal(0, 1.0, (series, 1, 1)))
    y = 1000.0 + 10.0 * size * rng.normal(size=(series, 4, 1)) * np.ones((1, 1, STEPS))
    names, mean = [f"s{i}" for i in range(series)], np.full((series, 4, STEPS), 1000.0)
    past = np.full((series, 40), 1000.5)
    model = fit_paths(names, mean[:, 3], Backtest(names, y[:, :3], mean[:, :3]), histories_of(past))
    at = sum_quantiles(model, np.full(series, STEPS), (0.005, 0.025, 0.1, 0.9, 0.975, 0.995), paths=1000)
    ahead = y[:, 3].sum(1)[:, None]
    within = [((ahead >= at[:, [i]]) & (ahead <= at[:, [5 - i]])).mean() for i in range(3)]
    assert within[:2] == pytest.approx([0.99, 0.95], abs=0.03)
    assert 0.78 < within[2] < 0.86  # a little wide: estimates of three windows are judged by those of two


def test_series_in_whole_units_have_whole_paths_whose_sums_are_those_that_were_drawn() -> None:
    rng = np.random.default_rng(4)
    drawn, places = rng.gamma(0.5, size=(3, 4000, STEPS)).astype(np.float32), rng.random((3, 2000)).astype(np.float32)
    whole = whole_units(drawn, places)
    assert np.array_equal(whole, np.rint(whole))
    assert np.abs(whole.cumsum(2) - drawn.cumsum(2)).max() < 1.001
    assert whole.mean(1) == pytest.approx(drawn.mean(1), abs=0.03)
    assert np.array_equal(whole_units(whole, places), whole)


def test_series_in_parts_of_units_keep_them() -> None:
    rng = np.random.default_rng(5)
    names, mean = [f"s{i}" for i in range(60)], np.full((60, STEPS), 3.0)
    y = rng.poisson(3.0, (60, 3, STEPS)).astype(float)
    past = y.reshape(60, -1).copy()
    past[::2, 0] += 0.25
    model = fit_paths(names, mean, Backtest(names, y, np.repeat(mean[:, None], 3, 1)), histories_of(past))
    ((_, drawn),) = model.blocks(100, 1)
    whole = (drawn == np.rint(drawn)).all((1, 2))
    assert whole[1::2].all()
    assert not whole[::2].any()


@pytest.mark.parametrize("windows", [2, 3, 5])
def test_windows_look_as_far_out_as_the_next_one_is(windows: int) -> None:
    """Errors of the past by the estimate that leaves their own window out, against the next window's by that of all."""
    chance, n, steps = np.random.default_rng(1), 3000, 6
    y_hat = np.repeat(chance.uniform(5, 50, n), (windows + 1) * steps).reshape(n, windows + 1, steps)
    power, kind = np.ones(n), np.full(n, 3)
    luck = chance.normal(size=(n, windows + 1, 1)) + chance.normal(size=y_hat.shape)
    error = luck * demand_paths.deviations(y_hat, chance.lognormal(0, 0.5, n)[:, None, None], power[:, None, None])
    past, known = error[:, :windows], np.ones((n, windows, steps), bool)
    seen = demand_paths._by_other_windows(past, y_hat[:, :windows], known, power, kind)
    size = demand_paths._size(y_hat[:, :windows], power[:, None, None])
    by_all = demand_paths._dispersions(past, size, known.sum((1, 2)), kind)
    following = error[:, windows] / demand_paths.deviations(y_hat[:, windows], by_all[:, None], power[:, None])
    ratio = np.quantile(np.abs(seen.mean(-1)), [0.8, 0.95]) / np.quantile(np.abs(following.mean(-1)), [0.8, 0.95])
    assert ratio == pytest.approx([1, 1], abs=0.05)
