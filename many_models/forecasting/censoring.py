"""Sales that stock cut short: which periods are lower bounds of demand, and what was asked for in them.

A period's demand is estimated from the periods before it and from itself alone, so that no backtest window sees what
came after it, and from its own series alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.forecasting.spec import Spec

CENSORED = "censored"  # the state of a row whose y is the demand behind a sale that stock cut short
IN_STOCK, LOWER_BOUND, NOTHING_KNOWN = 0, 1, 2
ROUNDING = 1e-6  # beyond 0 and 1 that a share may be
HALF_LIFE = 28.0  # periods after which what was usual is half forgotten
LEAST = 4  # periods before a series has a usual demand
LEAST_SHARE = 0.25  # of a period that may speak for all of it before that
LONGEST_SEASON = 31  # periods of a season whose phases have a factor each
BELIEVED, SLOWEST = 3.0, 8.0  # seasons that a factor of one is worth, and that a factor remembers


def share_of(values: NDArray[np.float64], *, available: bool, open_hours: float = 0.0) -> NDArray[np.float64]:
    """The share of each period with stock, from `data.available`, or from `data.sold_out` in hours or as a flag; NaN
    for a flag that says sold out and not when. An empty value says that there was stock.
    """
    known = np.isfinite(values)
    if available:
        share = np.clip(values, 0.0, 1.0)
    elif open_hours:
        share = np.clip(1.0 - values / open_hours, 0.0, 1.0)
    else:
        share = np.where(values > 0, np.nan, 1.0)
    return np.where(known, share, 1.0)


def problem_of(values: NDArray[np.float64], spec: Spec) -> tuple[int, str] | None:
    """The place of the first value that cannot be meant, and a sentence on it."""
    if spec.available:
        most, needed = 1.0, "a share from 0 to 1"
    elif spec.open_hours:
        most, needed = spec.open_hours, f"hours from 0 to data.open_hours ({spec.open_hours:g})"
    else:
        most, needed = 1.0, "0 or 1 (for hours set data.open_hours)"
    bad = (values < -ROUNDING) | (values > most * (1 + ROUNDING))
    if not spec.available and not spec.open_hours:
        bad |= np.isfinite(values) & (values != 0.0) & (values != 1.0)
    if not bad.any():
        return None
    at = int(bad.argmax())
    return at, f"{censoring_column(spec)} is {values[at]:g}, needed {needed}: correct it in the source"


def censoring_column(spec: Spec) -> str:
    """The column that says what stock there was, "" for none."""
    return spec.available or spec.sold_out


def demand(
    y: NDArray[np.float64], share: NDArray[np.float64], phase: NDArray[np.int64], season: int
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Demand of each period of one series (`y` NaN where missing), and whether it was IN_STOCK, a LOWER_BOUND, or
    NOTHING_KNOWN.

    Demand is taken as a Poisson process with the rate λ that is usual by then: the level of periods with stock, times
    the factor of the phase. With stock for a share a of the period, (1 - a) λ is added to the sale, but not beyond λ:
    stock runs out on days of much demand, so that the usual demand of other days is not its bound. With a flag
    alone it is the larger one of the sale and λ. A series that hardly ever has stock has no such level. Its own
    comes from y + (1 - a) λ (an online EM algorithm): if it always sells out at noon, from twice its sales.
    """
    out, state = y.copy(), np.full(len(y), IN_STOCK, np.int8)
    cut = np.isfinite(y) & ~(share >= 1.0)
    if not cut.any():
        return out, state
    empty = cut & ((y <= 0) | (share <= 0))  # what sold nothing, or had no stock at any time, bounds nothing
    state[cut], state[empty] = LOWER_BOUND, NOTHING_KNOWN
    usual = _Usual(season if 1 < season <= LONGEST_SEASON else 1)
    for t in np.flatnonzero(np.isfinite(y) & ~empty):
        whole = state[t] == IN_STOCK
        if not whole:
            out[t] = usual.demand(float(y[t]), float(share[t]), int(phase[t]))
        usual.learn(float(out[t]), int(phase[t]), whole=whole)
    return out, state


class _Usual:
    """What a series usually sells in a phase: the level of periods with stock (`level`), and of all at their estimated
    demand (`any_level`).
    """

    def __init__(self, phases: int) -> None:
        self.level, self.any_level, self.weight, self.periods = 0.0, 0.0, 0.0, 0
        self.factor, self.times = np.ones(phases), np.zeros(phases)

    def demand(self, y: float, share: float, phase: int) -> float:
        """The demand behind a sale `y` with stock for a `share` of the period, NaN where that is not known."""
        factor = float(self.factor[phase % len(self.factor)])
        if self.weight >= LEAST:
            rate = self.level * factor
            missed = max(rate - y, 0.0)
            return y + (missed if np.isnan(share) else min((1.0 - share) * rate, missed))
        if np.isnan(share):
            return y
        rate = self.any_level * factor if self.periods >= LEAST else y / max(share, LEAST_SHARE)
        return y + (1.0 - share) * rate

    def learn(self, y: float, phase: int, *, whole: bool) -> None:
        """Move on over a period of demand `y`, which was observed where stock was there for the `whole` of it."""
        place, kept = phase % len(self.factor), 0.5 ** (1.0 / HALF_LIFE)
        level = self.level if self.weight >= LEAST else self.any_level
        if len(self.factor) > 1 and level > 0:
            self.times[place] += 1.0
            self.factor[place] += (y / level - self.factor[place]) / min(self.times[place] + BELIEVED, SLOWEST)
        adjusted = y / max(float(self.factor[place]), 0.1)
        self.periods += 1
        self.any_level += max(1.0 / self.periods, 1.0 - kept) * (adjusted - self.any_level)
        self.weight = kept * self.weight + whole
        if whole:
            self.level += (adjusted - self.level) / self.weight
