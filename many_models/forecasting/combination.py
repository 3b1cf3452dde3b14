"""Weights of candidates: a quadratic programme on the simplex, shrunk towards the candidates with the best record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# What each candidate is worth before any evidence, by the kind of series; measured on public retail sets, then rounded.
BELIEF = {
    "seasonal_naive": 0.01, "mean": 0.08, "seasonal_mean": 0.04, "smoothing_slow": 0.08, "smoothing_medium": 0.08,
    "smoothing_fast": 0.06, "tsb": 0.05, "croston": 0.02, "ridge_raw": 0.25, "ridge_log": 0.15, "poisson": 0.2,
    "pooled": 0.2, "trees": 0.3, "boosted": 0.3, "smoothing_trend": 0.08, "autoregression": 0.08, "network": 0.2,
}  # fmt: skip
BELIEF_SPARSE = {
    "seasonal_naive": 0.005, "mean": 0.5, "seasonal_mean": 0.02, "smoothing_slow": 0.06, "smoothing_medium": 0.02,
    "smoothing_fast": 0.01, "tsb": 0.3, "croston": 0.1, "ridge_raw": 0.05, "ridge_log": 0.03, "poisson": 0.01,
    "pooled": 0.2, "trees": 0.3, "boosted": 0.3, "smoothing_trend": 0.02, "autoregression": 0.02, "network": 0.2,
}  # fmt: skip
WINDOWS_OF_BELIEF = 3.0  # how many windows of a series' own errors weigh as much as what is believed
WINDOWS_OF_EVIDENCE = 30.0  # the same where what is believed is the evidence of many series
KEPT = 0.3  # how much a candidate's own record counts beside how well it goes together with the others
EXCESS = 0.1  # mean square over the best one's that is taken for chance in that record
RICH = 200.0  # observations that make a history rich
LOUDEST = 2.0  # times the median candidate's mean square that one may have at most in what is told of its class
QUIETEST = 0.1  # of the windows' mean, what the errors of a window are taken for at least where windows count alike
# Mean square over the best one's beyond which a candidate takes no part: in mixtures of many, of some and of few.
TOO_FAR = (2.0, 1.5, 1.15)
EVEN = 2  # the first class of series whose own windows count alike; of others, the windows that sold say most
SMALLEST = 0.005  # a weight below it is none
# Candidates that series which sell in less than a quarter of periods do without: their sums would be too low.
NOT_FOR_RARE = ("network",)
CLASSES = (0.25, 0.6, 0.9)  # shares of periods with sales that part the classes of series


def beliefs(names: Sequence[str], observations: NDArray[np.float64], sold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights before any evidence (series × candidates), from observations of history and the share of periods with
    sales. Observations and not seasons: three years of weeks are three seasons and yet a long history.
    """
    dense = np.array([BELIEF.get(name, 0.1) for name in names])
    sparse = np.array([BELIEF_SPARSE.get(name, 0.1) for name in names])
    rich = np.clip(observations / RICH, 0.0, 1.0)[:, None] * np.clip(2.0 * sold[:, None], 0.2, 1.0)
    weights = rich * dense + (1.0 - rich) * sparse
    return weights / weights.sum(1, keepdims=True)


