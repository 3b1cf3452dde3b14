"""Paths of demand over the horizon, drawn from what the backtest got wrong: sums of steps are read off them.

Errors of neighbouring steps go together, so bounds of single steps do not add up to bounds of a sum. A path is a whole
window of the backtest's errors in standard deviations, of a series of the same kind, put on the series' own forecast;
what all series of a window share is drawn apart, since a backtest has seen it only a few times.
Three things would make the backtest look better than what comes. A window belongs to the kind that its series was of
before it: that a series sells often by now means that it sold well in its windows. A window's standard deviation is
that of the series' other windows. And a series that left the shelf is missing wholly, however large it was.
Series that rarely sell follow their own intervals between sales and their own sizes (see `rare_sales`); with too few
sales for that, what came of others that had sold as rarely (see `few_sales`). Series that began to sell not long ago
follow what came of others at the same age (see `beginners`).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from many_models.decisions import rare_sales
from many_models.decisions.beginners import Beginners, beginners
from many_models.decisions.few_sales import Analogues, analogues

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLASSES = (0.25, 0.6, 0.9)  # shares of periods with sales that part the kinds of series
INTERMITTENT = 0.6  # a series that sells in a smaller share of its periods follows intervals and sizes
LEAST_SALES = 4  # that tell of intervals; with fewer, windows of series that had sold as rarely say what may come
SMALLEST = 0.01  # of its kind's dispersion: what a series without errors is taken to have at least, before it is drawn
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
GONE = 0.1  # of its forecast: a window that sold less has lost its demand, which is no error of a usual size
ROUNDED = 10.0  # units a period: paths of whole units are rounded up to this forecast, beyond it nobody would notice
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

    def since_first_sale(self, i: int) -> Floats:
        """The known periods of series `i` from its first sale on."""
        own = self.of(i)
        return own[np.argmax(own > 0) :]

    def began(self) -> NDArray[np.int64]:
        """The place in `y` of each series' first sale, of its end where there is none."""
        sales = np.append(np.flatnonzero(np.nan_to_num(self.y) > 0), len(self.y))
        return np.minimum(sales[np.searchsorted(sales, self.start[:-1])], self.start[1:])

    def sold(self) -> Floats:
        """The share of each series' known periods since its first sale in which it sold: the periods before tell when
        it came to the shelf, not how often it sells. 0 without a sale, 1 where nothing is known.
        """
        known, sold = np.isfinite(self.y), np.nan_to_num(self.y) > 0
        found, sales = (np.concatenate([[0], np.cumsum(of)]) for of in (known, sold))
        counts, since = np.diff(found[self.start]), found[self.start[1:]] - found[self.began()]
        share = np.diff(sales[self.start]) / np.maximum(since, 1)
        return np.where(counts > 0, share, 1.0)

    def ages(self, unknown: int) -> NDArray[np.int64]:
        """How many periods ago each series was first sold. 0 where it was not, and where it may have been sold before:
        in the first `unknown` periods of the longest history.
        """
        age = self.start[1:] - self.began()
        longest = int(np.diff(self.start).max(initial=0))
        return np.where(age <= longest - unknown, age, 0)

    def whole(self) -> NDArray[np.bool_]:
        """Which series are counted in whole units, as far as their periods tell."""
        broken = np.nan_to_num(np.mod(self.y, 1.0)) > 0
        return np.diff(np.concatenate([[0], np.cumsum(broken)])[self.start]) == 0

    def before(self, windows: int, steps: int) -> Before:
        """What was known before each window of a backtest whose last window ends with the history."""
        known = np.isfinite(self.y)
        y = np.where(known, self.y, 0.0)
        begin = self.start[:-1, None]
        edges = np.concatenate([begin, np.maximum(self.start[1:, None] - steps * np.arange(windows, 0, -1), begin)], 1)
        empty, found = np.diff(edges, axis=1) == 0, list["Floats"]()
        with np.errstate(over="ignore"):
            squares = y**2
        for values in (known, y > 0, y, squares):  # part by part: what is wild in one series is in no other's sum
            parts = np.add.reduceat(np.append(values, 0.0), edges.ravel()).reshape(edges.shape)[:, :-1]
            found.append(np.where(empty, 0.0, parts).cumsum(1))
        at, begun = np.concatenate([[0], np.cumsum(known)]), self.began()[:, None]
        found.append(np.maximum(at[edges[:, 1:]] - at[begun], 0).astype(np.float64))
        return Before(*found)

    def chosen(self, rows: NDArray[np.int64]) -> Histories:
        """The histories of some series."""
        own = [self.y[self.start[i] : self.start[i + 1]] for i in rows]
        sizes = np.array([len(one) for one in own], np.int64)
        y = np.concatenate(own) if own else np.zeros(0)
        return Histories(y, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


@dataclass(frozen=True)
class Before:
    """Of each series before each window of its backtest (series × windows): how many `periods` were known, in how many
    it sold (`sales`), what it `sold`, the sum of its `squares`, and how many periods were known `since` its first sale.
    """

    periods: Floats
    sales: Floats
    sold: Floats
    squares: Floats
    since: Floats

    def share(self) -> Floats:
        """The share of periods with sales since the first one, NaN where nothing was known."""
        return np.where(self.periods > 0, self.sales / np.maximum(self.since, 1.0), np.nan)

    def kind(self, now: NDArray[np.int64]) -> NDArray[np.int64]:
        """The kind that the series was of then; that it is of `now` where nothing was known."""
        share = self.share()
        then = np.searchsorted(CLASSES, np.nan_to_num(share), side="right").astype(np.int64)
        return np.where(np.isnan(share), now[:, None], then)


@dataclass(frozen=True)
class Draws:
    """Windows of a kind as the next one may be, ordered by their sums; and beside them those that lost their demand: a
    `share` of all windows, of which each sold only so much of its forecast (`left`, in order).
    """

    windows: Floats
    share: float
    left: Floats

    def paths(
        self, u: NDArray[np.float32], y_hat: NDArray[np.float32], sigma: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Paths (series × paths × steps) of the ranks `u` (series × paths), the forecasts and their deviations."""
        rank = np.clip((u - self.share) / max(1.0 - self.share, 1e-9), 0.0, 1.0)
        pick = np.minimum((rank * len(self.windows)).astype(np.int64), len(self.windows) - 1)
        found: NDArray[np.float32] = self.windows.astype(np.float32)[pick]
        found *= sigma[:, None, :]
        found += y_hat[:, None, :]
        series, path = np.nonzero(u < self.share)
        if len(series):
            at = np.minimum((u[series, path] / self.share * len(self.left)).astype(np.int64), len(self.left) - 1)
            found[series, path] = y_hat[series] * self.left.astype(np.float32)[at, None]
        return found


@dataclass(frozen=True)
class PathModel:
    """What paths are drawn from: see `fit_paths`."""

    series: list[str]
    y_hat: Floats
    dispersion: Floats
    power: Floats
    kind: NDArray[np.int64]
    pools: Sequence[Floats]  # of each kind, the windows of the backtest
    draws: Sequence[Draws]  # of each kind, what the next window may be
    histories: Histories
    whole: NDArray[np.bool_]  # which series have paths of whole units
    renewal: NDArray[np.bool_]
    levels: Sequence[Floats]  # of each kind, the shares of `rare_sales.LEVELS`, of series that rarely sell
    few: NDArray[np.bool_]  # which series have sold too rarely for that
    alike: Analogues  # windows that began with as few sales
    young: NDArray[np.bool_]  # which series began to sell not long ago
    beginners: Beginners  # windows of series that were as young
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
            whole=self.whole[rows],
            renewal=self.renewal[rows],
            few=self.few[rows],
            young=self.young[rows],
        )

    def wider(self, factors: Floats) -> PathModel:
        """The model whose errors are that many times as large; a series that rarely sells keeps its own intervals and
        sizes, and a beginner what came of others.
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
        dense = np.flatnonzero(~self.renewal[rows] & ~self.few[rows] & ~self.young[rows])
        uniforms, places = (np.empty((len(rows), half), np.float32) for _ in range(2))
        levels = [rare_sales.levels_of(shares, 2 * half) for shares in self.levels]
        rare = rows[self.renewal[rows]].tolist()
        selling = {i: rare_sales.selling(self.histories.of(i), self.y_hat[i]) for i in rare}
        expected = dict(zip(rare, rare_sales.expected_sales(list(selling.values())), strict=True))
        for at, i in enumerate(rows.tolist()):
            rng = seeded(seed, self.series[i])
            if self.renewal[i]:
                own, order = levels[int(self.kind[i])], rng.permutation(half)
                lift = np.concatenate([own[:half][order], own[::-1][:half][order]])[:paths]
                found[at] = rare_sales.paths(rng, selling[i], expected[i], lift)
            elif self.young[i]:
                found[at] = self.beginners.paths(rng, self.histories.since_first_sale(i), paths)
            elif self.few[i]:
                found[at] = self.alike.paths(rng, self.histories.of(i), paths)
            else:
                uniforms[at] = (rng.permutation(half) + rng.random(half)) / (2 * half)
            places[at] = rng.random(half)
        if len(dense):
            found[dense] = self._error_paths(rows[dense], uniforms[dense], paths)
        whole = np.flatnonzero(self.whole[rows])
        if len(whole):
            found[whole] = whole_units(found[whole], places[whole])
        return found

    def _error_paths(self, rows: NDArray[np.int64], u: NDArray[np.float32], paths: int) -> NDArray[np.float32]:
        """Forecasts and windows of errors: ranks u and 1 − u of what the next window of a kind may be."""
        u = np.concatenate([u, 1.0 - u], axis=1)[:, :paths]
        found = np.empty((len(rows), paths, self.y_hat.shape[1]), np.float32)
        y_hat = self.y_hat[rows]
        sigma = deviations(y_hat, self.dispersion[rows, None], self.power[rows, None]).astype(np.float32)
        for kind, draws in enumerate(self.draws):
            mine = np.flatnonzero(self.kind[rows] == kind)
            if len(mine):
                found[mine] = draws.paths(u[mine], y_hat[mine].astype(np.float32), sigma[mine])
        return np.maximum(found, 0.0, out=found) if self.nonnegative else found


def whole_units(drawn: NDArray[np.float32], places: NDArray[np.float32]) -> NDArray[np.float32]:
    """The paths `drawn` (series × paths × steps) in whole units: what a step has too little for one stays for the next
    steps, so a path's sums are less than a unit off, and as often too high as too low. Each path begins with a part of
    a unit that `places` say (series × half the paths, from 0 to 1), its twin with the rest of the unit.
    """
    inner = 0.001 + 0.998 * places  # whole numbers stay what they are, whatever is lost in the last digit
    begun = np.concatenate([inner, 1.0 - inner], axis=1)[:, : drawn.shape[1], None]
    sums = np.add.accumulate(drawn, axis=2)
    sums += begun
    np.floor(sums, out=sums)
    sums[:, :, 1:] -= sums[:, :, :-1].copy()
    return sums


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
    pools = [_pool(scaled[kind == k], everyone) for k in range(len(CLASSES) + 1)]
    before = histories.before(*error.shape[1:])
    gone = _gone(backtest) if nonnegative else np.zeros(error.shape[:2], bool)
    others = _by_other_windows(error, past, known, power, kind)
    sales = np.array([np.count_nonzero(histories.of(i) > 0) if sold[i] < INTERMITTENT else 0 for i in range(len(sold))])
    age, as_young = histories.ages(error.shape[2]), beginners(histories, error.shape[2])
    young = (age > 0) & (age <= as_young.oldest()) & nonnegative
    rare = (sold < INTERMITTENT) & nonnegative & ~young
    renewal = rare & (sales >= LEAST_SALES)
    alike = analogues(backtest, histories, LEAST_SALES - 1, INTERMITTENT)
    few = rare & ~renewal & alike.there(FEW_WINDOWS, LEAST_SALES - 1)[np.minimum(sales, LEAST_SALES - 1)]
    return PathModel(
        list(series),
        np.nan_to_num(y_hat),
        dispersion,
        power,
        kind,
        pools,
        _draws(others, gone, backtest, before.kind(kind)),
        histories,
        histories.whole() & (np.nan_to_num(np.abs(y_hat)).mean(1) < ROUNDED),
        renewal,
        level_shares(error, backtest, before, kind),
        few,
        alike,
        young,
        as_young,
        nonnegative,
    )


def _gone(backtest: Backtest) -> NDArray[np.bool_]:
    """Which windows (series × windows) have sold next to nothing of their forecast."""
    return _left(backtest) < GONE


def _left(backtest: Backtest) -> Floats:
    """What each window sold (series × windows), over its forecast of the known steps; NaN without a forecast."""
    known = np.isfinite(backtest.y) & np.isfinite(backtest.y_hat)
    sold, forecast = (np.where(known, values, 0.0).sum(2) for values in (backtest.y, backtest.y_hat))
    return np.where(forecast > 0, sold / np.where(forecast > 0, forecast, 1.0), np.nan)


def _by_other_windows(
    error: Floats, y_hat: Floats, known: NDArray[np.bool_], power: Floats, kind: NDArray[np.int64]
) -> Floats:
    """Errors (series × windows × steps) in standard deviations as the windows other than their own tell them: a window
    is as far out as the next one will be, which has no part in what is estimated either.

    One window less makes the estimate less sure than the next window's, and the errors look wider. Of W windows, the
    estimate by the others therefore counts (W - 1) / W and that by all of them 1 / W, on the log scale.
    """
    found = np.empty(error.shape)
    size = np.where(known, _size(y_hat, power[:, None, None]), 0.0)
    by_all = _dispersions(np.where(known, error, 0.0), size, known.sum((1, 2)), kind)
    windows = error.shape[1]
    for window in range(windows):
        rest = known.copy()
        rest[:, window] = False
        by_others = _dispersions(np.where(rest, error, 0.0), np.where(rest, size, 0.0), rest.sum((1, 2)), kind)
        dispersion = by_others ** (1 - 1 / windows) * by_all ** (1 / windows)
        found[:, window] = error[:, window] / deviations(y_hat[:, window], dispersion[:, None], power[:, None])
    return found


def _draws(scaled: Floats, gone: NDArray[np.bool_], backtest: Backtest, kind: NDArray[np.int64]) -> list[Draws]:
    """What the next window of each kind may be, of the windows of all series (`kind` is series × windows); a kind with
    few windows takes those of all.
    """
    usable, left = _usable(scaled), _left(backtest)
    errors = np.where(gone[..., None], np.nan, scaled)

    def of(mine: NDArray[np.bool_]) -> Draws:
        lost = np.sort(left[mine & usable & gone])
        windows = _thinned(_of_next_window(np.where(mine[..., None], errors, np.nan)))
        return Draws(windows, len(lost) / max(int((mine & usable).sum()), 1), np.maximum(lost, 0.0))

    every = of(np.ones_like(usable))
    kinds = [kind == k for k in range(len(CLASSES) + 1)]
    return [of(mine) if (mine & usable).sum() >= FEW_WINDOWS else every for mine in kinds]


def level_shares(error: Floats, backtest: Backtest, before: Before, kind: NDArray[np.int64]) -> Sequence[Floats]:
    """Of each kind the shares of `rare_sales.LEVELS`, by the windows of series that had rarely sold before them, but
    often enough to tell of sizes (`error` is series × windows × steps, NaN where a window is unknown).
    """
    known = np.isfinite(backtest.y)
    steps = known.sum(2).astype(np.float64)
    forecast = np.where(known, np.maximum(np.nan_to_num(backtest.y_hat), 0.0), 0.0).sum(2)
    sold = np.where(known, np.nan_to_num(backtest.y), 0.0).sum(2)
    rare = (np.nan_to_num(before.share(), nan=1.0) < INTERMITTENT) & (before.sales >= LEAST_SALES)
    rare &= np.isfinite(error).all(2) & (forecast > 0) & (before.sold > 0) & np.isfinite(before.squares)
    size, square = before.sold[rare] / before.sales[rare], before.squares[rare] / before.sold[rare]
    windows = rare_sales.Windows(sold[rare], forecast[rare], steps[rare], size, square)
    return rare_sales.shares_by_kind(windows, before.kind(kind)[rare], len(CLASSES) + 1, FEW_WINDOWS)


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
    alone = np.repeat(alone, max(1, POOL // len(alone)), axis=0)
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


def path_sums(drawn: NDArray[np.float32], *lengths: NDArray[np.int64]) -> list[Floats]:
    """For each of `lengths` (series × paths, or × 1), sums of that many first steps of each path (series × paths)."""
    sums = np.concatenate([np.zeros_like(drawn[:, :, :1]), np.add.accumulate(drawn, axis=2)], axis=2)
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
