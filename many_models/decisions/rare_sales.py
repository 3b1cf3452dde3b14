"""Demand of series that rarely sell: when they sell, how much at once, and how far a window is off its forecast.

Whether such a series sells depends on how long ago it last did (a renewal process; compare Willemain, Smart & Schwarz
2004); what it sells is drawn from its own sales. In the mean, paths are the forecast times a level: items go off the
shelf for months, come back, and find a new customer. How levels are distributed is read off the backtest, with no shape
given beforehand: by the maximum likelihood of a mixture (Kiefer & Wolfowitz 1956; Laird 1978).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LONGEST_INTERVAL = 60  # from which on the chance of a sale stays
OWN_INTERVALS = 10.0  # the constant chance weighs as much as so many intervals
SURE = 0.98  # the highest chance of a sale in a period
LEVELS = np.geomspace(1 / 32, 8, 33)  # of a window's demand, over its forecast
USUAL = 0.75  # standard deviation of the logarithms of levels, as series that rarely sell have it
UNSEEN = 1.0  # windows that may be anywhere among the levels, beside those of the backtest
ROUNDS = 200  # of the search for the likeliest mixture
MOST_WINDOWS = 4000  # that levels are read off
CHANCES = np.geomspace(1 / 32, 16, 13)  # multiples of the chance of a sale, between which one is sought
UNEVEN = 3.0  # times as high or as low may the chance of a sale be at a step; sizes take the rest


class Windows(NamedTuple):
    """Windows of series that rarely sell: what was `sold` and `forecast` in `steps` known periods, and of the sales
    before the mean `size` and the mean `square` over it.
    """

    sold: Floats
    forecast: Floats
    steps: Floats
    size: Floats
    square: Floats

    def of(self, rows: NDArray[np.int64]) -> Windows:
        """Some of the windows."""
        return Windows(*(values[rows] for values in self))


def level_shares(windows: Windows) -> Floats:
    """The likeliest shares of LEVELS, of which the windows' demand is a mixture; UNSEEN windows are spread evenly."""
    if len(windows.sold) > MOST_WINDOWS:
        windows = windows.of(np.linspace(0, len(windows.sold) - 1, MOST_WINDOWS).round().astype(np.int64))
    logs = _likelihoods(windows)
    logs = logs[np.isfinite(logs.max(1))]  # a window that is out of all proportion tells nothing
    chances = np.exp(logs - logs.max(1, keepdims=True))
    number, count = len(LEVELS), len(chances)
    shares = np.full(number, 1.0 / number)
    for _ in range(ROUNDS):
        told = shares / (chances @ shares)[:, None] * chances
        shares = (told.sum(0) + UNSEEN / number) / (count + UNSEEN)
    return np.asarray(shares, np.float64)


def usual_shares() -> Floats:
    """The shares of LEVELS as they usually are, for where nothing tells: lognormal, in the mean the forecast."""
    chances = np.exp(-((np.log(LEVELS) / USUAL + USUAL / 2.0) ** 2) / 2.0)
    return np.asarray(chances / chances.sum(), np.float64)


def _likelihoods(windows: Windows) -> Floats:
    """The logarithm of how likely each window's demand is at each of LEVELS (windows × LEVELS): no sale at all, or a
    gamma distribution with mean and variance of what is sold if anything is.
    """
    from scipy.special import gammaln

    sold, forecast, steps, size, square = (values[:, None] for values in windows)
    mean = LEVELS * forecast
    none = (1.0 - np.minimum(mean / size / steps, SURE)) ** steps
    variance = np.maximum(mean * square - mean**2 / steps, 0.05 * mean * square)
    some = mean / (1.0 - none)
    spread = np.maximum((variance + mean**2) / (1.0 - none) - some**2, 0.02 * some * size)
    shape, scale = some**2 / spread, spread / some
    least = np.maximum(sold, 1e-9)
    logs = np.log1p(-none) + (shape - 1.0) * np.log(least) - least / scale - gammaln(shape) - shape * np.log(scale)
    return np.where(sold > 0, logs, np.log(none))


def levels_of(shares: Floats, number: int) -> Floats:
    """So many quantiles of the levels, evenly apart, in order."""
    edges = np.log(np.concatenate([LEVELS[:1], np.sqrt(LEVELS[1:] * LEVELS[:-1]), LEVELS[-1:]]))
    return np.exp(np.interp((np.arange(number) + 0.5) / number, np.concatenate([[0.0], np.cumsum(shares)]), edges))


class Selling(NamedTuple):
    """How a series that rarely sells does so: its `sizes` in order, the `chance` of a sale by the periods since the
    last one, which was `begin` periods ago, how `often` a step sells against the others, and the `rest` of its
    forecast's profile, which sizes take. `forecast` is the sum over the steps.
    """

    sizes: Floats
    chance: Floats
    begin: int
    often: Floats
    rest: Floats
    forecast: float


