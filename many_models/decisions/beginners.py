"""Demand of series that began to sell not long ago: what came of others at the same age.

A launch fills shelves, grows or fades as no later month does. The series' own past is too short to tell how far off a
forecast may be, that of series which have long sold is too calm, and training leaves beginners out of its backtest.
What came of others after their first sale is in their histories; it is taken over what they had sold a period by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import Histories

    Floats = NDArray[np.float64]

HORIZONS = 2  # after its first sale a series is a beginner
NEAREST = 100  # windows that may come
MOST_SERIES = 200  # whose windows are kept of an age
FAULT = 1e4  # times what a series sold a period, from which on a window holds a fault of the data
LEAST_SERIES = 20  # that tell of an age


@dataclass(frozen=True)
class Beginners:
    """Windows of beginners: how many periods after the first sale they began (`age`), in how many of these the series
    had sold (`sales`), and what came (`y`, windows × steps) over what it had sold a period.
    """

    age: NDArray[np.int64]
    sales: NDArray[np.int64]
    y: Floats

    def oldest(self) -> int:
        """The highest age that the windows tell of."""
        return int(self.age.max(initial=0))

    def paths(self, rng: np.random.Generator, past: Floats, number: int) -> NDArray[np.float32]:
        """Paths (number × steps) of a beginner with this `past` since its first sale, in antithetic pairs: windows of
        about the same age with about as many sales.
        """
        apart = np.abs(np.log(self.age / len(past))) + np.abs(np.log(self.sales / np.count_nonzero(past > 0)))
        near = np.argpartition(apart, NEAREST - 1)[:NEAREST] if len(apart) > NEAREST else np.arange(len(apart))
        ordered = self.y[near[np.argsort(self.y[near].sum(1), kind="stable")]]
        half = (number + 1) // 2
        u = (rng.permutation(half) + rng.random(half)) / (2 * half)
        u = np.concatenate([u, 1.0 - u])[:number]
        pick = np.minimum((u * len(ordered)).astype(np.int64), len(ordered) - 1)
        return (ordered[pick] * past.mean()).astype(np.float32)


def beginners(histories: Histories, steps: int) -> Beginners:
    """The windows of so many `steps`, up to HORIZONS of them after the first sale, of all series that began within
    their history. A window with unknown periods is left out; so are all where few series began.
    """
    begun, end = histories.began(), histories.start[1:]
    there, found = np.flatnonzero(histories.ages(steps) > steps), list[Beginners]()
    for age in range(1, HORIZONS * steps + 1):
        rows = there[begun[there] + age + steps <= end[there]]
        if len(rows) < LEAST_SERIES:
            break
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_SERIES)).round().astype(np.int64)]
        periods = histories.y[begun[rows, None] + np.arange(age + steps)]
        unit = np.nanmean(periods[:, :age], 1, keepdims=True)
        usable = (periods[:, age:] < FAULT * (unit + 1.0)).all(1)
        sales, y = (periods[usable, :age] > 0).sum(1), np.maximum(periods[usable, age:] / unit[usable], 0.0)
        found.append(Beginners(np.full(len(y), age, np.int64), sales, y))
    none = np.zeros(0, np.int64)
    found.append(Beginners(none, none, np.zeros((0, steps))))
    return Beginners(*(np.concatenate([getattr(one, name) for one in found]) for name in ("age", "sales", "y")))