def error_moments(  # noqa: PLR0913, PLR0917 - forecasts, actuals, and what says which of them count
    F: NDArray[np.float64],
    Y: NDArray[np.float64],
    mask: NDArray[np.bool_],
    objective: str = "rmsse",
    usual: NDArray[np.float64] | None = None,
    sparse: NDArray[np.bool_] | None = None,
    made: NDArray[np.bool_] | None = None,
    *,
    alike: bool = False,
    even: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean products of the candidates' errors (series × candidates × candidates) and the windows that count.

    `F` series × windows × candidates × steps, `Y` and `mask` series × windows × steps. Each series is in units of
    its median candidate's mean square (of those that are `made`), so that series can be pooled. With `usual`, what its
    squares are like over its history (NaN where unknown), squared errors are in units of the geometric mean of both:
    windows in which a series happened to sell nothing must not speak for forecasts of nothing. For `sparse` series, of
    which many sell nothing in any window, the history alone is the unit. Objectives of absolute errors weigh each error
    by the inverse of the median candidate's, which makes the square an absolute value (Weiszfeld's step). With `alike`
    all windows count the same, see `_loudness`; for squares of `even` series each one's own windows do.
    """
    e = np.where(mask[:, :, None, :], F - Y[:, :, None, :], 0.0)
    e = np.moveaxis(e, 2, 1).reshape(len(F), F.shape[2], F.shape[1] * F.shape[3])
    n = mask.sum((1, 2))
    v = np.ones((len(F), e.shape[2]))
    if objective != "rmsse":
        size = _median(np.abs(e), made)
        mean = size.sum(1, keepdims=True) / np.maximum(n, 1)[:, None]
        v = mean / np.maximum(np.maximum(size, 0.2 * mean), 1e-300)
    if alike:
        v = v / np.repeat(_loudness(_median(_by_window(e, v, F), made), mask), F.shape[3])
    if even is not None and even.any() and objective == "rmsse":
        own = _own_loudness(_median(_by_window(e, v, F), made), mask)
        v = v / np.repeat(np.where(even[:, None], own, 1.0), F.shape[3], axis=1)
    M = (e * v[:, None]) @ np.moveaxis(e, 1, 2) / np.maximum(n, 1)[:, None, None]
    typical = _median(np.einsum("icc->ic", M), made)
    unit = np.where(typical > 0, typical, 1.0)
    if usual is not None and objective == "rmsse":
        known = np.isfinite(usual) & (usual > 0)
        history = np.where(known, usual, unit)
        both = np.sqrt(history * np.where(typical > 0, typical, history))
        unit = history if sparse is None else np.where(sparse, history, both)
    return M / unit[:, None, None], mask.any(2).sum(1).astype(float)


def _by_window(e: NDArray[np.float64], v: NDArray[np.float64], F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of squares (series × candidates × windows) of the errors `e`, which count by `v`; `F` says their shape."""
    return (e * v[:, None] * e).reshape(*e.shape[:2], *F.shape[1::2]).sum(3)


