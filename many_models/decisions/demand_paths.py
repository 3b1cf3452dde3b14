"""Paths of demand over the horizon, drawn from what the backtest got wrong: sums of steps are read off them.

Errors of neighbouring steps go together, so bounds of single steps do not add up to bounds of a sum. A path is a whole
window of the backtest's errors in standard deviations, of a series of the same kind, put on the series' own forecast;
what all series of a window share is drawn apart, since a backtest has seen it only a few times.
Series that rarely sell follow their own intervals between sales and their own sizes (a renewal process; compare
Willemain, Smart & Schwarz 2004), scaled to the forecast; with too few sales for that, what came of others that had sold
as rarely (see `few_sales`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from many_models.decisions.few_sales import Analogues, analogues

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLASSES = (0.25, 0.6, 0.9)  # shares of periods with sales that part the kinds of series
INTERMITTENT = 0.6  # a series that sells in a smaller share of its periods follows intervals and sizes
LEAST_SALES = 4  # that tell of intervals; with fewer, windows of series that had sold as rarely say what may come
LONGEST_INTERVAL = 60  # from which on the chance of a sale stays
SMALLEST = 0.01  # of its kind's dispersion: what a series without errors is taken to have at least, before it is drawn
SURPRISE = 4.0  # a squared error, over what is expected, that tells no more if it is larger
MOST_VARIANCE = 4.0  # of a window's level, over its forecast
DEPENDENT = 2.0  # times as uncertain is a variance of errors that go together
LEAST_SPREAD = 0.005  # variance of the logarithms of dispersions within a kind, at least
FAULT = 1e4  # times a series' mean forecast, beyond which an error is a fault of the data
LEAST_WINDOWS = 2  # that tell what the series of a window share
MOST_LUCK = 6.0  # standard deviations that a draw of it may be off
LEAST_LEVEL = 0.05  # forecasts below it have errors as large as those at it
POWERS = (1.0, 1.25, 1.5, 1.75, 2.0)
FEW_WINDOWS = 30  # of a kind, below which what all series say is taken
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
    power: Floats
    kind: NDArray[np.int64]
    pools: Sequence[Floats]  # of each kind, the windows of the backtest
    draws: Sequence[Floats]  # of each kind, windows as the next one may be, ordered by their sums
    histories: Histories
    renewal: NDArray[np.bool_]
    levels: Floats  # of each kind, the variance of a window's level over its forecast, of series that rarely sell
    few: NDArray[np.bool_]  # which series have sold too rarely for that
    alike: Analogues  # windows that began with as few sales
    nonnegative: bool

    def of(self, rows: NDArray[np.int64]) -> PathModel:
        """The model of some series, whose paths are the same as among all."""
        return replace(
            self,
            series=[self.series[i] for i in rows.tolist()],
            y_hat=self.y_hat[rows],
            dispersion=self.dispersion[rows],
            power=self.power[rows],
            kind=self.kind[rows],
            histories=self.histories.chosen(rows),
            renewal=self.renewal[rows],
            few=self.few[rows],
        )

    def wider(self, factors: Floats) -> PathModel:
        """The model whose errors are that many times as large; a series that rarely sells keeps its own intervals and
        sizes.
        """
        return replace(self, dispersion=self.dispersion * factors**2)

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
        dense = np.flatnonzero(~self.renewal[rows] & ~self.few[rows])
        uniforms = np.empty((len(rows), half), np.float32)
        lifts = [_lifts(float(variance), half) for variance in self.levels]
        for at, i in enumerate(rows.tolist()):
            rng = seeded(seed, self.series[i])
            if self.renewal[i]:
                low, high = lifts[int(self.kind[i])]
                order = rng.permutation(half)
                lift = np.concatenate([low[order], high[order]])[:paths]
                found[at] = _renewal_paths(rng, self.histories.of(i), self.y_hat[i], lift)
            elif self.few[i]:
                found[at] = self.alike.paths(rng, self.histories.of(i), self.y_hat[i], paths, FEW_WINDOWS)
            else:
                uniforms[at] = (rng.permutation(half) + rng.random(half)) / (2 * half)
        if len(dense):
            found[dense] = self._error_paths(rows[dense], uniforms[dense], paths)
        return found

    def _error_paths(self, rows: NDArray[np.int64], u: NDArray[np.float32], paths: int) -> NDArray[np.float32]:
        """Forecasts and windows of errors: ranks u and 1 − u of the windows of a kind, ordered by their sums."""
        u = np.concatenate([u, 1.0 - u], axis=1)[:, :paths]
        found = np.empty((len(rows), paths, self.y_hat.shape[1]), np.float32)
        sigma = deviations(self.y_hat[rows], self.dispersion[rows, None], self.power[rows, None]).astype(np.float32)
        for kind, pool in enumerate(self.draws):
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
    error, past = backtest.errors(), np.nan_to_num(backtest.y_hat)
    known = np.isfinite(error) & ~np.isnan(backtest.y)
    error_known, count = np.where(known, error, 0.0), known.sum((1, 2))
    power = powers(error_known, past, known, kind)
    size = np.where(known, _size(past, power[:, None, None]), 0.0)
    dispersion = _dispersions(error_known, size, count, kind)
    scaled = error / deviations(past, dispersion[:, None, None], power[:, None, None])
    everyone = _pool(scaled)
    kinds = [scaled[kind == k] for k in range(len(CLASSES) + 1)]
    pools = [_pool(of, everyone) for of in kinds]
    of_all = _thinned(_of_next_window(scaled))
    draws = [
        of_all if pool is everyone else _thinned(_of_next_window(of)) for of, pool in zip(kinds, pools, strict=True)
    ]
    sales = np.array([np.count_nonzero(histories.of(i) > 0) if sold[i] < INTERMITTENT else 0 for i in range(len(sold))])
    rare = (sold < INTERMITTENT) & nonnegative
    renewal = rare & (sales >= LEAST_SALES)
    alike = analogues(backtest, histories, LEAST_SALES - 1, INTERMITTENT)
    few = rare & ~renewal & alike.there(FEW_WINDOWS, LEAST_SALES - 1)[np.minimum(sales, LEAST_SALES - 1)]
    levels = level_variances(error, past, histories, kind, renewal)
    return PathModel(
        list(series),
        np.nan_to_num(y_hat),
        dispersion,
        power,
        kind,
        pools,
        draws,
        histories,
        renewal,
        levels,
        few,
        alike,
        nonnegative,
    )


def powers(error: Floats, y_hat: Floats, known: NDArray[np.bool_], kind: NDArray[np.int64]) -> Floats:
    """The power of the level with which the variance of each series' errors grows (series × windows × steps; `error` 0
    where not `known`): that of its kind, of `POWERS` the most likely one. 1 is that of counts, 2 that of errors in
    proportion to the level.

    By the normal likelihood, each series having its own dispersion: only how errors change with the level within a
    series tells. A kind with few windows takes that of all series.
    """
    count = known.sum((1, 2))
    level = np.log(np.maximum(np.abs(y_hat), LEAST_LEVEL))
    logs = np.where(known, level, 0.0).sum((1, 2))
    likelihood = np.empty((len(POWERS), len(count)))
    for at, power in enumerate(POWERS):
        dispersion = (error**2 * np.exp(-power * level)).sum((1, 2)) / np.maximum(count, 1)
        some = (count > 0) & (dispersion > 0)
        likelihood[at] = np.where(some, -(count * np.log(np.where(some, dispersion, 1.0)) + power * logs) / 2.0, 0.0)
    found = np.full(len(count), POWERS[int(likelihood.sum(1).argmax())])
    for k in range(len(CLASSES) + 1):
        mine = kind == k
        if known[mine].any(2).sum() >= FEW_WINDOWS:
            found[mine] = POWERS[int(likelihood[:, mine].sum(1).argmax())]
    return found


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


def deviations(y_hat: Floats, dispersion: Floats, power: Floats) -> Floats:
    """Standard deviations of errors of the forecasts `y_hat`: variance grows with a `power` of the level."""
    return np.sqrt(np.maximum(dispersion * _size(y_hat, power), 1e-24))


def _size(y_hat: Floats, power: Floats) -> Floats:
    return np.maximum(np.abs(y_hat), LEAST_LEVEL) ** power


def _median(values: Floats, otherwise: Floats) -> float:
    """The median of what is finite, of all series where their kind has none, 1 where there is nothing."""
    for some in (values[np.isfinite(values)], otherwise[np.isfinite(otherwise)]):
        if len(some):
            return float(np.median(some))
    return 1.0


def _pool(scaled: Floats, otherwise: Floats | None = None) -> Floats:
    """Whole windows of standardised errors (windows × steps) of series × windows × steps; `otherwise` where there are
    few.
    """
    windows = scaled[_usable(scaled)]
    if len(windows) < FEW_WINDOWS and otherwise is not None:
        return otherwise
    return windows * (1.0 + WIDER / scaled.shape[1]) if len(windows) else np.zeros((1, scaled.shape[2]))


def _usable(scaled: Floats) -> NDArray[np.bool_]:
    return np.asarray((np.abs(np.nan_to_num(scaled, nan=np.inf)) <= WILD).all(2))


def _of_next_window(scaled: Floats) -> Floats:
    """Windows of standardised errors as the next window may have them, of series × windows × steps of the backtest.

    The series of a window share some luck (weather, a trend that was missed), and a backtest has few windows. What a
    series has alone is taken as it was. In the place of what they share comes a draw of a multivariate t distribution
    about its mean; its scale is the windows' second moment, its degrees of freedom are their number: the next window's
    luck may be further off than that of a few was.
    """
    usable = _usable(scaled)
    told = usable.any(0)
    if told.sum() < LEAST_WINDOWS or usable.sum() < FEW_WINDOWS:
        return _pool(scaled)
    number = usable.sum(0)[:, None]
    shared = np.where(usable[..., None], scaled, 0.0).sum(0) / np.maximum(number, 1)
    alone = (scaled - shared)[usable]
    alone = np.repeat(alone, max(1, -(-POOL // len(alone))), axis=0)
    rng, windows = np.random.default_rng(1), int(told.sum())
    half = -(-len(alone) // 2)
    luck = rng.normal(size=(half, windows)) * np.sqrt(windows / rng.chisquare(windows, (half, 1)))
    luck = np.clip(np.concatenate([luck, -luck])[rng.permutation(2 * half)[: len(alone)]], -MOST_LUCK, MOST_LUCK)
    drawn = luck @ shared[told] / np.sqrt(windows)
    return (alone + shared[told].mean(0) + drawn) * (1.0 + WIDER / scaled.shape[1])


def _thinned(windows: Floats) -> Floats:
    """Windows ordered by their sums; many are thinned evenly along that order, so that the draw stays quick and the
    tails are kept.
    """
    windows = windows[np.argsort(windows.sum(1), kind="stable")]
    if len(windows) > POOL:
        windows = windows[np.linspace(0, len(windows) - 1, POOL).round().astype(int)]
    return windows


def seeded(seed: int, name: str) -> np.random.Generator:
    """A generator of a series' own: what is drawn for it does not depend on the others."""
    return np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))


