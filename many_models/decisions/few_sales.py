"""Demand of series that have sold a few times only: what came of others that had sold as rarely by then.

Such a series tells too little of its own intervals and sizes. Its backtest misleads, too: that it still has few sales
means that few came in its windows. So windows are taken by the sales before them, of whatever series, also those that
have sold often since: analogues (compare Hyndman & Athanasopoulos 2021, section 6.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import Backtest, Histories

    Floats = NDArray[np.float64]

MOST_WINDOWS = 1000


@dataclass(frozen=True)
class Analogues:
    """Windows that began with few sales: how many there were `before`, and what came (`y`, windows × steps) over the
    mean size of the sales before, where there were any; in the order of both.
    """

    before: NDArray[np.int64]
    y: Floats

    def there(self, least: int, most: int) -> NDArray[np.bool_]:
        """By the number of sales before, from 0 to `most`, whether at least so many windows are known."""
        return np.bincount(self.before, minlength=most + 1) >= least

    def paths(self, rng: np.random.Generator, past: Floats, number: int) -> NDArray[np.float32]:
        """Paths (number × steps) of a series with this `past`, in antithetic pairs, of the windows that began with as
        many sales. All of them: the nearest by forecast are too few to tell what comes once in twenty times.
        """
        sizes = past[past > 0]
        unit = float(sizes.mean()) if len(sizes) else 1.0
        ordered = self.y[self.before == len(sizes)]
        half = (number + 1) // 2
        u = (rng.permutation(half) + rng.random(half)) / (2 * half)
        u = np.concatenate([u, 1.0 - u])[:number]
        pick = np.minimum((u * len(ordered)).astype(np.int64), len(ordered) - 1)
        return (ordered[pick] * unit).astype(np.float32)


def analogues(backtest: Backtest, histories: Histories, most: int, rarely: float) -> Analogues:
    """The windows of `backtest` before which a series had sold at most `most` times, and in a smaller share of its
    periods than `rarely`. Nothing is taken of a window of which nothing is known, or that holds a fault.
    """
    error = backtest.errors()
    windows, steps = error.shape[1:]
    before, y = list[int](), list["Floats"]()
    for i in np.flatnonzero(np.isfinite(error).all(2).sum(1)).tolist():
        own = histories.y[histories.start[i] : histories.start[i + 1]]
        if np.count_nonzero(own[: max(len(own) - windows * steps, 0)] > 0) > most:
            continue
        for w in np.flatnonzero(np.isfinite(error[i]).all(1)).tolist():
            past = own[: max(len(own) - (windows - w) * steps, 0)]
            past = past[np.isfinite(past)]
            sizes = past[past > 0]
            if len(past) and len(sizes) <= most and len(sizes) < rarely * len(past):
                unit = float(sizes.mean()) if len(sizes) else 1.0
                before.append(len(sizes))
                y.append(np.maximum(np.nan_to_num(backtest.y[i, w]), 0.0) / unit)
    return _thinned(Analogues(np.array(before, np.int64), np.array(y).reshape(-1, steps)))


def _thinned(found: Analogues) -> Analogues:
    """At most MOST_WINDOWS with as many sales before, evenly chosen along what came: a draw stays quick."""
    order = np.lexsort((found.y.sum(1), found.before))
    kept = list["NDArray[np.int64]"]()
    for few in np.unique(found.before).tolist():
        mine = order[found.before[order] == few]
        places = np.linspace(0, len(mine) - 1, min(len(mine), MOST_WINDOWS)).round().astype(np.int64)
        kept.append(mine[places])
    rows = np.concatenate(kept) if kept else np.zeros(0, np.int64)
    return Analogues(found.before[rows], found.y[rows])
