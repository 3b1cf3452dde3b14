"""Paths of demand over the horizon, drawn from what the backtest got wrong: sums of steps are read off them.

Errors of neighbouring steps go together, so bounds of single steps do not add up to bounds of a sum. A path is a whole
window of the backtest's errors in standard deviations, of a series of the same kind, put on the series' own forecast.
Series that rarely sell follow their own intervals between sales and their own sizes (a renewal process; compare
Willemain, Smart & Schwarz 2004), scaled to the forecast.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLASSES = (0.25, 0.6, 0.9)  # shares of periods with sales that part the kinds of series
INTERMITTENT = 0.6  # a series that sells in a smaller share of its periods follows intervals and sizes
LEAST_SALES = 4  # that tell of intervals; with fewer, windows of errors say what there is
LONGEST_INTERVAL = 60  # from which on the chance of a sale stays
SMALLEST = 0.01  # of its kind's dispersion: what a series without errors is taken to have at least, before it is drawn
DEPENDENT = 2.0  # times as uncertain is a variance of errors that go together
LEAST_SPREAD = 0.005  # variance of the logarithms of dispersions within a kind, at least
FAULT = 1e4  # times a series' mean forecast, beyond which an error is a fault of the data
WILD = 50.0  # standard deviations beyond which an error is a fault and not luck
POOL = 4000  # windows of a kind that are kept to draw from
BLOCK = 500  # series at a time: memory does not grow with their number
WIDER = 0.12  # over the number of windows: where they are few, the next one is a little further off than they were


@dataclass(frozen=True)
class Backtest:
    """What the backtest forecast and what came, series × windows × steps; `y` is NaN where nothing is known."""

    series: Sequence[str]
    y: Floats
    y_hat: Floats

    def before_last(self) -> Backtest:
        """All windows but the newest."""
        return Backtest(self.series, self.y[:, :-1], self.y_hat[:, :-1])

    def errors(self) -> Floats:
        """Actual − forecast: 0 where a step of a window is unknown, NaN where all of the window are, or where one of
        its numbers is out of all proportion or its forecast is missing: a fault stays with its own window.
        """
        unknown = np.isnan(self.y)
        bad = unknown.all(2) | ~np.isfinite(self.y_hat).all(2)
        usual = np.abs(np.nan_to_num(self.y_hat)).mean((1, 2), keepdims=True) + 1.0
        bad |= (np.abs(np.where(unknown, 0.0, self.y)) > FAULT * usual).any(2)
        return np.where(bad[..., None], np.nan, np.where(unknown, 0.0, self.y - self.y_hat))


@dataclass(frozen=True)
class Histories:
    """Past periods of series, one after the other: `y` of series i is `y[start[i] : start[i + 1]]`, NaN unknown."""

    y: Floats
    start: NDArray[np.int64]

    def of(self, i: int) -> Floats:
        """The known periods of series `i`, in order."""
        own = self.y[self.start[i] : self.start[i + 1]]
        return own[np.isfinite(own)]

    def sold(self) -> Floats:
        """The share of each series' known periods in which it sold; 1 where nothing is known."""
        known, sold = np.isfinite(self.y), np.nan_to_num(self.y) > 0
        counts = np.diff(np.concatenate([[0], np.cumsum(known)])[self.start])
        sales = np.diff(np.concatenate([[0], np.cumsum(sold)])[self.start])
        return np.where(counts > 0, sales / np.maximum(counts, 1), 1.0)

    def whole(self) -> NDArray[np.bool_]:
        """Which series are counted in whole units, as far as their periods tell."""
        broken = np.nan_to_num(np.mod(self.y, 1.0)) > 0
        return np.diff(np.concatenate([[0], np.cumsum(broken)])[self.start]) == 0

    def chosen(self, rows: NDArray[np.int64]) -> Histories:
        """The histories of some series."""
        own = [self.y[self.start[i] : self.start[i + 1]] for i in rows]
        sizes = np.array([len(one) for one in own], np.int64)
        y = np.concatenate(own) if own else np.zeros(0)
        return Histories(y, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


@dataclass(frozen=True)
class PathModel:
    """What paths are drawn from: see `fit_paths`."""

    series: list[str]
    y_hat: Floats
    dispersion: Floats
    kind: NDArray[np.int64]
    pools: Sequence[Floats]
    histories: Histories
    renewal: NDArray[np.bool_]
    nonnegative: bool

    def of(self, rows: NDArray[np.int64]) -> PathModel:
        """The model of some series, whose paths are the same as among all."""
        return replace(
            self, series=[self.series[i] for i in rows.tolist()], y_hat=self.y_hat[rows],
            dispersion=self.dispersion[rows],
            kind=self.kind[rows], histories=self.histories.chosen(rows), renewal=self.renewal[rows],
        )  # fmt: skip

    def blocks(self, paths: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Some series' positions, and their paths (series × paths × steps); all series in turn.

        A series' paths depend on `seed` and its name, not on which others there are. Paths come in antithetic pairs:
        where one is high, its twin is as low.
        """
        for begin in range(0, len(self.series), BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, len(self.series)))
            yield rows, self._draw(rows, paths, seed)

    def _draw(self, rows: NDArray[np.int64], paths: int, seed: int) -> NDArray[np.float32]:
        half = (paths + 1) // 2
        steps = self.y_hat.shape[1]
        found = np.empty((len(rows), paths, steps), np.float32)
        dense = np.flatnonzero(~self.renewal[rows])
        uniforms = np.empty((len(rows), half), np.float32)
        for at, i in enumerate(rows.tolist()):
            rng = seeded(seed, self.series[i])
            if self.renewal[i]:
                found[at] = _renewal_paths(rng, self.histories.of(i), self.y_hat[i], paths)
            else:
                uniforms[at] = (rng.permutation(half) + rng.random(half)) / (2 * half)
        if len(dense):
            found[dense] = self._error_paths(rows[dense], uniforms[dense], paths)
        return found

    def _error_paths(self, rows: NDArray[np.int64], u: NDArray[np.float32], paths: int) -> NDArray[np.float32]:
        """Forecasts and windows of errors: ranks u and 1 − u of the windows of a kind, ordered by their sums."""
        u = np.concatenate([u, 1.0 - u], axis=1)[:, :paths]
        found = np.empty((len(rows), paths, self.y_hat.shape[1]), np.float32)
        sigma = deviations(self.y_hat[rows], self.dispersion[rows, None]).astype(np.float32)
        for kind, pool in enumerate(self.pools):
            mine = np.flatnonzero(self.kind[rows] == kind)
            if not len(mine):
                continue
            pick = np.minimum((u[mine] * len(pool)).astype(np.int64), len(pool) - 1)
            found[mine] = pool.astype(np.float32)[pick] * sigma[mine, None, :]
        found += self.y_hat[rows, None, :].astype(np.float32)
        return np.maximum(found, 0.0, out=found) if self.nonnegative else found


def fit_paths(
    series: Sequence[str], y_hat: Floats, backtest: Backtest, histories: Histories, *, nonnegative: bool = True
) -> PathModel:
    """What the paths of `series` are drawn from: their forecasts `y_hat` (series × steps), the backtest of the same
    series and steps, and their past periods. Windows that hold no finite number are left out, and those whose errors
    lie beyond `WILD` standard deviations.
    """
    sold = histories.sold()
    kind = np.searchsorted(CLASSES, sold, side="right").astype(np.int64)
    error, size = backtest.errors(), _size(np.nan_to_num(backtest.y_hat))
    known = np.isfinite(error) & ~np.isnan(backtest.y)
    dispersion = _dispersions(np.where(known, error, 0.0), np.where(known, size, 0.0), known.sum((1, 2)), kind)
    scaled = error / deviations(np.nan_to_num(backtest.y_hat), dispersion[:, None, None])
    everyone = _pool(scaled)
    pools = [_pool(scaled[kind == k], everyone) for k in range(len(CLASSES) + 1)]
    sales = np.array([np.count_nonzero(histories.of(i) > 0) if sold[i] < INTERMITTENT else 0 for i in range(len(sold))])
    renewal = (sold < INTERMITTENT) & (sales >= LEAST_SALES) & nonnegative
    return PathModel(list(series), np.nan_to_num(y_hat), dispersion, kind, pools, histories, renewal, nonnegative)


def _dispersions(error: Floats, size: Floats, count: NDArray[np.int64], kind: NDArray[np.int64]) -> Floats:
    """Each series' variance of errors over their expected size (series × windows × steps, 0 where unknown).

    Empirical Bayes on logarithms: a series' own estimate is drawn towards that of its kind as far as the estimate is
    uncertain (more so with heavy tails, and with errors that go together) and the kind's series are alike.
    """
    squares, sizes = (error**2).sum((1, 2)), size.sum((1, 2))
    seen = (count > 0) & (sizes > 0)
    own = np.where(seen & (squares > 0), squares / np.maximum(sizes, 1e-300), np.nan)
    found = np.empty(len(own))
    for k in range(len(CLASSES) + 1):
        mine = kind == k
        typical = _median(own[mine], own)
        told = np.log(np.maximum(np.nan_to_num(own[mine]), SMALLEST * typical))
        fourth = np.where(squares[mine] > 0, (error[mine] ** 4).sum((1, 2)) * count[mine], np.nan)
        fourth = _median(fourth / np.where(squares[mine] > 0, squares[mine], 1.0) ** 2, np.full(1, 3.0))
        noise = DEPENDENT * max(fourth - 1.0, 2.0) / np.maximum(count[mine], 1)
        good = seen[mine]
        spread = float(np.var(told[good]) - noise[good].mean()) if good.sum() > 2 else 0.0
        weight = np.where(good, max(spread, LEAST_SPREAD) / (max(spread, LEAST_SPREAD) + noise), 0.0)
        found[mine] = np.exp(weight * told + (1.0 - weight) * np.log(typical))
    return found


def deviations(y_hat: Floats, dispersion: Floats) -> Floats:
    """Standard deviations of errors of the forecasts `y_hat`: variance grows with the level as in mm_pack_v1."""
    return np.sqrt(np.maximum(dispersion * _size(y_hat), 1e-24))


def _size(y_hat: Floats) -> Floats:
    mu = np.maximum(np.abs(y_hat), 0.05)
    return mu + 0.05 * mu * mu


def _median(values: Floats, otherwise: Floats) -> float:
    """The median of what is finite, of all series where their kind has none, 1 where there is nothing."""
    for some in (values[np.isfinite(values)], otherwise[np.isfinite(otherwise)]):
        if len(some):
            return float(np.median(some))
    return 1.0


def _pool(scaled: Floats, otherwise: Floats | None = None) -> Floats:
    """Whole windows of standardised errors (windows × steps), ordered by their sums; `otherwise` where there are few.

    Many are thinned evenly along that order, so that the draw stays quick and the tails are kept.
    """
    steps = scaled.shape[2]
    windows = scaled.reshape(-1, steps)
    windows = windows[(np.abs(np.nan_to_num(windows, nan=np.inf)) <= WILD).all(1)]
    if len(windows) < 30 and otherwise is not None:
        return otherwise
    if not len(windows):
        return np.zeros((1, steps))
    windows = windows[np.argsort(windows.sum(1), kind="stable")] * (1.0 + WIDER / scaled.shape[1])
    if len(windows) > POOL:
        windows = windows[np.linspace(0, len(windows) - 1, POOL).round().astype(int)]
    return windows


def seeded(seed: int, name: str) -> np.random.Generator:
    """A generator of a series' own: what is drawn for it does not depend on the others."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def _renewal_paths(rng: np.random.Generator, past: Floats, y_hat: Floats, paths: int) -> NDArray[np.float32]:
    """Paths (paths × steps) of a series that rarely sells: whether it sells depends on how long ago it last did."""
    steps = len(y_hat)
    at = np.flatnonzero(past > 0)
    sizes = past[at]
    chance = sale_chance(np.diff(at))
    rate = float(len(at)) / len(past)
    lift = np.maximum(y_hat, 0.0) / max(rate * float(sizes.mean()), 1e-12)
    more = np.clip(lift, 1 / 3, 3.0)  # what the chance of a sale takes of the forecast; the sizes take the rest
    rest = np.where(more > 0, lift / more, 0.0)
    half = (paths + 1) // 2
    u = rng.random((steps, half, 2), np.float32)
    u = np.concatenate([u, 1.0 - u], axis=1)[:, :paths]
    since = np.full(paths, min(len(past) - int(at[-1]), LONGEST_INTERVAL))
    found = np.empty((paths, steps), np.float32)
    ordered = np.sort(sizes)
    for step in range(steps):
        sells = u[step, :, 0] < np.minimum(chance[since - 1] * more[step], 0.98)
        pick = np.minimum((u[step, :, 1] * len(ordered)).astype(np.int64), len(ordered) - 1)
        found[:, step] = np.where(sells, ordered[pick] * rest[step], 0.0)
        since = np.where(sells, 1, np.minimum(since + 1, LONGEST_INTERVAL))
    return found


def sale_chance(intervals: NDArray[np.int64]) -> Floats:
    """The chance of a sale k + 1 periods after the last one (k = 0 … LONGEST_INTERVAL − 1), of a series' intervals.

    The hazard of its own intervals, drawn towards the constant hazard of the same mean by ten intervals' worth.
    """
    capped = np.minimum(intervals, LONGEST_INTERVAL)
    ends = np.bincount(capped, minlength=LONGEST_INTERVAL + 1)[1:].astype(float)
    alive = np.cumsum(ends[::-1])[::-1]
    constant = 1.0 / max(float(intervals.mean()), 1.0) if len(intervals) else 0.5
    chance: Floats = (ends + 10.0 * constant) / (alive + 10.0)
    chance[-1] = constant  # of the longest the sample ends
    return chance


def path_sums(drawn: NDArray[np.float32], *lengths: NDArray[np.int64]) -> list[Floats]:
    """For each of `lengths` (series × paths, or × 1), sums of that many first steps of each path (series × paths)."""
    sums = np.concatenate([np.zeros_like(drawn[:, :, :1]), np.cumsum(drawn, axis=2, dtype=np.float32)], axis=2)
    return [np.take_along_axis(sums, of[:, :, None], axis=2)[:, :, 0].astype(np.float64) for of in lengths]


def sum_quantiles(
    model: PathModel, lengths: NDArray[np.int64], quantiles: Sequence[float], *, paths: int = 500, seed: int = 1
) -> Floats:
    """Quantiles (series × quantiles) of the demand of the next `lengths[i]` periods of each series."""
    found = np.empty((len(model.series), len(quantiles)))
    for rows, drawn in model.blocks(paths, seed):
        (sums,) = path_sums(drawn, lengths[rows, None])
        found[rows] = np.quantile(sums, quantiles, axis=1, method="hazen").T
    return found
