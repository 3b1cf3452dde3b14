"""What a backtest says: weights of candidates, calibration against bias, spreads and quantiles of errors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting import combination
from many_models.forecasting.evaluation import scored
from many_models.forecasting.local_fit import nothing_shared
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.evaluation import Evaluation
    from many_models.forecasting.spec import Spec

GROWTH = 0.1  # how much wider than at the first step an interval is at the last one, before evidence
STEPS_OF_GROWTH = 2000.0  # errors whose worth that belief is
SHOCK = 0.05  # standard deviation of what the series of a class share in a window, before evidence
CHANCE = 2.0  # how much more than chance would explain has to speak for a correction
MOST_FACTOR = 0.3  # the largest correction, as a log
MOST_DENSE = 0.05  # the same for series that nearly always sell: models follow their level, the rest is passing events
WIDER = 1.04  # weights are chosen on these windows: the next one is a little further off than they were
LARGEST_ERROR = 4.0  # standard deviations that an error counts for at most in what windows share
BY_CHANCE = 3  # windows that may all err to one side by chance: one time in four
CALM = 0.75  # the power of (moves of a year / moves of the windows) by which intervals are wider
MOST_CALM = 2.0  # a year counts as moving at most this much further than the windows
SERIES_OF_CALM = 20.0  # what all series say of it counts, for a class, as much as so many series of its own


@dataclass(frozen=True)
class Evidence:
    """How candidates did over the sample's backtest, per class of series (rows).

    `moments` (classes × candidates × candidates) mean products of errors, `factor` actual / forecast, `quantiles`
    (classes × 2 × levels) of errors in standard deviations, `growth` of the spread with the step.
    """

    moments: NDArray[np.float64]
    factor: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    growth: NDArray[np.float64]


def no_evidence(spec: Spec) -> Evidence:
    """The empty evidence: nothing is pooled."""
    C = len(spec.every_candidate)
    return Evidence(np.zeros((0, C, C)), np.zeros(0), np.zeros((0, 2 * len(spec.levels))), np.zeros(0))


def gather_evidence(evaluation: Evaluation) -> Evidence:
    """What the backtest of a sample says per class of series."""
    spec, classes = evaluation.spec, evaluation.classes
    C = len(spec.every_candidate)
    chosen = np.ix_(*[[spec.every_candidate.index(name) for name in evaluation.names]] * 2)
    if evaluation.pooled:
        teaches = np.array([name not in evaluation.pooled.left_out for name in evaluation.panel.series], bool)
        teaching = teaches[:, None, None]
        evaluation = replace(evaluation, mask=evaluation.mask & teaching, sold=evaluation.sold * teaching)
    moments, windows = _moments(evaluation, scored(evaluation), alike=True)
    groups = len(combination.CLASSES) + 1
    full = np.tile(10.0 * np.eye(C), (groups, 1, 1))
    counts = combination.importance(evaluation.Y, evaluation.mask, spec.objective)
    pooled = combination.pooled_moments(moments, windows, classes, evaluation.there, counts, made(evaluation))
    for k in range(groups):
        full[k][chosen] = pooled[k]
    early = evaluation.pooled.early if evaluation.pooled else nothing_shared(evaluation.layout)
    grown = len(early.trees[0]) > 0
    tried = {"pooled": early.anything, "trees": grown, "boosted": grown and early.boosted > 0}
    tried |= {"autoregression": len(early.lags) > 0, "network": len(early.layers) > 0}
    untried = [name for name, there in tried.items() if not there]
    for c in [loader.CANDIDATES.index(name) for name in untried]:
        full[:, c, :], full[:, :, c] = 10.0, 10.0
    for c in [loader.CANDIDATES.index(name) for name in combination.NOT_FOR_RARE]:
        full[0, c, :], full[0, :, c] = 10.0, 10.0
    plain = Evidence(full, np.ones(groups), np.tile(quantiles(spec, 1), (groups, 1)), np.full(groups, GROWTH))
    evaluation = (
        replace(evaluation, pooled=replace(evaluation.pooled, evidence=plain)) if evaluation.pooled else evaluation
    )
    blends, spreads = leave_one_out(evaluation)
    factor, table = np.ones(groups), plain.quantiles.copy()
    # what did not sell out is, alone, what was asked for least: what did counts as far as it was sold
    told = np.where(evaluation.mask, 1.0, evaluation.sold)
    for k in range(groups):
        mine = (told > 0) & (classes == k)[:, None, None]
        most = MOST_FACTOR if k < groups - 1 else MOST_DENSE
        factor[k] = calibration(told * blends, told * evaluation.Y, mine, most)
    blends = blends * factor[classes][:, None, None]
    r, zero = standardised(evaluation, blends, spreads)
    growth = np.array([growth_of(r, evaluation.mask & (classes == k)[:, None, None]) for k in range(groups)])
    spreads[..., 2] = growth[classes][:, None]
    r, zero = standardised(evaluation, blends, spreads)
    calm = calmness(evaluation)
    for k in range(groups):
        mine = evaluation.mask & (classes == k)[:, None, None]
        table[k] = residual_quantiles(r, zero, evaluation.mask, mine, spec, calm[k])
    return Evidence(full, factor, table, growth)


def growth_of(r: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Growth of the spread over the horizon, from standardised errors that assumed GROWTH; never shrinking.

    From the ratio of the later half's mean absolute error to the earlier half's: with growth g it is
    (1 + ¾ g) / (1 + ¼ g).
    """
    H = r.shape[-1]
    size = np.abs(r) * (1.0 + GROWTH * np.arange(H) / H)
    half = np.arange(H) >= H / 2
    n, (early, late) = mask.sum(), ((mask & ~half), (mask & half))
    if H < 2 or not early.any() or not late.any() or size[early].mean() <= 0:
        return GROWTH
    q = min(float(size[late].mean() / size[early].mean()), 2.0)
    found = max((q - 1.0) / (0.75 - 0.25 * q), 0.0)
    return float((n * found + STEPS_OF_GROWTH * GROWTH) / (n + STEPS_OF_GROWTH))


