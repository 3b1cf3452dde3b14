"""What follows where a series drifted, besides an alarm: wider intervals, or the forecasts of its seasonal naive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from many_models.decisions.drift import OUTSIDE, normal_quantile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from many_models.decisions.drift import Found

    Floats = NDArray[np.float64]

Answer = Literal["ask", "widen", "baseline"]
COLUMN = "drift_answer"  # of the predictions: what was done to a row and why, null for all other rows
FALLBACK = "drift"
SIDES = {"up": "above", "down": "below"}


def widening(scores: Floats, found: Found) -> Floats:
    """How many times as wide the interval of each series would have had to be, from where its last alarm began.

    `scores` are normal scores of its errors (series × periods, NaN where nothing came): the factor is the 80 %
    quantile of their sizes since then over the standard normal's. 1 without an alarm, and never below 1.
    """
    factors = np.ones(len(scores))
    usual = float(normal_quantile(1 - OUTSIDE / 2))
    for at in np.flatnonzero(found.alarm >= 0).tolist():
        since = scores[at, found.began[at] :]
        since = np.abs(since[np.isfinite(since)])
        if len(since):
            factors[at] = max(float(np.quantile(since, 1 - OUTSIDE, method="hazen")) / usual, 1.0)
    return factors


@dataclass(frozen=True, slots=True)
class Drifted:
    """What the table of drift says of a series that drifted: the chart, the side of its actuals, when it alarmed, and
    how much wider its interval should be.
    """

    kind: str
    direction: str
    alarmed_at: str
    factor: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Drifted:
        """A row of the table; one of an earlier version has no factor."""
        return cls(row["kind"], row["direction"] or "", f"{row['alarmed_at']:%Y-%m-%d}", row.get("widen") or 1.0)

    def reason(self, answer: Answer) -> str:
        """What was done and why, in words."""
        done = f"interval {self.factor:.1f} times as wide" if answer == "widen" else "seasonal naive"
        side = SIDES.get(self.direction, "beside")
        return f"{done}: drift of its {self.kind}, actuals {side} the forecasts, noticed {self.alarmed_at}"


def answered(rows: pa.Table, drifted: Mapping[str, Drifted], answer: Answer, *, nonnegative: bool) -> pa.Table:
    """Predictions with the column `COLUMN`; the rows of series in `drifted` are changed, all others are as they were.

    "widen" moves lo… and hi… away from y_hat. For "baseline" the rows must be the seasonal naive's already: their
    column `fallback` says why.
    """
    names = rows["series_id"].to_pylist()
    mine = np.array([name in drifted for name in names], bool)
    said = [drifted[name].reason(answer) if name in drifted else None for name in names]
    found = rows
    if answer == "widen" and mine.any():
        factor = np.array([drifted[name].factor if name in drifted else 1.0 for name in names])
        y_hat = np.asarray(rows["y_hat"].to_numpy(), np.float64)
        for name in (one for one in rows.column_names if one[:2] in {"lo", "hi"} and one[2:].isdigit()):
            bound = np.asarray(rows[name].to_numpy(), np.float64)
            moved = y_hat + factor * (bound - y_hat)
            moved = np.maximum(moved, np.minimum(bound, 0.0)) if nonnegative else moved
            found = found.set_column(found.column_names.index(name), name, pa.array(np.where(mine, moved, bound)))
    if answer == "baseline" and mine.any():
        before = found["fallback"].to_pylist()
        after = [FALLBACK if own else value for own, value in zip(mine.tolist(), before, strict=True)]
        found = found.set_column(found.column_names.index("fallback"), "fallback", pa.array(after, pa.string()))
    return found.append_column(COLUMN, pa.array(said, pa.string()))