def selling(past: Floats, y_hat: Floats) -> Selling:
    """How the series with these sales in the `past` and this forecast sells."""
    at = np.flatnonzero(past > 0)
    forecast = np.maximum(y_hat, 0.0)
    profile = forecast / max(float(forecast.mean()), 1e-12)
    often = np.clip(profile, 1.0 / UNEVEN, UNEVEN)
    begin = min(len(past) - int(at[-1]), LONGEST_INTERVAL)
    return Selling(np.sort(past[at]), sale_chance(np.diff(at)), begin, often, profile / often, float(forecast.sum()))


def paths(rng: np.random.Generator, series: Selling, expected: Floats, levels: Floats) -> NDArray[np.float32]:
    """Paths (paths × steps) of a series, of which `expected_sales` are expected. Each path has a level of `levels`: its
    mean is the forecast times the level.
    """
    sizes, chance, begin, often, rest, forecast = series
    steps, number = len(often), len(levels)
    factor, more = _factors(expected, float(forecast / sizes.mean()) * levels)
    half = (number + 1) // 2
    u = rng.random((2, steps, half), np.float32)
    u = np.concatenate([u, 1.0 - u], axis=2)[:, :, :number]
    sold = sizes.astype(np.float32)[np.minimum((u[1] * len(sizes)).astype(np.int64), len(sizes) - 1)]
    sold *= (more * rest[:, None]).astype(np.float32)
    bounds = u[0] / often[:, None] / np.maximum(factor, 1e-12)  # a sale comes where the chance is above
    bounds[u[0] >= SURE] = np.inf
    since = np.full(number, begin - 1)
    chance = np.append(chance, np.full(steps, chance[-1]))  # however long ago the last sale is by the end
    sells = np.empty((steps, number), bool)
    for step in range(steps):
        np.greater(chance[since], bounds[step], out=sells[step])
        since += 1
        since[sells[step]] = 0
    return np.where(sells, sold, np.float32(0.0)).T


def expected_sales(series: Sequence[Selling]) -> Floats:
    """For each of the `series` and of CHANCES, how many sales are expected over the steps when each chance of a sale is
    that many times what it is (series × CHANCES).
    """
    if not series:
        return np.zeros((0, len(CHANCES)))
    chance, often = np.stack([one.chance for one in series]), np.stack([one.often for one in series])
    begin = np.array([one.begin for one in series])
    last, steps = chance.shape[1] - 1, often.shape[1]
    ages = np.zeros((len(series), len(CHANCES), last + 1 + steps))  # from `first` on; a step later all are one older
    ages[np.arange(len(series)), :, steps + begin - 1] = 1.0
    found = np.zeros((len(series), len(CHANCES)))
    higher = CHANCES[:, None] * chance[:, None, :]
    for step, first in enumerate(range(steps, 0, -1)):
        since = ages[:, :, first : first + last + 1]
        sells = np.minimum(higher * often[:, step, None, None], SURE)
        sells *= since
        since -= sells
        since[:, :, last - 1] += since[:, :, last]
        ages[:, :, first - 1] = sells.sum(2)
        found += ages[:, :, first - 1]
    return found


def _factors(expected: Floats, wanted: Floats) -> tuple[Floats, Floats]:
    """By how much the chance of a sale is to be multiplied so that as many sales come as `wanted`, between what is
    `expected` for CHANCES; and by how much sizes are, where more is wanted than can come.
    """
    few = wanted < expected[0]
    logs = np.log(np.maximum(wanted, 1e-12))
    factor = np.exp(np.interp(logs, np.log(expected), np.log(CHANCES)))
    factor[few] = CHANCES[0] * wanted[few] / expected[0]
    return factor, np.maximum(wanted / expected[-1], 1.0)


def sale_chance(intervals: NDArray[np.int64]) -> Floats:
    """The chance of a sale k + 1 periods after the last one (k = 0 … LONGEST_INTERVAL − 1), of a series' intervals.

    The hazard of its own intervals, drawn towards the constant hazard of the same mean by ten intervals' worth.
    """
    capped = np.minimum(intervals, LONGEST_INTERVAL)
    ends = np.bincount(capped, minlength=LONGEST_INTERVAL + 1)[1:].astype(float)
    alive = np.cumsum(ends[::-1])[::-1]
    constant = 1.0 / max(float(intervals.mean()), 1.0) if len(intervals) else 0.5
    chance: Floats = (ends + OWN_INTERVALS * constant) / (alive + OWN_INTERVALS)
    chance[-1] = constant  # of the longest the sample ends
    return chance


def shares_by_kind(windows: Windows, kind: NDArray[np.int64], kinds: int, least: int) -> Sequence[Floats]:
    """The shares of LEVELS of each kind of window; a kind with fewer than `least` windows takes those of all, and where
    all are too few, the `USUAL` spread about the forecast.
    """
    every = level_shares(windows) if len(kind) >= least else usual_shares()
    found = list["Floats"]()
    for k in range(kinds):
        mine = np.flatnonzero(kind == k)
        found.append(level_shares(windows.of(mine)) if len(mine) >= least else every)
    return found