def calmness(evaluation: Evaluation) -> NDArray[np.float64]:
    """How much further the next window may be off than the backtest's were, per class of series.

    A few windows in autumn know no winter. How far sales moved, from one season to the same phase of a later one, is
    known of the whole last year: the median over series of what it was in the year, against what it was in the
    windows. It widens intervals by its power CALM, and never narrows them. 1 where a year holds no more than the
    windows twice.
    """
    spec, panel, season = evaluation.spec, evaluation.panel, evaluation.spec.steps_per_season
    windows, groups = spec.horizon * spec.windows, len(combination.CLASSES) + 1
    lag = season * -(-spec.horizon // season)
    year = min(rhythm(spec.frequency).year, panel.periods - lag)
    if year < 2 * windows:
        return np.ones(groups)
    square, size = _moves(evaluation, lag)
    now, usual = (square[:, -n:].sum(1) / np.maximum(size[:, -n:].sum(1), 1e-300) for n in (windows, year))
    moved = evaluation.mask.reshape(len(now), -1).any(1) & (now > 0) & (usual > 0)
    if not moved.any():
        return np.ones(groups)
    ratio = 0.5 * np.log(np.where(moved, usual, 1.0) / np.where(moved, now, 1.0))
    overall, result = float(np.median(ratio[moved])), np.zeros(groups)
    for k in range(groups):
        mine = moved & (evaluation.classes == k)
        own = float(np.median(ratio[mine])) if mine.any() else overall
        result[k] = (mine.sum() * own + SERIES_OF_CALM * overall) / (mine.sum() + SERIES_OF_CALM)
    return np.exp(CALM * np.clip(result, 0.0, np.log(MOST_CALM)))


def _moves(evaluation: Evaluation, lag: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squares of how far each series moved from `lag` periods before, and what they are measured against (see
    `standardised`); both zero where either period was not observed (series × periods from `lag` on).
    """
    panel = evaluation.panel
    y, seen = panel.y[:, : panel.periods], panel.code[:, : panel.periods] == loader.OBSERVED
    floor = np.maximum(0.2 * evaluation.variation.size, 1e-9)[:, None]
    mu = np.maximum((np.abs(y[:, lag:]) + np.abs(y[:, :-lag])) / 2.0, floor)
    both = seen[:, lag:] & seen[:, :-lag]
    return np.where(both, (y[:, lag:] - y[:, :-lag]) ** 2, 0.0), np.where(both, mu + 0.05 * mu**2, 0.0)


def unsure(r: NDArray[np.float64], mask: NDArray[np.bool_], levels: Sequence[int]) -> NDArray[np.float64]:
    """How many times as wide an interval is (by level) because few windows say little about the luck that they share.

    `r` are standardised errors (series × windows × steps), those where `mask` count, none for more than LARGEST_ERROR:
    one odd series must not hide what the others share. What all series of a window share is one observation a window,
    what is a series' own is one a series and window. How many observations the errors are worth is Satterthwaite's
    (1946) approximation; their quantile is Student's t with so many degrees of freedom, where many observations would
    give a normal one. One where fewer than two windows tell.
    """
    from scipy.special import stdtrit

    told = mask.any((0, 2))
    windows = int(told.sum())
    if windows < 2:
        return np.ones(len(levels))
    r, seen, luck, within = _luck(r, mask)
    seen, luck = seen[:, told], luck[told]
    square = max(float((r**2).sum()) / int(mask.sum()), 1e-12)
    shared = float(np.clip((luck**2 - within / seen.sum(0)).mean() / square, 0.0, 1.0))
    worth = 1.0 / (shared**2 / windows + (1.0 - shared) ** 2 / seen.sum())
    return np.array([float(stdtrit(worth, 0.5 + level / 200.0)) / normal_quantile(level) for level in levels])


def _luck(
    r: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], float]:
    """What all series of a window share, from standardised errors `r` (series × windows × steps) where `mask`.

    Returns the errors, each at most LARGEST_ERROR; which series a window tells of (series × windows); the mean error
    of each window; and the variance of a series' own mean error about it.
    """
    r = np.where(mask, np.clip(np.nan_to_num(r), -LARGEST_ERROR, LARGEST_ERROR), 0.0)
    n = mask.sum(2)
    seen, mean = n > 0, r.sum(2) / np.maximum(n, 1)
    series = seen.sum(0)
    luck = mean.sum(0) / np.maximum(series, 1)
    within = float(np.where(seen, (mean - luck) ** 2, 0.0).sum()) / max(int(np.maximum(series - 1, 0).sum()), 1)
    return r, seen, luck, within


def _believed(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of a `mean` that its `variance` does not explain (James & Stein 1961, positive part)."""
    return np.maximum(0.0, 1.0 - variance / np.maximum(mean**2, 1e-12))


def either_way(
    r: NDArray[np.float64], zero: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The standardised errors `r` where `mask`, then the same with each window's luck turned round, and where zero
    lies for both.

    The luck of a few windows says how far off the next one may be, and nothing of the side. Luck is the mean error of
    a window as far as it is more than the series' own errors explain, at most LARGEST_ERROR. What more than BY_CHANCE
    windows agree about is no luck and keeps its side.
    """
    _, seen, luck, within = _luck(r, mask)
    shared = luck * _believed(luck, within / np.maximum(seen.sum(0), 1))
    told = shared[seen.any(0)]
    if len(told) > BY_CHANCE:
        mean = told.mean()
        agreed = mean * _believed(mean, CHANCE * told.var(ddof=1) / len(told))
        shared = shared - (1.0 - BY_CHANCE / len(told)) * agreed
    other = np.maximum(r - 2.0 * shared[:, None], zero)
    return np.concatenate([r[mask], other[mask]]), np.concatenate([zero[mask], zero[mask]])


def calibration(
    F: NDArray[np.float64], Y: NDArray[np.float64], mask: NDArray[np.bool_], most: float = MOST_FACTOR
) -> float:
    """Actual over forecast of a class of series (series × windows × steps), as far as the windows agree about it, and
    its log at most `most`.

    All series of a window share its luck, so a window is one observation of the log ratio, and what chance explains is
    left alone: the mean is shrunk by CHANCE times its variance (see `_believed`). The variance is
    that between windows, believed to be SHOCK² before there are any, or that of series within windows if larger.
    """
    actual, forecast = np.where(mask, Y, 0.0).sum(2), np.where(mask, F, 0.0).sum(2)
    good = (actual.sum(0) > 0) & (forecast.sum(0) > 0)
    n = int(good.sum())
    if n < 2:
        return 1.0
    actual, forecast = actual[:, good], forecast[:, good]
    ratio = np.log(actual.sum(0) / forecast.sum(0))
    mean = ratio.mean()
    between = (((ratio - mean) ** 2).sum() + 2.0 * SHOCK**2) / (n + 1)
    within = (((actual - forecast * np.exp(mean)) ** 2).sum(0) / forecast.sum(0) ** 2).mean()
    kept = _believed(mean, CHANCE * np.maximum(between, within) / n)
    return float(np.exp(np.clip(kept * mean, -most, most)))


def standardised(
    evaluation: Evaluation, blends: NDArray[np.float64], spreads: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of combined forecasts in standard deviations, each window by the others' spread, and where zero lies.

    Zero is minus infinity where forecasts may be negative.
    """
    H = evaluation.spec.horizon
    mu = np.maximum(np.abs(blends), spreads[..., 1:2])
    sigma = np.sqrt(spreads[..., 0:1] * (mu + 0.05 * mu * mu)) * (1.0 + spreads[..., 2:3] * np.arange(H) / H)
    sigma = np.maximum(sigma, 1e-12)
    zero = -blends / sigma if evaluation.spec.nonnegative else np.full(blends.shape, -np.inf)
    return (evaluation.Y - blends) / sigma, zero


def residual_quantiles(
    r: NDArray[np.float64],
    zero: NDArray[np.float64],
    mask: NDArray[np.bool_],
    mine: NDArray[np.bool_],
    spec: Spec,
    calm: float = 1.0,
) -> NDArray[np.float64]:
    """Quantiles (2 × levels) of standardised errors of a class, shrunk towards all series' by 500 errors' worth. Both
    are as much wider as `unsure` says, and `calm` times (see `calmness`), but for series that mostly sell nothing.
    """
    of_all = unsure(r, mask, spec.levels)
    of_mine = unsure(r, mine, spec.levels) if mine.any((0, 2)).sum() > 1 else of_all
    if mask.sum() < 50:
        return quantiles(spec, 1)[0] * np.repeat(of_all, 2)
    result = []
    trust = mine.sum() / (mine.sum() + 500.0)
    scarce = np.median(r[mine] - zero[mine]) < 1e-9 if mine.any() else False  # zeros, mostly: no luck to share
    counted = (mask, mine if mine.any() else mask)
    told = [(r[one], zero[one]) if scarce else either_way(r, zero, one) for one in counted]
    for k, level in enumerate(spec.levels):
        tails = (0.5,) if spec.objective == "pinball" else (0.5, 0.25, 0.0)
        overall, own = (np.array(shortest(*errors, level / 100.0, tails)) for errors in told)
        if not scarce:
            own, overall = WIDER * calm * of_mine[k] * own, WIDER * calm * of_all[k] * overall
        result.extend(trust * own + (1 - trust) * overall)
    return np.array(result)


def shortest(
    r: NDArray[np.float64], zero: NDArray[np.float64], level: float, tails: Sequence[float] = (0.5, 0.25, 0.0)
) -> tuple[float, float]:
    """Lower and upper bound that hold `level` of the errors `r` when no bound goes below `zero`.

    Of intervals with these shares (`tails`) of the misses below, the shortest, the first one unless another is five
    per cent shorter: where zero is common nothing can be missed below it.
    """
    best, best_width = (0.0, 0.0), np.inf
    for share in tails:
        low = float(np.quantile(r, share * (1.0 - level)))
        above = np.sort(r[r >= np.maximum(low, zero) - 1e-9])
        need = min(int(np.ceil(level * len(r))), len(above))
        high = max(float(above[need - 1]), 0.0) if need else 0.0
        width = float(np.mean(high - np.maximum(low, zero)))
        if width < best_width * (0.95 if np.isfinite(best_width) else 1.0):
            best, best_width = (min(low, 0.0), high), width
    return best


def final_weights(evaluation: Evaluation, leave_out: int | None = None) -> NDArray[np.float64]:
    """Weights (series × candidates) by the evidence of all windows, or all but one."""
    mask = scored(evaluation)
    if leave_out is not None:
        mask[:, leave_out] = False
    shared = evaluation.pooled is not None and len(evaluation.pooled.evidence.moments) > 0
    moments, windows = _moments(evaluation, mask, even=shared)
    evidence = None
    if evaluation.pooled is not None and shared:
        chosen = [evaluation.spec.every_candidate.index(name) for name in evaluation.names]
        evidence = evaluation.pooled.evidence.moments[:, chosen][:, :, chosen][evaluation.classes]
    return combination.simplex_weights(
        moments, windows, evaluation.belief, evidence, combination.KEPT, evaluation.there, made(evaluation)
    )


def made(evaluation: Evaluation) -> NDArray[np.bool_]:
    """Of which candidates there are forecasts (series × candidates): built-in ones always, users' ones unless they
    failed. One that failed must change nothing of the others.
    """
    result = np.ones_like(evaluation.there)
    if users := len(evaluation.custom.names):
        result[:, -users:] = evaluation.there[:, -users:]
    return result


def _moments(
    evaluation: Evaluation, mask: NDArray[np.bool_], *, alike: bool = False, even: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Products of the candidates' errors where `mask`, and each series' windows, see `combination.error_moments`."""
    usual = evaluation.scales[1][:, -1]
    return combination.error_moments(
        evaluation.F,
        evaluation.Y,
        mask,
        evaluation.spec.objective,
        usual,
        evaluation.classes == 0,
        made(evaluation),
        alike=alike,
        even=evaluation.classes >= combination.EVEN if even else None,
    )


def factors(evaluation: Evaluation) -> NDArray[np.float64]:
    """Calibration of each series' combined forecast; a fallback says what it says."""
    if evaluation.pooled is None or not len(evaluation.pooled.evidence.factor):
        return np.ones(len(evaluation.panel.series))
    stands_in = np.array([bool(step) for step in evaluation.fallback])
    return np.where(stands_in, 1.0, evaluation.pooled.evidence.factor[evaluation.classes])


def series_quantiles(evaluation: Evaluation) -> NDArray[np.float64]:
    """Quantiles (series × 2 × levels) of each series' errors in standard deviations."""
    if evaluation.pooled is None or not len(evaluation.pooled.evidence.quantiles):
        return quantiles(evaluation.spec, len(evaluation.panel.series))
    return evaluation.pooled.evidence.quantiles[evaluation.classes]


def leave_one_out(evaluation: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Combined forecasts of each window by the weights of the others (series × windows × steps), and their spreads."""
    n, windows, H = evaluation.Y.shape
    blends = np.zeros((n, windows, H))
    for j in range(windows):
        blends[:, j] = np.einsum("ic,ich->ih", final_weights(evaluation, j), evaluation.F[:, j])
    blends *= factors(evaluation)[:, None, None]
    spreads = np.zeros((n, windows, 3))
    for j in range(windows):
        mask = scored(evaluation)
        mask[:, j] = False
        spreads[:, j] = spread(evaluation, blends, mask)
    return blends, spreads


def spread(evaluation: Evaluation, blends: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Dispersion, floor and growth of each series' error (see mm_pack_v1.interval) from residuals where `mask`.

    Two weeks' worth of belief in the history's own variation hold it up where there are few residuals.
    """
    own = evaluation.variation
    floor = np.maximum(0.2 * own.size, 1e-9)
    level = np.maximum(np.abs(own.mean), floor)
    before = 0.6 * own.variance / (level + 0.05 * level**2)
    mu = np.maximum(np.abs(blends), floor[:, None, None])
    error = np.where(mask, (blends - evaluation.Y) ** 2, 0).sum((1, 2))
    size = np.where(mask, mu + 0.05 * mu**2, 0).sum((1, 2))
    typical = 14.0 * (level + 0.05 * level**2)
    growth = np.full(len(level), GROWTH)
    if evaluation.pooled is not None and len(evaluation.pooled.evidence.growth):
        growth = evaluation.pooled.evidence.growth[evaluation.classes]
    return np.stack([(error + before * typical) / (size + typical), floor, growth], 1)


def normal_quantile(level: int) -> float:
    """Half width in standard deviations of the central `level` per cent of a normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 200.0)


def quantiles(spec: Spec, n: int) -> NDArray[np.float64]:
    """Quantiles (series × 2 × levels) in standard deviations, normal where nothing else is known."""
    one = [q for level in spec.levels for q in (-normal_quantile(level), normal_quantile(level))]
    return np.tile(np.array(one), (n, 1))
