"""Ridge coefficients of all series together, shrunk the more the series share the luck of a period: `coefficients`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.local_fit import default_prior
from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import ThreadPoolExecutor

    from numpy.typing import NDArray

    from many_models.forecasting.pooling import CountRows, Sample

BLOCK = 10  # series whose moments are summed together: what is learned must not depend on the number of threads
NEWTON_STEPS = 25
CONVERGED = 1e-4  # nats a row that a step still gains when the fit of counts has converged
STRENGTH = 50.0  # observations that what is believed before any data is worth
FITS = 8  # at most, each with what the one before left unexplained
LESS = 0.9  # of the strength before, above which another fit would change little


def coefficients(sample: Sample, threads: ThreadPoolExecutor) -> tuple[NDArray[np.float64], str]:
    """Ridge coefficients (3 × features) of all series together, and why those of counts are not to be used ("" if they
    are).

    What series share in a period is luck only as far as no known covariate explains it, which the first fit cannot
    know. With covariates, each further fit is shrunk by what the one before it left.
    """
    ready, periods = sample.ready, sample.origin + 1
    prior = default_prior(sample.calendar_columns, sample.layout.columns)
    blocks = [ready[at : at + BLOCK] for at in range(0, len(ready), BLOCK)]
    kept = dict[int, "CountRows"]()

    def at(beta: NDArray[np.float64], *, cold: bool = False) -> Moments:
        sums = partial(sample.moments, beta=beta, kept=kept, cold=cold)
        return _summed(threads.map(sums, blocks), Moments.nothing(beta.size, periods, cold=cold))

    cold = at(prior[loader.COUNT], cold=True)
    strength = STRENGTH * shared_periods(cold.together)
    one = sample.calendar_columns  # the place of the constant
    beta, problem, found = _fit(at, cold, cold, prior, prior, strength, one)
    for _ in range(FITS - 1 if sample.layout.columns > 1 else 0):  # one column is the shape, which all have
        left = np.concatenate([found.together[:3], cold.together[3:]])
        less = np.minimum(strength, STRENGTH * shared_periods(left, fitted=True))
        if problem or (less > LESS * strength).all():
            break
        again, failed, found = _fit(at, cold, found, prior, beta, less, one)
        if failed:
            break
        beta, strength = again, less
    return beta, problem


def _fit(  # noqa: PLR0913, PLR0917 - sums, where to start, and what is believed
    at: Callable[[NDArray[np.float64]], Moments],
    cold: Moments,
    begin: Moments,
    prior: NDArray[np.float64],
    start: NDArray[np.float64],
    strength: NDArray[np.float64],
    one: int,
) -> tuple[NDArray[np.float64], str, Moments]:
    """Coefficients by the `strength` of the belief in `prior`, what is wrong with those of counts, and sums at the end.

    Those of counts by Newton's steps from `start`, where the sums are `begin`; a step is halved until it improves the
    fit. `cold` are the sums that do not depend on coefficients, `one` is the place of the constant.
    """
    from many_models.forecasting.kernels import solve

    count, rows, out = loader.COUNT, max(cold.G[0, one, one], 1.0), np.empty(strength.size)
    beta = start.copy()
    for way in range(2):
        if cold.G[way, one, one] > 0 and solve(cold.G[way], cold.g[way], prior[way], strength, rows, out):
            beta[way] = out
    penalty = 0.5 * strength * np.diag(cold.G[count]) / rows
    tried, best, found = start[count].copy(), np.inf, begin
    for step in range(NEWTON_STEPS):
        found = at(tried) if step else begin
        misfit = found.misfit[0] + float(penalty @ (tried - prior[count]) ** 2)
        if misfit > best + 1e-9 * abs(best) or not np.isfinite(misfit):
            tried = 0.5 * (tried + beta[count])
            continue
        gained, best, beta[count] = best - misfit, misfit, tried
        if gained < CONVERGED * found.misfit[1]:
            return beta, "", found
        G, g = found.G[count], found.g[count]
        if not (G[one, one] > 0 and solve(G, g, prior[count], strength, rows, out)):
            return beta, "the fit of counts over all series has no solution", found
        tried = out.copy()
    return beta, f"the fit of counts over all series did not converge in {NEWTON_STEPS} steps", found


@dataclass
class Moments:
    """Sums over series, see `kernels.pooled_moments` and `kernels.pooled_counts`."""

    G: NDArray[np.float64]
    g: NDArray[np.float64]
    misfit: NDArray[np.float64]
    together: NDArray[np.float64]

    @classmethod
    def nothing(cls, p: int, periods: int, *, cold: bool) -> Moments:
        """Sums over no series; only `cold` ones tell features by period."""
        together = np.zeros((3 + 2 * p if cold else 3, periods))
        return cls(np.zeros((3, p, p)), np.zeros((3, p)), np.zeros(2), together)


def _summed(parts: Iterable[Moments], total: Moments) -> Moments:
    for part in parts:
        total.G += part.G
        total.g += part.g
        total.misfit += part.misfit
        total.together += part.together
    return total


def shared_periods(together: NDArray[np.float64], *, fitted: bool = False) -> NDArray[np.float64]:
    """How many rows count as one for each feature, because series that are seen in the same period share its luck.

    The design effect of cluster samples, 1 + (series a period − 1) × ρx × ρe (Kish 1965; Moulton 1986): ρx is the share
    of a feature's variance that all series of a period have in common, ρe that of the residuals. `together` as
    `kernels.pooled_counts` sums it. Residuals of a `fitted` model are smaller than those of other periods will be: a
    feature that periods differ by takes one of as many degrees of freedom as there are periods.
    """
    p = (len(together) - 3) // 2
    n, residual, square = together[:3]
    rows = max(n.sum(), 1.0)
    pairs = float((n * n - n).sum())
    if pairs <= 0:
        return np.ones(p)
    size = 1.0 + pairs / rows  # series that a row's period has
    common = max(float((residual * residual - square).sum()) / pairs / max(square.sum() / rows, 1e-12), 0.0)
    sums, squares = together[3 : 3 + p], together[3 + p :].sum(1) / rows
    mean = sums.sum(1) / rows
    variance = np.maximum(squares - mean**2, 1e-12)
    between = (sums**2 / np.maximum(n, 1.0)).sum(1) / rows - mean**2
    alike = np.clip((between / variance - 1.0 / size) / (1.0 - 1.0 / size), 0.0, 1.0) if size > 1 else np.zeros(p)
    alike = np.where(squares > 1e-12, alike, 0.0)
    if fitted:
        periods = float((n > 0).sum())
        common *= periods / max(periods - 1.0 - float(alike.sum()), 1e-9)
    return 1.0 + (size - 1.0) * min(common, 1.0) * alike