def level_variances(
    error: Floats, y_hat: Floats, histories: Histories, kind: NDArray[np.int64], renewal: NDArray[np.bool_]
) -> Floats:
    """Of each kind, the variance of the level of a window's sales over its forecast, beyond what intervals and sizes
    explain (`error` and `y_hat` are series × windows × steps, an error is NaN where its window is unknown).

    The one with which squared errors of windows' sums are as large as expected (Paule & Mandel 1982); 0 where they
    already are without.
    """
    steps = y_hat.shape[2]
    off, total = error.sum(2), np.maximum(y_hat, 0.0).sum(2)
    ratio = np.zeros(len(kind))  # mean square of sizes over their mean
    for i in np.flatnonzero(renewal).tolist():
        past = histories.of(i)
        sizes = past[past > 0]
        ratio[i] = float((sizes**2).mean() / sizes.mean())
    chance = np.maximum(total * ratio[:, None] - total**2 / steps, 0.0)
    found = np.zeros(len(CLASSES) + 1)
    for k in range(len(found)):
        mine = (renewal & (kind == k))[:, None] & np.isfinite(off) & (chance > 0)
        mine &= off**2 <= WILD**2 * np.where(mine, chance, 1.0)
        if mine.sum() >= FEW_WINDOWS:
            found[k] = _explaining(off[mine] ** 2, chance[mine], total[mine] ** 2)
    return found


