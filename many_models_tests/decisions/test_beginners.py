"""Series that began to sell not long ago: who they are, and what comes of them, over made launches."""

from __future__ import annotations

import numpy as np
import pytest

from many_models.decisions.beginners import FAULT, HORIZONS, LEAST_SERIES, beginners
from many_models.decisions.demand_paths import Backtest, Histories, fit_paths, sum_quantiles

STEPS = 6


def histories_of(past: np.ndarray) -> Histories:
    return Histories(past.ravel(), np.arange(0, past.size + 1, past.shape[1]))


def launched(rng: np.random.Generator, first: np.ndarray, periods: int) -> np.ndarray:
    """Sales of items that come to the shelf in the periods `first`, each of which grows or fades by its own luck in the
    year after.
    """
    since = np.arange(periods) - first[:, None]
    later = np.exp(rng.normal(0.0, 0.9, (len(first), 1)) * np.clip(since / 12, 0.0, 1.0))
    return np.where(since >= 0, rng.poisson(20.0 * later) + 1.0, 0.0)


def test_what_beginners_sell_is_within_what_came_of_others_at_their_age() -> None:
    """Their forecasts are the mean of their sales, and training has no backtest of them."""
    rng = np.random.default_rng(1)
    periods, series = 48, 1200
    first = np.where(rng.random(series) < 0.5, 0, rng.integers(8, periods, series))
    sold = launched(rng, first, periods + STEPS)
    past, ahead = sold[:, :periods], sold[:, periods:].sum(1)
    names, share = [f"s{i}" for i in range(series)], np.maximum(past > 0, 1e-9)
    mean = (past * share).sum(1) / share.sum(1)
    y = past[:, -3 * STEPS :].reshape(series, 3, STEPS).copy()
    y[first > 0] = np.nan
    backtest = Backtest(names, y, np.where(np.isnan(y), np.nan, mean[:, None, None]))
    model = fit_paths(names, np.repeat(mean[:, None], STEPS, 1), backtest, histories_of(past))
    young = first > periods - HORIZONS * STEPS - 1
    assert young.sum() > 100
    bounds = sum_quantiles(model, np.full(series, STEPS), (0.025, 0.1, 0.25, 0.75, 0.9, 0.975))[young]
    inside = [((bounds[:, i] <= ahead[young]) & (ahead[young] <= bounds[:, 5 - i])).mean() for i in range(3)]
    assert inside == pytest.approx([0.95, 0.8, 0.5], abs=0.06)


def test_who_sells_all_the_time_since_a_late_first_sale_is_no_rare_seller() -> None:
    rng = np.random.default_rng(2)
    past = np.where(np.arange(60) < 40, 0.0, rng.poisson(9.0, (50, 60)) + 1.0)
    past[0] = 0.0
    past[1, 45:] = np.nan
    past[2, 40:] = np.where(np.arange(20) % 2, 0.0, 3.0)
    histories = histories_of(past)
    assert histories.sold()[:4].tolist() == [0.0, 1.0, 0.5, 1.0]
    names, mean = [f"s{i}" for i in range(50)], np.full((50, STEPS), 10.0)
    y = past[:, -3 * STEPS :].reshape(50, 3, STEPS)
    model = fit_paths(names, mean, Backtest(names, y, np.full_like(y, 10.0)), histories)
    assert (model.kind[3:] == 3).all()
    assert not model.renewal[3:].any()
    before = histories.before(3, STEPS)
    assert before.share()[3].tolist() == [1.0, 1.0, 1.0]
    assert before.since[:4].tolist() == [[0, 0, 0], [2, 5, 5], [2, 8, 14], [2, 8, 14]]


def test_ages_are_told_of_series_that_began_within_the_longest_history() -> None:
    y = np.array([5.0, 0, 0, 0, 0, 0, *[0.0, 1, 0, 0, 0, 0], *[0.0, 0, 0, np.nan, 2, 0], 0, 0, 4.0, 0, 0, 0, 0])
    histories = Histories(y, np.array([0, 6, 12, 18, 21, 25, 25]))
    assert histories.ages(2).tolist() == [0, 0, 2, 1, 0, 0]
    assert histories.ages(1).tolist() == [0, 5, 2, 1, 0, 0]


def test_windows_of_beginners_are_those_that_a_loop_finds() -> None:
    """None with an unknown period, none with a fault."""
    rng = np.random.default_rng(3)
    past = launched(rng, rng.integers(0, 40, 45), 40)
    past[rng.random(past.shape) < 0.01] = np.nan
    past[rng.random(past.shape) < 0.01] = 30.0 * FAULT
    found = beginners(histories_of(past), STEPS)
    began = [int(np.argmax(own > 0)) for own in past]
    ages = range(1, 1 + max(a for a in range(13) if sum(STEPS <= at <= 40 - STEPS - a for at in began) >= LEAST_SERIES))
    assert 5 < found.oldest() == ages[-1] < HORIZONS * STEPS
    slow = set[tuple[int, int, float]]()
    for own, first in zip(past, began, strict=True):
        for age in ages:
            so_far, window = own[first : first + age], own[first + age : first + age + STEPS]
            unit = np.nanmean(so_far)
            if first >= STEPS and len(window) == STEPS and window.max() < FAULT * (unit + 1.0):
                slow.add((age, int((so_far > 0).sum()), round(float(window.sum() / unit), 9)))
    assert {*zip(found.age.tolist(), found.sales.tolist(), found.y.sum(1).round(9).tolist(), strict=True)} == slow


@pytest.mark.parametrize("began", [LEAST_SERIES - 1, LEAST_SERIES])
def test_where_few_series_began_nobody_is_compared_with_them(began: int) -> None:
    past = launched(np.random.default_rng(4), np.array([0, *[20] * began, 37]), 40)
    names, mean = [f"s{i}" for i in range(len(past))], np.full((len(past), STEPS), 10.0)
    y = past[:, -3 * STEPS :].reshape(len(past), 3, STEPS)
    model = fit_paths(names, mean, Backtest(names, y, np.full_like(y, 10.0)), histories_of(past))
    assert model.young.tolist() == [False] * (began + 1) + [began == LEAST_SERIES]
    assert model.of(np.array([began + 1])).young.tolist() == [began == LEAST_SERIES]
