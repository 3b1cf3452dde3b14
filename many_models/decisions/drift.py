"""Whether a series does what its backtest promised: sequential tests whose false alarms are set.

Each realised error is ranked among the backtest's standardised errors of series of the same kind; the normal score of
that rank is standard normal while nothing has changed. CUSUM charts (Page 1954) add up what points to a change: of the
level (a shift of `LEVEL_SHIFT` deviations either way), of the bias (a small lasting one), of the coverage (more errors
outside the 80 % band). Their limits come from the Markov chain of Brook & Evans (1972).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.decisions.demand_paths import WILD, deviations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import PathModel

    Floats = NDArray[np.float64]

LEVEL_SHIFT, BIAS_SHIFT = 1.6, 0.6  # in standard deviations of an error: what the charts find soonest
OUTSIDE, MORE_OUTSIDE = 0.2, 0.5  # share of errors outside the 80 % band, and the share that is a change
KINDS = ("level", "bias", "coverage")
HELD_BACK = 0.6  # of the false alarms: a series' spread is estimated, and an estimate too small alarms more often
MONTH = 30  # periods that the false alarms are set for
CELL = 0.04  # width of the Markov chain's states
BURN_IN = 60  # periods after which a chart has forgotten that it began at 0
LARGEST_SCORE = 4.0  # no single error may make an alarm


@dataclass(frozen=True)
class Found:
    """What the charts say, per series: `alarm` is the period of the last alarm (−1: none), `began` the period at which
    its chart left 0, `kind` its position in KINDS, `direction` 1 up, −1 down, `charts` the charts' values over their
    limits at the end (series × KINDS).
    """

    alarm: NDArray[np.int64]
    began: NDArray[np.int64]
    kind: NDArray[np.int64]
    direction: NDArray[np.int64]
    charts: Floats


def watch(scores: Floats, false_alarms: float = 0.001) -> Found:
    """The charts over normal scores of errors (series × periods, NaN where nothing came).

    `false_alarms` is the share of series that alarm in a month of `MONTH` periods though nothing changed. After an
    alarm a series' charts begin again at 0.
    """
    n, periods = scores.shape
    limits = np.array(chart_limits(false_alarms))
    steps = np.array([LEVEL_SHIFT / 2, BIAS_SHIFT / 2])
    up, down = np.zeros((n, 2)), np.zeros((n, 2))
    outside = np.zeros(n)
    alarm, began, kind, direction = np.full(n, -1), np.full(n, -1), np.full(n, -1), np.zeros(n, np.int64)
    rest = np.zeros((n, 5), np.int64)  # the period after each chart last was 0: up, down, outside
    miss, hit = coverage_steps()
    band = normal_quantile(1 - OUTSIDE / 2)
    for at in range(periods):
        z = scores[:, at]
        seen = np.isfinite(z)
        z = np.where(seen, z, 0.0)
        up = np.where(seen[:, None], np.maximum(up + z[:, None] - steps, 0.0), up)
        down = np.where(seen[:, None], np.maximum(down - z[:, None] - steps, 0.0), down)
        outside = np.where(seen, np.maximum(outside + np.where(np.abs(z) > band, miss, hit), 0.0), outside)
        rest[np.column_stack([up, down, outside]) <= 0] = at + 1
        over = np.column_stack([np.maximum(up, down) / limits[:2], outside / limits[2]])
        fired = (over > 1.0).any(1)
        if fired.any():
            alarm[fired] = at
            kind[fired] = over[fired].argmax(1)
            way = np.minimum(kind[fired], 1)
            rows = np.flatnonzero(fired)
            direction[fired] = np.where(up[rows, way] >= down[rows, way], 1, -1)
            chart = np.where(kind[fired] == len(KINDS) - 1, 4, way + np.where(direction[fired] > 0, 0, 2))
            began[fired] = rest[rows, chart]
            up[fired], down[fired], outside[fired] = 0.0, 0.0, 0.0
            rest[fired] = at + 1
    charts = np.column_stack([np.maximum(up, down) / limits[:2], outside / limits[2]])
    return Found(alarm, began, kind, direction, charts)


def coverage_steps() -> tuple[float, float]:
    """What an error outside the band, and one inside it, adds to the chart of coverage: log likelihood ratios."""
    return float(np.log(MORE_OUTSIDE / OUTSIDE)), float(np.log((1 - MORE_OUTSIDE) / (1 - OUTSIDE)))


@lru_cache(maxsize=8)
def chart_limits(false_alarms: float) -> tuple[float, float, float]:
    """The limits of the charts, each of which gets a third of the false alarms (the two sides of a chart half each)."""
    grid = np.arange(-LARGEST_SCORE, LARGEST_SCORE + CELL / 2, CELL)
    weight = np.diff(np.array([0.0, *normal_cdf(grid[:-1] + CELL / 2), 1.0]))
    share = HELD_BACK * false_alarms / 3
    level, bias = (_limit(grid - shift / 2, weight, share / 2) for shift in (LEVEL_SHIFT, BIAS_SHIFT))
    miss, hit = coverage_steps()
    return level, bias, _limit(np.array([hit, miss]), np.array([1 - OUTSIDE, OUTSIDE]), share)


def _limit(increments: Floats, weight: Floats, share: float) -> float:
    """The least limit that a chart with these increments passes in at most `share` of months."""
    low, high = 0.0, 40.0
    while high - low > CELL:
        middle = (low + high) / 2
        if passed_in_a_month(increments, weight, middle) <= share:
            high = middle
        else:
            low = middle
    return high


def passed_in_a_month(increments: Floats, weight: Floats, limit: float) -> float:
    """The chance that a chart passes `limit` within `MONTH` periods, once it has forgotten its beginning."""
    states = int(np.ceil(limit / CELL)) + 1
    centre = np.arange(states) * CELL
    target = np.rint(np.maximum(centre[:, None] + increments[None, :], 0.0) / CELL).astype(np.int64)
    move = np.zeros((states, states + 1))
    np.add.at(move, (np.arange(states)[:, None], np.minimum(target, states)), weight[None, :])
    chance = np.zeros(states)
    chance[0] = 1.0
    for _ in range(BURN_IN):
        chance = chance @ move[:, :states]
        chance /= chance.sum()
    passed = 0.0
    for _ in range(MONTH):
        passed += float(chance @ move[:, states])
        chance = chance @ move[:, :states]
    return passed


def scores_of(model: PathModel, y: Floats, y_hat: Floats) -> Floats:
    """Normal scores (series × periods) of realised errors among the backtest's of series of the same kind.

    `y` and `y_hat` are NaN where nothing came. What neighbouring errors of the backtest have in common is taken out:
    a chart adds up what is new.
    """
    return new_in(model, plain_scores(model, y, y_hat))


def plain_scores(model: PathModel, y: Floats, y_hat: Floats) -> Floats:
    """Normal scores of errors as they are, what they have in common with neighbours left in: how large they are."""
    return _by_kind(model, scaled_errors(model, y, y_hat), normal_scores)


def scaled_errors(model: PathModel, y: Floats, y_hat: Floats) -> Floats:
    """Errors (series × periods) in the standard deviations of the backtest; NaN where unknown or out of proportion."""
    r = (y - y_hat) / deviations(np.nan_to_num(y_hat), model.dispersion[:, None], model.power[:, None])
    r[np.abs(np.nan_to_num(r)) > WILD] = np.nan
    return r


def new_in(model: PathModel, scores: Floats) -> Floats:
    """What is new in `plain_scores`: see `scores_of`."""
    return _by_kind(model, scores, lambda pool, own: whitened(own, neighbours(normal_scores(pool.ravel(), pool))))


def _by_kind(model: PathModel, values: Floats, of: Callable[[Floats, Floats], Floats]) -> Floats:
    """What `of` makes of the windows of each kind and of the values (series × periods) of its series. Steps of windows
    that have no error at all are NaN: on closed days nothing is known.
    """
    found = np.full(values.shape, np.nan)
    for kind, pool in enumerate(model.pools):
        rows = np.flatnonzero(model.kind == kind)
        if len(rows):
            found[rows] = of(np.where(pool == 0, np.nan, pool), values[rows])
    return found


def normal_scores(sample: Floats, values: Floats) -> Floats:
    """Normal scores of `values` among `sample`, in the middle of ties; at most LARGEST_SCORE. NaN stays, and is
    left out of the sample.
    """
    ordered = np.sort(sample[np.isfinite(sample)])
    low, high = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    share = (low + high + 1.0) / (2.0 * (len(ordered) + 1.0))
    scores = normal_quantile(np.clip(share, 1e-5, 1 - 1e-5))
    return np.where(np.isnan(values), np.nan, np.clip(scores, -LARGEST_SCORE, LARGEST_SCORE))


def neighbours(scores: Floats) -> float:
    """The correlation of neighbouring scores within windows (windows × steps, NaN unknown), never below 0."""
    known = np.isfinite(scores)
    both = known[:, 1:] & known[:, :-1]
    if not both.any() or scores[known].std() <= 0:
        return 0.0
    z = (scores - scores[known].mean()) / scores[known].std()
    return float(np.clip((z[:, 1:] * z[:, :-1])[both].mean(), 0.0, 0.9))


def whitened(scores: Floats, correlation: float) -> Floats:
    """Scores without what the one before foretold: standard normal again where correlation is all there was."""
    before = np.concatenate([np.full((len(scores), 1), np.nan), scores[:, :-1]], axis=1)
    fresh = (scores - correlation * before) / np.sqrt(1.0 - correlation**2)
    return np.where(np.isnan(before), scores, fresh)


def normal_quantile(share: object) -> Floats:
    """The standard normal's quantile."""
    from scipy.special import ndtri

    return np.asarray(ndtri(share), np.float64)


