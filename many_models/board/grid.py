"""The columns that recent actuals and forecasts of all items are kept in: days, or the periods of coarser data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.pack.mm_pack_v1 import stamps, step_number
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

NAMES = {"D": "day", "B": "working day", "W": "week", "M": "month", "Q": "quarter", "Y": "year"}
DAYS = {"D": 1.0, "B": 1.4, "W": 7.0, "M": 30.5, "Q": 91.5, "Y": 365.25}


@dataclass(frozen=True, slots=True)
class Grid:
    """Hours are put into days; other periods are columns themselves. `columns` of them are kept of the past, and
    `together` of them make a group whose sums show how much an item scatters (a week of days).
    """

    frequency: str
    unit: str
    columns: int
    together: int

    @property
    def name(self) -> str:
        """What people call a column."""
        return NAMES[self.unit]

    @property
    def days(self) -> float:
        """The days that are kept of the past."""
        return self.columns * DAYS[self.unit]

    def number(self, ds: NDArray[np.datetime64]) -> NDArray[np.int64]:
        """The column of each stamp, counted from 1970."""
        return step_number(ds, self.frequency)

    def dates(self, last: datetime, count: int, *, after: bool = False) -> NDArray[np.datetime64]:
        """The first days of the `count` columns up to `last`, or of those after it."""
        at = int(self.number(np.array([last], "datetime64[us]"))[0])
        numbers = np.arange(at + 1, at + 1 + count) if after else np.arange(at - count + 1, at + 1)
        return stamps(numbers, self.frequency).astype("datetime64[D]")


def grid_of(frequency: str) -> Grid:
    """The columns of data of a frequency."""
    if frequency == "B":
        return Grid(frequency, "B", 65, 5)
    unit = rhythm(frequency).unit
    if unit in {"h", "D"}:
        return Grid("D", "D", 91, 7)
    return Grid(frequency, unit, 26 if unit == "W" else 24, 1)
