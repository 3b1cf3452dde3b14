"""Series that rarely sell: when, how much, and how far a window's level is off, against slow versions."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from many_models.decisions.rare_sales import (
    CHANCES,
    LEVELS,
    SURE,
    USUAL,
    Selling,
    Windows,
    expected_sales,
    level_shares,
    levels_of,
    paths,
    sale_chance,
    selling,
    shares_by_kind,
)


def drawn_of(rng: np.random.Generator, past: np.ndarray, y_hat: np.ndarray, levels: np.ndarray) -> np.ndarray:
    own = selling(past, y_hat)
    return paths(rng, own, expected_sales([own])[0], levels)


def slow_expected_sales(chance: np.ndarray, factor: float, begin: int, often: np.ndarray) -> float:
    """Every pattern of sales, times its probability."""
    found = 0.0
    for pattern in product((0, 1), repeat=len(often)):
        since, probability = begin, 1.0
        for sells, step in zip(pattern, often, strict=True):
            hazard = min(chance[since - 1] * factor * step, SURE)
            probability *= hazard if sells else 1.0 - hazard
            since = 1 if sells else min(since + 1, len(chance))
        found += probability * sum(pattern)
    return found


@pytest.mark.parametrize("begin", [1, 3, 59, 60])
def test_expected_sales_are_those_of_all_patterns(begin: int) -> None:
    chance = sale_chance(np.array([1, 1, 2, 7, 1, 30, 2, 61]))
    often = np.array([1.0, 0.5, 2.0, 1.0, 1.0, 3.0])
    slow = [slow_expected_sales(chance, factor, begin, often) for factor in CHANCES.tolist()]
    one = Selling(np.ones(1), chance, begin, often, np.ones(len(often)), 1.0)
    other = one._replace(chance=chance[::-1], often=often[::-1], begin=begin % 2 + 1)
    assert expected_sales([other, one])[1] == pytest.approx(slow)
    assert (expected_sales([other, one])[1] == expected_sales([one])[0]).all()


@pytest.mark.parametrize("level", [0.1, 0.5, 1.0, 2.5])
def test_paths_have_the_mean_of_the_forecast_times_the_level(level: float) -> None:
    """Of a series whose sales come in bursts: soon after one, many more come; long after the last, few."""
    past = np.zeros(400)
    past[np.concatenate([np.arange(at, at + 8) for at in (10, 90, 200, 330)])] = [1.0, 4.0] * 16
    y_hat = np.array([0.2, 0.3, 0.1, 0.4] * 7)
    for end in (400, 336, 395):  # 63 periods after the last sale, at once after it, and in between
        drawn = drawn_of(np.random.default_rng(2), past[:end], y_hat, np.full(8000, level))
        assert drawn.mean(0).sum() == pytest.approx(y_hat.sum() * level, rel=0.06), end


def test_more_than_can_be_sold_a_period_comes_as_larger_sales() -> None:
    past = np.tile([0.0, 2.0], 50)
    drawn = drawn_of(np.random.default_rng(2), past, np.full(10, 8.0), np.ones(4000))
    assert drawn.sum(1).mean() == pytest.approx(80.0, rel=0.02)


def windows_of(levels: np.ndarray, seed: int) -> Windows:
    """Windows of 28 steps with a sale of 1 to 5 units in a fifth of them, times the level."""
    rng = np.random.default_rng(seed)
    count = len(levels)
    sells = rng.random((count, 28)) < np.minimum(0.2 * levels[:, None], SURE)
    sold = np.where(sells, rng.integers(1, 6, (count, 28)), 0).sum(1).astype(float)
    mean, square = np.full(count, 3.0), np.full(count, 11.0 / 3.0)
    return Windows(sold, np.full(count, 28 * 0.2 * 3.0), np.full(count, 28.0), mean, square)


def test_levels_are_a_mixture_of_any_shape() -> None:
    """A third of the windows is off the shelf, the others sell a quarter more than was forecast."""
    levels = np.where(np.random.default_rng(3).random(900) < 1 / 3, 0.02, 1.25)
    found = level_shares(windows_of(levels, 4))
    assert found.sum() == pytest.approx(1.0)
    assert found[LEVELS < 0.2].sum() == pytest.approx(1 / 3, abs=0.04)
    assert found[(LEVELS > 0.9) & (LEVELS < 1.8)].sum() > 0.55
    drawn = levels_of(found, 1000)
    assert drawn.mean() == pytest.approx(levels.mean(), abs=0.05)
    assert (np.diff(drawn) >= 0).all()


def test_a_kind_with_few_windows_takes_the_levels_of_all() -> None:
    windows = windows_of(np.repeat([0.25, 2.0], [200, 20]), 5)
    found = shares_by_kind(windows, np.repeat([0, 1], [200, 20]), 3, 30)
    assert np.array_equal(found[1], level_shares(windows))
    assert np.array_equal(found[1], found[2])
    assert levels_of(found[0], 100).mean() == pytest.approx(0.3, abs=0.06)


def test_where_few_windows_tell_of_levels_they_are_as_far_off_as_usual() -> None:
    windows = windows_of(np.repeat(1.0, 5), 5)
    few = levels_of(shares_by_kind(windows, np.zeros(5, np.int64), 1, 30)[0], 1000)
    assert few.mean() == pytest.approx(1.0, abs=0.05)
    assert np.log(few).std() == pytest.approx(USUAL, abs=0.05)