def _own_loudness(square: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much larger the mean squared errors of each window (series × windows) are than is usual of its series.

    A window with a promotion, a delivery that failed or a new level has most of a series' squared errors, and yet it
    says little more than another of which candidate suits; who knows promotions is told by all series together. Divided
    by this, the mean square of a series stays as it is.
    """
    steps = mask.sum(2)
    mean = square / np.maximum(steps, 1)
    usual = np.where(steps > 0, mean, 0.0).sum(1) / np.maximum((steps > 0).sum(1), 1)
    loud = np.where(steps > 0, np.maximum(mean / np.where(usual > 0, usual, 1.0)[:, None], QUIETEST), 1.0)
    left = (square / loud).sum(1) / np.maximum(square.sum(1), 1e-300)
    return loud * np.where(left > 0, left, 1.0)[:, None]


def _loudness(square: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How much of the squared errors (series × windows) each window has, against the mean of the windows.

    All series of a window share its luck. The squared errors of a window with a holiday would outweigh those of all
    others, and the weights would suit holidays only. Divided by this, each window is one observation.
    """
    there, total = mask.any(2), square.sum(1, keepdims=True)
    share = square * there.sum(1, keepdims=True) / np.maximum(total, 1e-300)
    told = (there & (total > 0)).sum(0)
    mean = np.where(told > 0, share.sum(0) / np.maximum(told, 1), 1.0)
    return np.maximum(mean / max(mean.mean(), 1e-300), QUIETEST) if len(mean) else mean


def _median(values: NDArray[np.float64], made: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """The median over candidates (the second axis) of those that are `made` (series × candidates), or of all."""
    if made is None or made.all():
        return np.median(values, axis=1)
    return np.array([np.median(mine[ok], axis=0) for mine, ok in zip(values, made, strict=True)])


def importance(Y: NDArray[np.float64], mask: NDArray[np.bool_], objective: str) -> NDArray[np.float64]:
    """How much each series counts in pooled evidence: alike, but by its volume where WAPE is the objective."""
    if objective != "wape":
        return np.ones(len(Y))
    volume = np.where(mask, np.abs(Y), 0.0).sum((1, 2))
    return volume / max(volume.mean(), 1e-300)


def class_of(y: NDArray[np.float64], seen: NDArray[np.bool_], year: int) -> NDArray[np.int64]:
    """The class of each series (rows of `y`): by the share of periods with sales in its last year."""
    recent = seen[:, -year:]
    n = recent.sum(1)
    share = np.where(n > 0, ((y[:, -year:] != 0) & recent).sum(1) / np.maximum(n, 1), 0.0)
    return np.searchsorted(CLASSES, share, side="right")


def pooled_moments(
    moments: NDArray[np.float64],
    windows: NDArray[np.float64],
    classes: NDArray[np.int64],
    there: NDArray[np.bool_],
    counts: NDArray[np.float64] | None = None,
    made: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Mean moments per class (classes × candidates × candidates), shrunk towards all series' by 20 series' worth.

    A series counts by its windows, times `counts`; one that is far off (a level that broke) at most as if every
    candidate's mean square were four times its median's. A candidate that is far off for one series says no more
    than `_bounded` allows: that series' own weights leave it out, the others' must not. A pair of candidates is judged
    by the series where both are `there` (series × candidates). A user's forecaster that made nothing for a series (not
    `made`) changes nothing of how it counts.
    """
    moments = _bounded(moments, there)
    made = np.ones_like(there) if made is None else made
    size = (np.einsum("icc->ic", moments) * made).sum(1) / np.maximum(made.sum(1), 1)
    both = there[:, :, None] & there[:, None, :]
    weight = (windows * (1.0 if counts is None else counts) / np.maximum(size / 4.0, 1.0))[:, None, None] * both
    total = weight.sum(0)
    # a pair that no series tried: as if the two were independent and bad
    untried = 10.0 * np.eye(moments.shape[1])
    everything = np.where(total > 0, (weight * moments).sum(0) / np.maximum(total, 1e-12), untried)
    result = np.zeros((len(CLASSES) + 1, *everything.shape))
    for k in range(len(result)):
        mine = weight * (classes == k)[:, None, None]
        prior = 20.0 * max(windows.max(initial=0.0), 1.0)
        result[k] = ((mine * moments).sum(0) + prior * everything) / (mine.sum(0) + prior)
    return result


def _bounded(moments: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Moments in which no candidate's mean square is more than LOUDEST times the median of those that are `there`, or
    than LOUDEST units: where a series sold nothing, what is far from the median need not be bad.
    """
    square = np.einsum("icc->ic", moments)
    usual = np.array([np.median(mine[ok]) if ok.any() else np.inf for mine, ok in zip(square, there, strict=True)])
    usual = np.maximum(usual, 1.0)[:, None]
    less = np.sqrt(np.minimum(1.0, LOUDEST * usual / np.maximum(square, 1e-300)))
    return moments * less[:, :, None] * less[:, None, :]


def simplex_weights(  # noqa: PLR0913, PLR0917 - what is known of candidates, and which are there
    moments: NDArray[np.float64],
    windows: NDArray[np.float64],
    belief: NDArray[np.float64],
    evidence: NDArray[np.float64] | None = None,
    kept: float = KEPT,
    there: NDArray[np.bool_] | None = None,
    made: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Weights (series × candidates) ≥ 0 that sum to 1 and minimise w'Mw, M a series' own moments and what is believed.

    What is believed is `evidence` (moments of its class, series × candidates × candidates), which counts as much as so
    many windows. Where there is none it is independent excess errors whose best mixture is `belief`. How errors of
    candidates go together in a few windows is partly luck: `kept` of M takes them as independent, each as far behind
    the best as the evidence of all says, which shrinks weights towards the best ones. A candidate that the evidence
    puts far behind the best, or that is not `there`, takes no part. Evidence does not tell how far is too far:
    weights are the mean of mixtures of many, of some and of few candidates. Where a user's forecaster has not `made` a
    forecast, weights are those of the others without it.
    """
    if made is not None and not made.all():
        return _of_those_made(moments, windows, belief, evidence, kept, there, made)
    worth = WINDOWS_OF_BELIEF if evidence is None else WINDOWS_OF_EVIDENCE
    alone = np.eye(belief.shape[1])
    trust = (windows / (windows + worth))[:, None, None]
    absent = np.zeros(belief.shape, bool) if there is None else ~there
    if evidence is None:
        M = trust * moments + (1 - trust) * (1.0 + np.einsum("ic,cd->icd", 0.02 / np.maximum(belief, 1e-4), alone))
        return _mixture(M, belief, absent)
    seen = trust * moments + (1 - trust) * evidence
    square = np.where(absent, np.inf, np.einsum("icc->ic", seen))
    record = np.einsum("icc->ic", evidence)
    best = np.maximum(record.min(1, keepdims=True), 1e-12)
    excess = record / best - 1.0 + EXCESS
    M = (1 - kept) * seen + kept * best[:, :, None] * (1.0 + np.einsum("ic,cd->icd", excess, alone))
    least = square.min(1, keepdims=True)
    return np.mean([_mixture(M, 1.0 / excess, absent | (square > far * least)) for far in TOO_FAR], axis=0)


def _mixture(M: NDArray[np.float64], start: NDArray[np.float64], left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights that minimise w'Mw without those `left_out`, from `start`, whose rows need not sum to 1."""
    alone = np.eye(M.shape[1])
    # a little of the diagonal again keeps near-twins from trading places
    M = M + 0.02 * np.einsum("icc->i", M)[:, None, None] / M.shape[1] * alone
    M = M + 100.0 * np.einsum("ic,cd->icd", left_out * np.einsum("icc->ic", M).max(1, keepdims=True), alone)
    start = np.where(left_out, 0.0, start) + 1e-6
    found = np.where(left_out, 0.0, _minimise(M, start / start.sum(1, keepdims=True)))
    return found / np.maximum(found.sum(1, keepdims=True), 1e-300)


def _of_those_made(  # noqa: PLR0913, PLR0917 - the same
    moments: NDArray[np.float64],
    windows: NDArray[np.float64],
    belief: NDArray[np.float64],
    evidence: NDArray[np.float64] | None,
    kept: float,
    there: NDArray[np.bool_] | None,
    made: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """`simplex_weights` of series that lack forecasters, those that lack the same ones together."""
    result = np.zeros(belief.shape)
    for pattern in np.unique(made, axis=0):
        mine, cs = np.flatnonzero((made == pattern).all(1)), np.flatnonzero(pattern)
        square, own = np.ix_(mine, cs, cs), np.ix_(mine, cs)
        believed = belief[own] / np.maximum(belief[own].sum(1, keepdims=True), 1e-12)
        told = None if evidence is None else evidence[square]
        result[own] = simplex_weights(
            moments[square], windows[mine], believed, told, kept, None if there is None else there[own]
        )
    return result


def _minimise(M: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights that minimise w'Mw from `start` (see `simplex.minimise`), without those too small to matter."""
    from many_models.forecasting.simplex import minimise

    w = np.zeros(start.shape)
    minimise(np.ascontiguousarray(M), np.ascontiguousarray(start), w)
    w = np.where(w < SMALLEST, 0.0, w)
    return w / w.sum(1, keepdims=True)