def normal_cdf(values: Floats) -> Floats:
    """The standard normal's distribution function."""
    from scipy.special import ndtr

    return np.asarray(ndtr(values), np.float64)


def drift_table(
    series: Sequence[str], ds: NDArray[np.datetime64], found: Found, widen: Floats, recent: int
) -> pa.Table:
    """A row per series: series_id, drifted (an alarm in the last `recent` periods), kind, direction, began_at (where
    its chart left 0), alarmed_at, the charts over their limits (level, bias, coverage), and `widen`, how many times as
    wide its interval should be.
    """
    alarmed = found.alarm >= 0
    drifted = alarmed & (found.alarm >= len(ds) - recent)
    began, at = (
        ds[np.maximum(of, 0)] if len(ds) else np.zeros(len(series), "datetime64[us]")
        for of in (found.began, found.alarm)
    )
    names = np.array([*KINDS, None], object)
    ways = np.array(["down", None, "up"], object)
    return pa.table(
        {
            "series_id": pa.array(list(series), pa.string()),
            "drifted": pa.array(drifted),
            "kind": pa.array(names[np.where(alarmed, found.kind, len(KINDS))], pa.string()),
            "direction": pa.array(ways[np.where(alarmed, found.direction, 0) + 1], pa.string()),
            "began_at": pa.array(began, pa.timestamp("us"), mask=~alarmed),
            "alarmed_at": pa.array(at, pa.timestamp("us"), mask=~alarmed),
            **{f"chart_{name}": found.charts[:, i] for i, name in enumerate(KINDS)},
            "widen": widen,
        }
    )