def _explaining(squares: Floats, chance: Floats, levels: Floats) -> float:
    """The variance v with which squares / (chance + v × levels) are on average as those of a normal distribution, each
    at most SURPRISE (Huber 1981, proposal 2: a few surprises do not decide it); at most MOST_VARIANCE, at least 0.
    """
    from scipy.special import ndtr

    edge = SURPRISE**0.5
    tail = 2.0 * (1.0 - float(ndtr(edge)))
    usual = 1.0 - tail - 2.0 * edge * float(np.exp(-SURPRISE / 2) / np.sqrt(2 * np.pi)) + SURPRISE * tail

    def too_large(variance: float) -> bool:
        return float(np.minimum(squares / (chance + variance * levels), SURPRISE).mean()) > usual

    low, high = 0.0, MOST_VARIANCE
    if not too_large(low):
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if too_large(middle) else (low, middle)
    return high


def _lifts(variance: float, number: int) -> tuple[Floats, Floats]:
    """A gamma distribution of mean 1: its quantiles of `number` shares of the lower half, and their twins above."""
    if variance <= 0:
        return np.ones(number), np.ones(number)
    from scipy.special import gammaincinv

    shares = (np.arange(number) + 0.5) / (2 * number)
    both = gammaincinv(1.0 / variance, np.concatenate([shares, 1.0 - shares])) * variance
    both /= both.mean()
    return both[:number], both[number:]


def _renewal_paths(rng: np.random.Generator, past: Floats, y_hat: Floats, levels: Floats) -> NDArray[np.float32]:
    """Paths (paths × steps) of a series that rarely sells: whether it sells depends on how long ago it last did. Each
    path has a level of `levels`, times the forecast.
    """
    steps, paths = len(y_hat), len(levels)
    at = np.flatnonzero(past > 0)
    sizes = past[at]
    chance = sale_chance(np.diff(at))
    rate = float(len(at)) / len(past)
    lift = np.maximum(y_hat, 0.0)[:, None] * levels / max(rate * float(sizes.mean()), 1e-12)
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
