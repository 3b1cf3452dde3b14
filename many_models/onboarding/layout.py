"""Tables that people lay out for their eyes, turned into a row a series and period: wide ones, and dates in parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.onboarding.files import open_file
from many_models.onboarding.grid import Reading, examples
from many_models.onboarding.profile import name_suggests
from many_models.onboarding.readers import TableKind, TableReader, clean_names, head
from many_models.onboarding.value_types import infer_column, parse_times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_SAMPLE = 2_000
_ALL_BUT_A_FEW = 0.95
DATE, VALUE = "date", "value"
_YEARS = "year yr jahr anno année año jaar".split()
_QUARTERS = "quarter qtr quartal trimestre".split()
_MONTHS = "month mon monat mes mois maand".split()
_WEEKS = "week wk woche kw semana semaine".split()
_DAYS = "day tag jour dia dag".split()
_STEPS = {"d": 1, "day": 1, "tag": 1, "w": 7, "week": 7, "kw": 7, "m": 0, "month": 0, "t": 1, "period": 1, "p": 1}
_NAMES = {
    name[:3]: number
    for names in (
        "january february march april may june july august september october november december",
        "januar februar märz april mai juni juli august september oktober november dezember",
        "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    )
    for number, name in enumerate(names.split(), 1)
}
_STYLES = (
    "iso", "%Y-%m", "isoweek", "%Y%m%d", "%Y%m", "%Y", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d.%m.%y",
    "%Y/%m/%d", "%Y.%m.%d", "%Y_%m_%d", "%d-%m-%Y", "%b-%y", "%b %y", "%b %Y", "%b-%Y", "%B %Y", "%d-%b-%y", "%d %b %Y",
    "%m/%Y", "%m.%Y", "%Y/%m", "%Y.%m", "%Y_%m", "%b_%Y", "%YM%m",
)  # fmt: skip


def open_table(location: str | Path, *, sheet: str = "", first: date | None = None) -> TableReader:
    """The rows of a file or a folder, one a series and period. `first` is the day of a first column like `d_1`.

    Raises InputError for what cannot be read.
    """
    reader = open_file(location, sheet)
    table, _ = head(reader, _SAMPLE)
    table = table.slice(0, _SAMPLE)
    for find in (_find_wide, _find_parts, _find_grouped):
        step = find(table, first)
        if step is not None:
            return Reshaped(reader, step, table)
    return reader


class Step:
    """One way to turn a table into another."""

    what = ""
    question = ""

    def begin(self) -> None:
        """Begin: the next table is the first one."""

    def apply(self, table: pa.Table) -> pa.Table:
        """The table in its new form."""
        raise NotImplementedError


@dataclass
class Reshaped:
    """A reader whose tables are turned by a step."""

    reader: TableReader
    step: Step
    sample: pa.Table
    readings: list[Reading] = field(init=False)

    def __post_init__(self) -> None:
        self.step.begin()
        after = self.step.apply(self.sample.slice(0, 50))
        shown = examples(_rows(self.sample)), examples(_rows(after))
        self.readings = [*self.reader.readings, Reading(self.step.what, *shown, question=self.step.question)]

    def __str__(self) -> str:
        return str(self.reader)

    @property
    def kind(self) -> TableKind:
        """See `TableReader`."""
        return self.reader.kind

    @property
    def separator(self) -> str:
        """The CSV file's, or a comma."""
        return getattr(self.reader, "separator", ",")

    @property
    def notes(self) -> Sequence[str]:
        """See `TableReader`."""
        return self.reader.notes

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader`."""
        self.step.begin()
        for table in self.reader.batches():
            yield self.step.apply(table)


def _rows(table: pa.Table) -> list[list[object]]:
    return [list(table.column_names), *(list(row.values()) for row in table.slice(0, 2).to_pylist())]


# --- Wide tables ----------------------------------------------------------------------------------------------------
@dataclass
class Melt(Step):
    """A column for each period, or for each measure and period, becomes a row for each period.

    `columns` maps a column to its measure and its period; `years` is a column with the year of all periods, whose
    dates are then the first of those months.
    """

    columns: Mapping[str, tuple[str, date]]
    what: str
    question: str = ""
    years: str = ""

    def apply(self, table: pa.Table) -> pa.Table:
        """Cells without a value are not rows."""
        measures = list(dict.fromkeys(measure for measure, _ in self.columns.values()))
        periods = list(dict.fromkeys(day for _, day in self.columns.values()))
        at = {place: name for name, place in self.columns.items() if name in table.column_names}
        ids = [name for name in table.column_names if name not in self.columns and name != self.years]
        kind = _common_type([table[name] for name in at.values()])
        parts = list[pa.Table]()
        for day in periods:
            values = [
                table[at[measure, day]].cast(kind) if (measure, day) in at else pa.nulls(table.num_rows, kind)
                for measure in measures
            ]
            days = self._days(table, day)
            names = clean_names([*ids, DATE, *measures])
            parts.append(pa.table([*(table[name] for name in ids), days, *values], names=names))
        whole = pa.concat_tables(parts).combine_chunks()
        filled = None
        for measure in whole.column_names[-len(measures) :]:
            there = _is_filled(whole[measure])
            filled = there if filled is None else pc.or_(filled, there)
        return whole.filter(filled)

    def _days(self, table: pa.Table, day: date) -> pa.Array:
        if not self.years:
            return pa.array([day] * table.num_rows, pa.date32())
        years = [_whole(year) for year in table[self.years].to_pylist()]
        return pa.array([None if year is None else day.replace(year=year) for year in years], pa.date32())


def _common_type(columns: Sequence[pa.ChunkedArray]) -> pa.DataType:
    kinds = {column.type for column in columns if column.null_count < len(column)} or {pa.float64()}
    if len(kinds) == 1:
        return kinds.pop()
    return (
        pa.float64() if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds) else pa.string()
    )


def _is_filled(column: pa.ChunkedArray) -> pa.ChunkedArray:
    filled = pc.is_valid(column)
    if pa.types.is_string(column.type):
        blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), fill_value=True)
        filled = pc.and_(filled, pc.invert(blank))
    return filled


def _find_wide(table: pa.Table, first: date | None) -> Step | None:
    """How a table with a column for each period is turned, or None for another one."""
    names = table.column_names
    split = {name: _measure_and_rest(name) for name in names}
    for style in _STYLES:
        found: dict[str, tuple[str, date]] = {}
        for named in (False, True):
            rests = [split[name][1] if named else name.strip() for name in names]
            if not any(sign.isdigit() for rest in rests for sign in rest):
                continue
            days = _days_of(rests, style)
            found = {
                name: (split[name][0] or VALUE if named else VALUE, day)
                for name, day in zip(names, days, strict=True)
                if day is not None
            }
            if _is_wide(table, found):
                days_there = sorted({day for _, day in found.values()})
                what = f"a table with a column for each period ({days_there[0]} to {days_there[-1]}), turned into rows"
                return Melt(found, what)
    return _find_numbered(table, first) or _find_months(table)


def _measure_and_rest(name: str) -> tuple[str, str]:
    found = re.match(r"^([^\W\d]+(?:[ _][^\W\d]+)*?)[ _:.-]*((?:[A-Za-z]{3,9}[ _-])?\d.*)$", name.strip())
    return (found[1], found[2]) if found else ("", name.strip())


def _days_of(texts: Sequence[str], style: str) -> list[date | None]:
    if style in {"%Y%m%d", "%Y%m", "%Y"}:
        length = {"%Y%m%d": 8, "%Y%m": 6, "%Y": 4}[style]
        texts = [
            text if text.isdigit() and len(text) == length and "1900" <= text[:4] <= "2100" else "" for text in texts
        ]
    elif style == "iso":
        texts = [text if re.match(r"^\d{4}-\d\d-\d\d", text) else "" for text in texts]
    if not any(texts):
        return [None] * len(texts)
    return [
        None if np.isnat(day) else day.astype("datetime64[D]").item() for day in parse_times(pa.array(texts), style)
    ]


def _is_wide(table: pa.Table, found: Mapping[str, tuple[str, date]]) -> bool:
    """Whether these columns are at least three different periods, and hold numbers."""
    periods = {day for _, day in found.values()}
    if len(periods) < 3 or len(set(found.values())) < len(found):
        return False
    some = [*found][:: max(1, len(found) // 12)]
    kinds = [infer_column(name, table[name]).kind for name in some]
    return sum(kind in {"number", "flag", "empty"} for kind in kinds) > 0.8 * len(kinds) and set(kinds) != {"empty"}


def _find_numbered(table: pa.Table, first: date | None) -> Step | None:
    """Columns d_1, d_2 …: their dates are not in the file."""
    groups: dict[str, dict[int, str]] = {}
    for name in table.column_names:
        if (found := re.fullmatch(r"([A-Za-z]+)[ _]?0*(\d+)", name.strip())) and found[1].casefold() in _STEPS:
            groups.setdefault(found[1].casefold(), {})[int(found[2])] = name
    for prefix, columns in groups.items():
        numbers = sorted(columns)
        if len(numbers) < 6 or numbers[-1] - numbers[0] + 1 != len(numbers):
            continue
        step = _STEPS[prefix]
        start = first or _first_so_that_it_ends_now(len(numbers), step)
        days = [_later(start, i, step) for i in range(len(numbers))]
        melted = {columns[number]: (VALUE, day) for number, day in zip(numbers, days, strict=True)}
        if not _is_wide(table, melted):
            continue
        told = f"{columns[numbers[0]]} … {columns[numbers[-1]]}"
        what = f"a table with {len(numbers):,} periods in order, {told}, from {days[0]} to {days[-1]}"
        why = "" if first else f"which day is {columns[numbers[0]]}? The file does not say; --first 2011-01-29 does"
        return Melt(melted, what, why)
    return None


def _first_so_that_it_ends_now(count: int, step: int) -> date:
    today = date.today()  # noqa: DTZ011  the file's own days
    if step == 0:
        return _later(today.replace(day=1), -count, 0)
    last = today - timedelta(days=1 if step == 1 else today.weekday() + 7)
    return last - timedelta(days=step * (count - 1))


def _later(start: date, count: int, step: int) -> date:
    if step:
        return start + timedelta(days=step * count)
    months = start.year * 12 + start.month - 1 + count
    return date(months // 12, months % 12 + 1, 1)


def _find_months(table: pa.Table) -> Step | None:
    """Columns Jan … Dec beside a column with the year."""
    months = {name: number for name in table.column_names if (number := _month_of(name))}
    years = [name for name in table.column_names if name not in months and _is_year(table, name)]
    if len(months) < 6 or len(set(months.values())) < len(months) or not years:
        return None
    columns = {name: (VALUE, date(2000, number, 1)) for name, number in months.items()}
    what = f"a table with a column for each month, of the year in {years[0]!r}, turned into rows"
    return Melt(columns, what, years=years[0]) if _is_wide(table, columns) else None


def _month_of(text: str) -> int:
    word = text.strip().strip(".").casefold()
    return _NAMES.get(word[:3], 0) if word.isalpha() and (len(word) == 3 or word in _LONG_NAMES) else 0


_LONG_NAMES = frozenset(
    "january february march april may june july august september october november december sept januar februar märz "
    "mai juni juli oktober dezember enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre "
    "diciembre".split()
)


# --- Dates in parts -------------------------------------------------------------------------------------------------
@dataclass
class JoinDate(Step):
    """A year and a month, a week, a quarter or a day, each with its own column, become one date."""

    year: str
    month: str
    day: str
    unit: str
    what: str

    def apply(self, table: pa.Table) -> pa.Table:
        """The date comes first; rows without one have null."""
        parts = [table[name].to_pylist() if name else None for name in (self.year, self.month, self.day)]
        years, months = parts[0] or [], parts[1] or [1] * table.num_rows
        days = parts[2] or [1] * table.num_rows
        dates = [self._date(*part) for part in zip(years, months, days, strict=True)]
        name = DATE if DATE not in {name.casefold() for name in table.column_names} else "date_of_row"
        gone = [column for column in (self.year, self.month, self.day) if column]
        return table.drop_columns(gone).add_column(0, name, pa.array(dates, pa.date32()))

    def _date(self, year: object, part: object, day: object) -> date | None:
        whole = _whole(year)
        number = _whole(part) or _month_of(str(part)) or _whole(re.sub(r"\D", "", str(part)))
        try:
            if whole is None or not number:
                return None
            if self.unit == "week":
                return date.fromisocalendar(whole, number, 1)
            return date(whole, number * 3 - 2 if self.unit == "quarter" else number, _whole(day) or 1)
        except ValueError:
            return None


def _find_parts(table: pa.Table, _first: date | None) -> Step | None:
    """How the parts of a date are joined, or None where a column has dates or no parts are there."""
    columns = {name: infer_column(name, table[name], time_like=True) for name in table.column_names}
    if any(
        column.kind == "time" and len(column.levels) > 1 and column.type.style != "%Y" for column in columns.values()
    ):
        return None
    years = [name for name in columns if _is_year(table, name)]
    if not years:
        return None
    year = next((name for name in years if name_suggests(name, _YEARS)), years[0])
    for unit, words, most in (("month", _MONTHS, 12), ("week", _WEEKS, 53), ("quarter", _QUARTERS, 4)):
        for name in columns:
            if name == year or not name_suggests(name, words) or not _is_part(table, name, most):
                continue
            days = [d for d in columns if d not in {year, name} and name_suggests(d, _DAYS) and _is_part(table, d, 31)]
            day = days[0] if days and unit == "month" else ""
            told = " and ".join(part for part in (year, name, day) if part)
            return JoinDate(year, name, day, unit, f"a date in parts: {told} become {DATE!r}")
    if name_suggests(year, _YEARS):
        return JoinDate(year, "", "", "year", f"years: {year} becomes {DATE!r}, the first of January")
    return None


def _is_year(table: pa.Table, name: str) -> bool:
    values = [_whole(value) for value in table[name].unique().to_pylist() if value not in {None, ""}]
    return bool(values) and all(value is not None and 1700 <= value <= 2100 for value in values)


def _is_part(table: pa.Table, name: str, most: int) -> bool:
    """Whether a column counts from 1 to `most`, or has months' names, or Q1 and W01."""
    texts = [str(value) for value in table[name].unique().to_pylist() if value not in {None, ""}]
    numbers = [_whole(text) or _month_of(text) or _whole(re.sub(r"^\D+", "", text)) for text in texts]
    return bool(numbers) and all(number and 1 <= number <= most for number in numbers)


def _whole(value: object) -> int | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


# --- Grouped reports --------------------------------------------------------------------------------------------------
@dataclass
class FillDown(Step):
    """Names are on the first row of their group alone, as in a pivot table: they hold for all its rows."""

    columns: Sequence[str]
    what: str
    last: dict[str, object] = field(default_factory=dict[str, object])

    def begin(self) -> None:
        """See `Step.begin`."""
        self.last = {}

    def apply(self, table: pa.Table) -> pa.Table:
        """Each name goes down to the next one, from one table into the next, too."""
        for name in self.columns:
            kind = table.schema.field(name).type
            own = pc.if_else(_is_filled(table[name]), table[name], pa.scalar(None, kind))
            first = pa.chunked_array([pa.array([self.last.get(name)], kind), *own.chunks])
            filled = pc.fill_null_forward(first).slice(1)
            if len(filled):
                self.last[name] = filled[-1].as_py()
            table = table.set_column(table.column_names.index(name), name, filled)
        return table


def _find_grouped(table: pa.Table, first: date | None) -> Step | None:  # noqa: ARG001
    """The columns of texts that are filled where the dates begin again, and hardly anywhere else."""
    columns = {name: infer_column(name, table[name]) for name in table.column_names}
    times = [column.values for column in columns.values() if column.kind == "time" and not column.missing]
    if not times or table.num_rows < 6:
        return None
    starts = np.concatenate([[True], np.diff(times[0].astype(np.int64)) < 0])
    if not 2 <= starts.sum() <= table.num_rows / 3:
        return None
    shown = dict[str, float]()
    for name, column in columns.items():
        if column.kind == "text":
            there = np.asarray(_is_filled(table[name]).to_numpy(), np.bool_)
            if there[0] and there.sum() >= 2 and (there & starts).sum() >= _ALL_BUT_A_FEW * there.sum():
                shown[name] = float((there & starts).sum() / starts.sum())
    if not shown or max(shown.values()) < _ALL_BUT_A_FEW:
        return None
    return FillDown([*shown], f"names on the first row of their group: {', '.join(shown)} hold down to the next one")
