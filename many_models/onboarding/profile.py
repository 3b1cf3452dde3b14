"""Facts about a table that inference needs: what follows from what, what repeats, what a name suggests."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.onboarding.value_types import Column

_SAMPLE_ROWS, _DATE_SAMPLE_ROWS = 200_000, 50_000
_REGULAR = 2  # different steps of a running number: of a day it is one, of a week none or one
_GROWING = 24  # values that all grow are no chance: a total since the beginning
_YEARS_APART = 4  # a few rows that long before all others are typing errors


class TableProfile:
    """A table's columns, its time, and (once keys are set) its series; what is computed from them is kept."""

    def __init__(self, columns: Mapping[str, Column], time: Column, now: datetime) -> None:
        self.columns = columns
        self.time = time
        ds: NDArray[np.datetime64] = time.values  # pyright: ignore[reportAssignmentType]
        late = ds > np.datetime64(now.astimezone(UTC).replace(tzinfo=None), "us")
        self.late = int(late.sum())
        self.ds = np.where(late, np.datetime64("NaT"), ds)
        self.early = mistaken_days(self.ds[~np.isnat(self.ds)])
        early = np.isin(self.ds.astype("datetime64[D]"), self.early)
        self.early_rows = int(early.sum())
        self.ds = np.where(early, np.datetime64("NaT"), self.ds)
        self.ds_codes = codes_of(self.ds.view(np.int64))
        self.dates = int(self.ds_codes.max()) + 1
        self.rows = len(self.ds)
        self.keys: tuple[str, ...] = ()
        self._calendar: dict[str, bool] = {}
        self._few: dict[str, NDArray[np.float64]] = {}

    def set_keys(self, keys: tuple[str, ...]) -> None:
        """From now on series are the different values of `keys`."""
        self.keys = keys
        self._varies: dict[str, bool] = {}
        self.series = self.group(keys)
        self.series_count = int(self.series.max()) + 1

    def group(self, names: Iterable[str], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """A number per row (of `rows`), the same where all columns `names` are; counted from 0 without gaps."""
        size = self.rows if rows is None else len(rows)
        codes = np.zeros(size, np.int64)
        for name in names:
            column = self.columns[name]
            own = column.codes if rows is None else column.codes[rows]
            codes = codes_of(codes * len(column.levels) + own)
        return codes

    def unique_share(self, names: Sequence[str], rows: NDArray[np.int64] | None = None) -> float:
        """The share of rows (by default those with a date) that are the first for their `names` and time."""
        rows = np.flatnonzero(~np.isnat(self.ds)) if rows is None else rows
        if not len(rows):
            return 1.0
        times = self.ds_codes[rows]
        codes = codes_of(self.group(names, rows) * self.dates + times)
        return (int(codes.max()) + 1) / len(codes)

    @cached_property
    def are_events(self) -> bool:
        """Whether rows come at any minute of a day, as receipts do, and not at regular times."""
        there = self.ds[~np.isnat(self.ds)][:_SAMPLE_ROWS]
        minutes = there.astype("datetime64[m]").astype(np.int64) % (24 * 60)
        return len(there) > 100 and len(np.unique(minutes)) > 96 and bool((minutes % 15 != 0).mean() > 0.3)

    @property
    def dated_series(self) -> int:
        """Series with a row that has a date: footnotes and a repeated header are none."""
        return len(np.unique(self.series[~np.isnat(self.ds)]))

    @cached_property
    def some_dates(self) -> NDArray[np.int64]:
        """All rows of some dates."""
        per_date = self.rows / self.dates
        count = int(min(self.dates, max(3, _DATE_SAMPLE_ROWS / per_date)))
        dates = np.unique(np.linspace(0, self.dates - 1, count).astype(int))
        return np.flatnonzero(np.isin(self.ds_codes, dates))

    @cached_property
    def some_series(self) -> NDArray[np.int64]:
        """All rows of some series, sorted by series and time."""
        count = int(max(1, min(self.series_count, _SAMPLE_ROWS * self.series_count / self.rows)))
        chosen = np.unique(np.linspace(0, self.series_count - 1, count).astype(int))
        rows = np.flatnonzero(np.isin(self.series, chosen) & ~np.isnat(self.ds))
        return rows[np.lexsort((self.ds[rows], self.series[rows]))]

    def few_values(self, name: str) -> NDArray[np.float64]:
        """The values of a column of numbers in 32 rows, the same for all columns."""
        if name not in self._few:
            rows = self.some_series
            at = rows[np.linspace(0, len(rows) - 1, min(32, len(rows))).astype(int)]
            self._few[name] = self.columns[name].levels[self.columns[name].codes[at]].astype(np.float64)
        return self._few[name]

    @cached_property
    def neighbours(self) -> NDArray[np.bool_]:
        """Which of `some_series`' rows but the first have their series in common with the row before."""
        series = self.series[self.some_series]
        return series[1:] == series[:-1]

    @cached_property
    def day(self) -> NDArray[np.int64]:
        """Days since 1970 (0 where there is no date)."""
        return np.where(np.isnat(self.ds), np.datetime64(0, "us"), self.ds).astype("datetime64[D]").astype(np.int64)

    def change_rate(self, name: str) -> float:
        """How often a column differs from its value one row before in the same series."""
        codes = self.columns[name].codes[self.some_series]
        changed = (codes[1:] != codes[:-1])[self.neighbours]
        return float(changed.mean()) if len(changed) else 0.0

    def varies(self, name: str) -> bool:
        """Whether some series has more than one value."""
        if name not in self._varies:
            column = self.columns[name]
            firsts = np.zeros(self.series_count, np.int64)
            firsts[self.series[::-1]] = column.codes[::-1]
            self._varies[name] = bool((column.codes != firsts[self.series]).any())
        return self._varies[name]

    def follows(self, name: str, group: NDArray[np.int64]) -> bool:
        """Whether the column is the same in (nearly) all rows of a group."""
        column = self.columns[name]
        groups = int(codes_of(group).max()) + 1
        combined = codes_of(group * len(column.levels) + column.codes)
        return int(combined.max()) + 1 <= groups * 1.002

    def follows_time(self, name: str) -> bool:
        """Whether the column says the same of all series at one time."""
        return self.follows(name, self.ds_codes)

    def is_calendar(self, name: str) -> bool:
        """Whether the column is a part of the date: year, month, weekday or week."""
        if name not in self._calendar:
            self._calendar[name] = self.follows_time(name) and self._is_part_of_date(name)
        return self._calendar[name]

    @cached_property
    def _one_row_a_date(self) -> NDArray[np.int64]:
        first = np.zeros(self.dates, np.int64)
        first[self.ds_codes] = np.arange(self.rows)
        return first[np.argsort(self.ds[first])]

    def _is_part_of_date(self, name: str) -> bool:
        """Look at one row a date, since the column is the same in all of them."""
        rows, column = self._one_row_a_date, self.columns[name]
        ds, day, codes = self.ds[rows], self.day[rows], column.codes[rows]
        months = ds.astype("datetime64[M]")
        month = months.astype(np.int64)
        of_month = day - months.astype("datetime64[D]").astype(np.int64)
        hour = ds.astype("datetime64[h]").astype(np.int64) % 24
        parts = [day % 7, month % 12, of_month, month // 12, month, hour, *((day + shift) // 7 for shift in range(7))]
        for part in parts:
            groups = codes_of(np.where(np.isnat(ds), 0, part))
            count = int(groups.max()) + 1
            together = int(codes_of(groups * len(column.levels) + codes).max()) + 1
            if count <= self.dates / 3 and together <= count * 1.002:
                return True
        if column.kind != "number":
            return False
        steps = np.diff(
            column.values[rows]
        )  # a running number? Few dates may also grow by chance, or from year to year
        regular = len(np.unique(steps)) <= _REGULAR or len(steps) >= _GROWING
        return bool((steps >= 0).all()) and regular and len(np.unique(column.values[rows])) > self.dates / 10


def mistaken_days(ds: NDArray[np.datetime64]) -> NDArray[np.datetime64]:
    """Days of `ds` that are years before all others and have few rows, like typing errors: at most all but the last."""
    different, counts = np.unique(ds.astype("datetime64[D]"), return_counts=True)
    gaps = np.flatnonzero(np.diff(different).astype(np.int64) > _YEARS_APART * 365)
    few = [gap for gap in gaps if int(counts[: gap + 1].sum()) <= max(3, 0.001 * len(ds))]
    return different[: few[-1] + 1] if few else different[:0]


def codes_of(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values' numbers in order of appearance, from 0."""
    return pa.array(values).dictionary_encode().indices.to_numpy().astype(np.int64)


def tokens_of(name: str) -> list[str]:
    """The words of a column's name in lower case: WeekStarting, week_starting and week starting are the same."""
    spaced = re.sub(r"(?<=[a-zà-ÿ0-9])(?=[A-Z])", " ", name)
    return [token for token in re.split(r"[\W_\d]+", spaced.casefold()) if token]


def name_suggests(name: str, words: Sequence[str]) -> bool:
    """Whether the name speaks of one of `words`: short ones as a whole, long ones anywhere."""
    tokens = tokens_of(name)
    joined = "".join(tokens)
    return any(word in tokens or (len(word) > 3 and word in joined) for word in words)
