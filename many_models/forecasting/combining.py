"""Weights of candidates: a quadratic programme on the simplex, shrunk towards what is believed before the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# What each candidate is worth before any evidence, by the kind of series; measured on public retail sets, then rounded.
BELIEF = {
    "seasonal_naive": 0.01, "mean": 0.08, "seasonal_mean": 0.04, "smoothing_slow": 0.08, "smoothing_medium": 0.08,
    "smoothing_fast": 0.06, "intermittent": 0.05, "ridge_raw": 0.25, "ridge_log": 0.15, "poisson": 0.2,
    "pooled": 0.2, "trees": 0.3,
}  # fmt: skip
BELIEF_SPARSE = {
    "seasonal_naive": 0.005, "mean": 0.5, "seasonal_mean": 0.02, "smoothing_slow": 0.06, "smoothing_medium": 0.02,
    "smoothing_fast": 0.01, "intermittent": 0.3, "ridge_raw": 0.05, "ridge_log": 0.03, "poisson": 0.01,
    "pooled": 0.2, "trees": 0.3,
}  # fmt: skip
WINDOWS_OF_BELIEF = 3.0  # how many windows of a series' own errors weigh as much as what is believed
WINDOWS_OF_EVIDENCE = 60.0  # the same where what is believed is the evidence of many series
SHARE_OF_BELIEF = 0.25  # how much what is believed before any evidence still counts beside it
TOO_FAR = 1.25  # mean square over the best one's beyond which a candidate takes no part
CLASSES = (0.25, 0.6, 0.9)  # shares of periods with sales that part the classes of series


def beliefs(names: Sequence[str], seasons: NDArray[np.float64], sold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights before evidence (series × candidates), from seasons of history and the share of periods with sales."""
    dense = np.array([BELIEF.get(name, 0.1) for name in names])
    sparse = np.array([BELIEF_SPARSE.get(name, 0.1) for name in names])
    rich = np.clip(seasons / 30.0, 0.0, 1.0)[:, None] * np.clip(2.0 * sold[:, None], 0.2, 1.0)
    weights = rich * dense + (1.0 - rich) * sparse
    return weights / weights.sum(1, keepdims=True)


def error_moments(
    F: NDArray[np.float64], Y: NDArray[np.float64], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean products of the candidates' errors (series × candidates × candidates) and the windows that count.

    `F` series × windows × candidates × steps, `Y` and `mask` series × windows × steps. Each series is in units of
    its median candidate's mean square, so that series can be pooled.
    """
    e = np.where(mask[:, :, None, :], F - Y[:, :, None, :], 0.0)
    e = np.moveaxis(e, 2, 1).reshape(len(F), F.shape[2], F.shape[1] * F.shape[3])
    n = mask.sum((1, 2))
    M = e @ np.moveaxis(e, 1, 2) / np.maximum(n, 1)[:, None, None]
    typical = np.median(np.einsum("icc->ic", M), axis=1)
    return M / np.where(typical > 0, typical, 1.0)[:, None, None], mask.any(2).sum(1).astype(float)


def class_of(y: NDArray[np.float64], seen: NDArray[np.bool_], year: int) -> NDArray[np.int64]:
    """The class of each series (rows of `y`): by the share of periods with sales in its last year."""
    recent = seen[:, -year:]
    n = recent.sum(1)
    share = np.where(n > 0, ((y[:, -year:] != 0) & recent).sum(1) / np.maximum(n, 1), 0.0)
    return np.searchsorted(CLASSES, share, side="right")


def pooled_moments(
    moments: NDArray[np.float64], windows: NDArray[np.float64], classes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean moments per class (classes × candidates × candidates), shrunk towards all series' by 20 series' worth.

    A series counts by its windows; one that is far off (a level that broke) at most as if every candidate's mean
    square were four times its median's.
    """
    size = np.einsum("icc->i", moments) / moments.shape[1]
    weight = windows / np.maximum(size / 4.0, 1.0)
    everything = np.einsum("i,icd->cd", weight, moments) / max(weight.sum(), 1e-12)
    result = np.zeros((len(CLASSES) + 1, *everything.shape))
    for k in range(len(result)):
        mine = weight * (classes == k)
        prior = 20.0 * max(windows.max(initial=0.0), 1.0)
        result[k] = (np.einsum("i,icd->cd", mine, moments) + prior * everything) / (mine.sum() + prior)
    return result


def simplex_weights(
    moments: NDArray[np.float64], windows: NDArray[np.float64], belief: NDArray[np.float64],
    evidence: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:  # fmt: skip
    """Weights (series × candidates) ≥ 0 that sum to 1 and minimise w'Mw, M a series' own moments and what is believed.

    What is believed is `evidence` (moments of its class, series × candidates × candidates) where there is some, else
    independent excess errors whose best mixture is `belief`; it counts as much as so many windows. A
    candidate that the evidence puts far behind the best takes no part.
    """
    worth = WINDOWS_OF_BELIEF if evidence is None else WINDOWS_OF_EVIDENCE
    excess = 0.02 / np.maximum(belief, 1e-4)
    believed = 1.0 + np.einsum("ic,cd->icd", excess, np.eye(belief.shape[1]))
    trust = (windows / (windows + worth))[:, None, None]
    beaten = np.zeros(belief.shape, bool)
    if evidence is None:
        M = trust * moments + (1 - trust) * believed
    else:
        seen = trust * moments + (1 - trust) * evidence
        square = np.einsum("icc->ic", seen)
        beaten = square > TOO_FAR * square.min(1, keepdims=True)
        M = (1 - SHARE_OF_BELIEF * (1 - trust)) * seen + SHARE_OF_BELIEF * (1 - trust) * believed
    # a little of the diagonal again keeps near-twins from trading places
    M = M + 0.02 * np.einsum("icc->i", M)[:, None, None] / M.shape[1] * np.eye(M.shape[1])
    M = M + 100.0 * np.einsum("ic,cd->icd", beaten * np.einsum("icc->ic", M).max(1, keepdims=True), np.eye(M.shape[1]))
    start = np.where(beaten, 0.0, belief) + 1e-6
    return np.where(beaten, 0.0, _minimise(M, start / start.sum(1, keepdims=True)))


def _minimise(M: NDArray[np.float64], start: NDArray[np.float64], rounds: int = 300) -> NDArray[np.float64]:
    """Projected gradient with each matrix' largest row sum as its Lipschitz bound."""
    w = start.copy()
    step = 1.0 / np.maximum(np.abs(M).sum(2).max(1), 1e-12)[:, None]
    ahead, momentum = w.copy(), 1.0
    for _ in range(rounds):
        new = project(ahead - step * np.einsum("icd,id->ic", M, ahead))
        following = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = new + (momentum - 1.0) / following * (new - w)
        w, momentum = new, following
    w = np.where(w < 0.005, 0.0, w)
    return w / w.sum(1, keepdims=True)


def project(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of `v` projected on the simplex (Duchi et al. 2008)."""
    u = -np.sort(-v, axis=1)
    total = np.cumsum(u, 1) - 1.0
    k = np.arange(1, v.shape[1] + 1)
    rho = (u - total / k > 0).sum(1)
    theta = total[np.arange(len(v)), rho - 1] / rho
    return np.maximum(v - theta[:, None], 0.0)
