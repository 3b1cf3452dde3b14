"""A linear autoregression that series learn together: how the next steps follow from the newest values.

Series of one table move alike: one model of long memory over all of them is often better than one each (Montero-Manso &
Hyndman 2021). Each step ahead has its own coefficients, ridge regression finds them, and the newest fifth of what
series went through says how much they shrink.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from many_models.forecasting.panel import Panel

MOST_ROWS = 60_000
LEAST_ROWS = 200
SHRINKAGE = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # candidates, in mean squares of a feature
FURTHEST = 5.0  # of its levels, how far a target is taken to be from the level at most: one spike is no rule
NEWEST = 0.2  # of the rows, the newest ones, judge the shrinkage
QUIETEST = 0.05  # of the median series' noise, what a series' noise is taken for at least
LOUDEST = 5.0  # times the mean weight of series that one may have


@dataclass(frozen=True)
class _Reach:
    """Which rows are made: the last place they see, how many values a row looks back (`lags`), of how many its level is
    the mean (`span`), the season, how many steps it looks ahead, and how many periods lie between two rows.
    """

    origin: int
    lags: int
    span: int
    season: int
    horizon: int
    every: int


@dataclass(frozen=True)
class _Rows:
    """What one series went through: features (rows × lags, then 1), targets (rows × steps), the place of each row's
    newest value, and how much the values moved from one season to the next, as a mean square.
    """

    X: NDArray[np.float64]
    y: NDArray[np.float64]
    place: NDArray[np.int64]
    noise: float


def learn_lags(panel: Panel, origin: int, conf: NDArray[np.float64], horizon: int) -> NDArray[np.float32]:
    """Coefficients (`loader.lags_of` lags, oldest first, and a constant × steps) from the series of `panel` up to place
    `origin`; without a row where there is too little to learn from.

    A series counts by the inverse of its noise: those that follow a rule teach it, and those that are luck do not hide
    it. No lag looks back further than half of the usual history, or than the span of the level: one long history must
    not leave out all others.
    """
    (most, span), season = loader.lags_of(conf), int(conf[loader.SEASON])
    lengths = np.maximum(origin + 1 - panel.first, 0)
    usual = int(np.median(lengths)) if len(lengths) else 0
    lags = min(most, max((usual - horizon) // 2, span))
    every = max(1, -(-int(np.maximum(lengths + 1 - lags - horizon, 0).sum()) // MOST_ROWS))
    while math.gcd(every, 7 * season) > 1:  # else rows would all end in the same phase
        every += 1
    reach = _Reach(origin, lags, span, season, horizon, every)
    rows_of = partial(_rows_of, panel, reach)
    noise, places = dict[int, float](), list["NDArray[np.int64]"]()
    for i in range(len(panel.series)):  # rows of long lags are too many to keep: they are made once more for the sums
        rows = rows_of(i)
        if len(rows.X):
            noise[i] = rows.noise
            places.append(rows.place)
    if sum(map(len, places)) < LEAST_ROWS:
        return np.zeros((0, horizon), np.float32)
    border = int(np.quantile(np.concatenate(places), 1.0 - NEWEST))
    beta = np.zeros((most + 1, horizon), np.float32)
    weights = _weights(np.array(list(noise.values())))
    beta[-lags - 1 :] = _fitted(map(rows_of, noise), weights, border, lags + 1, horizon)
    return beta


def _weights(noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much each series counts, 1 on average."""
    some = noise[noise > 0]  # those that repeat themselves exactly are not the usual case
    weight = 1.0 / np.maximum(noise, QUIETEST * float(np.median(some)) if len(some) else 1.0)
    weight = np.minimum(weight, LOUDEST * weight.mean())
    return weight / weight.mean()


def _rows_of(panel: Panel, reach: _Reach, i: int) -> _Rows:
    """Every so many of the rows of series `i`, counted back from the origin: when others begin must not matter."""
    origin, lags, span, season, horizon, every = astuple(reach)
    first = int(panel.first[i])
    y, code = panel.y[i, first : origin + 1], panel.code[i, first : origin + 1]
    size = lags + horizon
    if len(y) < size:
        return _Rows(np.zeros((0, lags + 1)), np.zeros((0, horizon)), np.zeros(0, np.int64), 0.0)
    ends = np.arange(len(y) - size, -1, -every)[::-1]
    past, ahead = (np.lib.stride_tricks.sliding_window_view(v, size)[ends] for v in (y, code))
    seen = (ahead == loader.OBSERVED) | (ahead == loader.CLOSED)
    X, level, unit = loader.scaled_lags(past[:, :lags], seen[:, :lags], span)
    good = (unit > 0) & (2 * seen[:, lags:].sum(1) >= horizon) & (2 * seen[:, :lags].sum(1) >= lags)
    X, level, unit, past, seen = X[good], level[good, None], unit[good, None], past[good], seen[good]
    same = X[:, lags - min(season, lags) + np.arange(horizon) % min(season, lags)]  # the value of its phase
    moved = np.clip((past[:, lags:] - level) / unit, -FURTHEST, FURTHEST)
    targets = np.where(seen[:, lags:], moved, same)
    next_one = seen[:, lags]
    noise = float(((targets[:, 0] - same[:, 0])[next_one] ** 2).mean()) if next_one.any() else 0.0
    return _Rows(np.concatenate([X, np.ones((len(X), 1))], 1), targets, first + lags - 1 + ends[good], noise)


def _fitted(
    rows: Iterable[_Rows], weights: NDArray[np.float64], border: int, p: int, horizon: int
) -> NDArray[np.float64]:
    """Coefficients (`p` features × steps), with the shrinkage by which rows whose targets lie before place `border`
    forecast the rows after it best.
    """
    G, B, square, count = np.zeros((3, p, p)), np.zeros((3, p, horizon)), 0.0, np.zeros(3)
    for one, weight in zip(rows, weights, strict=True):
        when = np.where(one.place > border, 2, np.where(one.place <= border - horizon, 0, 1))
        for k in range(3):
            X, y = one.X[when == k], one.y[when == k]
            G[k] += weight * (X.T @ X)
            B[k] += weight * (X.T @ y)
            count[k] += len(X)
            square += weight * (y * y).sum() if k == 2 else 0.0
    best = SHRINKAGE[len(SHRINKAGE) // 2]
    if count[0] >= LEAST_ROWS / 2 and count[2] >= LEAST_ROWS / 4:
        errors: list[float] = []
        for shrinkage in SHRINKAGE:
            beta = _ridge(G[0], B[0], shrinkage)
            errors.append(float(square - 2.0 * (beta * B[2]).sum() + (beta * (G[2] @ beta)).sum()))
        best = SHRINKAGE[int(np.argmin(errors))]
    return _ridge(G.sum(0), B.sum(0), best)


def _ridge(G: NDArray[np.float64], B: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Coefficients that minimise squared errors, shrunk towards zero but for the constant, the last one."""
    strength = np.full(len(G), shrinkage * float(np.trace(G)) / len(G))
    strength[-1] = 0.0
    return np.asarray(np.linalg.solve(G + np.diag(strength), B), np.float64)
