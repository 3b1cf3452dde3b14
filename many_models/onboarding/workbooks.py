"""Excel and OpenDocument workbooks, and JSON, as tables."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, time
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.errors import InputError
from many_models.onboarding.column_roles import TIMES
from many_models.onboarding.grid import Reading, examples, find_header, listed, text_of
from many_models.onboarding.profile import name_suggests
from many_models.onboarding.readers import BATCH_ROWS, TableKind, array_of, clean_names
from many_models.onboarding.value_types import infer_column

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_LOOKED_AT = 100  # rows of a sheet that tell whether it has dates
SHEET = "sheet"  # the column that says which of several sheets a row is from


@dataclass
class ExcelFile:
    """A workbook (xlsx, xlsm, xlsb, xls, ods): one sheet, or all that have the same columns, below one another."""

    path: Path
    sheet: str = ""
    kind: TableKind = "excel"
    notes: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])

    def __str__(self) -> str:
        return str(self.path)

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader.batches`; numbers, dates and texts as the workbook has them."""
        grids = self._chosen
        names = grids[0].names
        for grid in grids:
            columns = [cells_of([row[i] if i < len(row) else None for row in grid.rows]) for i in range(len(names))]
            if len(grids) > 1:
                columns.append(pa.array([grid.sheet] * len(grid.rows), pa.string()))
            table = pa.table(columns, names=clean_names([*names, SHEET] if len(grids) > 1 else names))
            yield from _slices(table)

    @cached_property
    def _chosen(self) -> list[_Grid]:
        """Of the sheets with dates, or else of all, the one with most rows below a header, and those with the same
        header. Raises InputError.
        """
        sheets = self._sheets()
        if self.sheet and self.sheet not in sheets:
            raise InputError(f"{self.path} has no sheet {self.sheet!r}; it has {listed(list(sheets))}")
        found = [
            grid
            for name, rows in sheets.items()
            if (not self.sheet or name == self.sheet) and (grid := _Grid.of(name, rows)) is not None
        ]
        if not found:
            raise InputError(
                f"{self.path}: no sheet among {listed(list(sheets))} has a row of column names above rows of values"
            )
        best = max(found, key=lambda grid: (grid.has_dates, len(grid.rows)))
        chosen = [one for grid in found if (one := grid.in_order_of(best.names)) is not None]
        self._tell(chosen, found)
        return chosen

    def _tell(self, chosen: Sequence[_Grid], found: Sequence[_Grid]) -> None:
        taken = {grid.sheet for grid in chosen}
        first, others = chosen[0], [grid.sheet for grid in found if grid.sheet not in taken]
        what = f"sheet {first.sheet!r}"
        if len(chosen) > 1:
            what = f"{len(chosen)} sheets with the same columns ({listed([grid.sheet for grid in chosen])})"
            what += f", below one another with their names in column {SHEET!r}"
        if first.header:
            what += f", with its header in row {first.header + 1}"
        what += f"; sheets {listed(others)} are left out" if others else ""
        before = [*first.above, first.names, *first.rows]
        self.readings.append(
            Reading(what, examples(before), examples([first.names, *first.rows[:2]]), "which sheet?" if others else "")
        )

    def _sheets(self) -> dict[str, list[list[object]]]:
        """The visible sheets' cells; every cell of a merged range has the range's value."""
        import python_calamine as calamine

        try:
            with calamine.CalamineWorkbook.from_path(str(self.path)) as book:
                visible = [
                    meta.name
                    for meta in book.sheets_metadata
                    if meta.visible == calamine.SheetVisibleEnum.Visible
                    and meta.typ == calamine.SheetTypeEnum.WorkSheet
                ]
                return {name: _filled(book.get_sheet_by_name(name)) for name in visible or book.sheet_names}
        except calamine.PasswordError as error:
            raise InputError(f"{self.path} is protected with a password: save it without one") from error
        except calamine.CalamineError as error:
            raise InputError(f"{self.path} is not a workbook that can be read: {error}") from error


def _filled(sheet: object) -> list[list[object]]:
    rows: list[list[object]] = [list(row) for row in sheet.to_python(skip_empty_area=False)]  # pyright: ignore[reportAttributeAccessIssue]
    for (top, left), (bottom, right) in sheet.merged_cell_ranges or []:  # pyright: ignore[reportAttributeAccessIssue]
        if top >= len(rows) or left >= len(rows[top]) or left != right:
            continue  # a title over several columns is not a value of each
        for row in range(top + 1, min(bottom + 1, len(rows))):
            rows[row][left] = rows[top][left]
    return rows


@dataclass
class _Grid:
    """A sheet below its header; `above` are the rows above it."""

    sheet: str
    header: int
    names: list[str]
    rows: list[list[object]]
    above: list[list[object]]

    @classmethod
    def of(cls, sheet: str, rows: list[list[object]]) -> _Grid | None:
        """None for a sheet without a table."""
        at = find_header(rows)
        if at < 0:
            return None
        used = [i for i, cell in enumerate(rows[at]) if text_of(cell)]
        left, right = min(used), max(used) + 1
        below = [row[left:right] for row in rows[at + 1 :]]
        full = [row for row in below if sum(text_of(cell) != "" for cell in row) > 1 or len(used) == 1]
        names = clean_names([text_of(cell) for cell in rows[at][left:right]])
        return cls(sheet, at, names, full, [row[left:right] for row in rows[max(0, at - 2) : at]]) if full else None

    def in_order_of(self, names: Sequence[str]) -> _Grid | None:
        """This sheet with its columns as `names` are, whatever the case of its own; None where it has others."""
        own = {name.casefold(): at for at, name in enumerate(self.names)}
        if set(own) != {name.casefold() for name in names} or len(self.names) != len(names):
            return None
        order = [own[name.casefold()] for name in names]
        rows = [[row[at] if at < len(row) else None for at in order] for row in self.rows]
        return _Grid(self.sheet, self.header, list(names), rows, self.above)

    @property
    def has_dates(self) -> bool:
        """Whether a column, or several names of columns, are dates: a summary, a list of items has none."""
        for at, name in enumerate(self.names):
            looked_at = self.rows[:_LOOKED_AT]
            cells = [text_of(row[at]) for row in looked_at if at < len(row) and text_of(row[at])]
            if 2 * len(cells) > len(looked_at) and name_suggests(name, [*TIMES, "year", "jahr"]):
                return True
            moments = sum(_kind(row[at]) == "moment" for row in looked_at if at < len(row))
            texts = pa.chunked_array([pa.array(cells, pa.string())])
            if 2 * moments > len(looked_at) or (
                2 * len(cells) > len(looked_at) and infer_column(name, texts).kind == "time"
            ):
                return True
        return sum(any(sign.isdigit() for sign in name) for name in self.names) > 2


def cells_of(cells: Sequence[object]) -> pa.Array:
    """Cells of a sheet as one Arrow array: numbers, moments or flags where (nearly) all are, else texts."""
    kinds = Counter(_kind(cell) for cell in cells if text_of(cell))
    if not kinds:
        return pa.array([None] * len(cells), pa.string())
    kind, count = kinds.most_common(1)[0]
    if count == kinds.total():
        values = [cell if text_of(cell) else None for cell in cells]
        if kind == "number":
            whole = all(value is None or float(value) == int(value) for value in values)  # pyright: ignore[reportArgumentType]
            return pa.array(values, pa.float64()).cast(pa.int64()) if whole else pa.array(values, pa.float64())
        if kind == "moment":
            return pa.array([_moment(value) for value in values], pa.timestamp("us"))
        if kind == "flag":
            return pa.array(values, pa.bool_())
    return pa.array([text_of(cell) or None for cell in cells], pa.string())


def _kind(cell: object) -> str:
    if isinstance(cell, bool):
        return "flag"
    if isinstance(cell, (int, float)):
        return "number" if abs(cell) < 2**53 else "text"
    return "moment" if isinstance(cell, date) else "text"


def _moment(cell: object) -> datetime | None:
    if isinstance(cell, datetime) or cell is None:
        return cell
    return datetime.combine(cell, time()) if isinstance(cell, date) else None


@dataclass
class JsonFile:
    """Records as JSON lines, as one JSON list, or as the longest list of records in one JSON object."""

    path: Path
    kind: TableKind = "json"
    notes: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])

    def __str__(self) -> str:
        return str(self.path)

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader.batches`; a field of a nested record is a column `outer.inner`, lists are left out."""
        records = self._records
        names = list(dict.fromkeys(name for record in records for name in record))
        lists = [name for name in names if any(isinstance(record.get(name), list) for record in records[:1000])]
        self.notes = [f"lists are left out: {listed(lists)}"] if lists else []
        names = [name for name in names if name not in lists]
        table = pa.table([array_of([record.get(name) for record in records]) for name in names], clean_names(names))
        yield from _slices(table)

    @cached_property
    def _records(self) -> list[dict[str, object]]:
        try:
            text = self.path.read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is not UTF-8 text: {error}") from error
        try:
            found = json.loads(text)
            how = "one JSON document"
        except json.JSONDecodeError as error:
            found, how = self._lines(text, error), "JSON lines"
        if isinstance(found, dict):
            lists = {name: value for name, value in found.items() if isinstance(value, list) and value}
            if lists:
                name = max(lists, key=lambda name: len(lists[name]))
                found, how = lists[name], f"the list {name!r} of a JSON document"
            else:
                found = [found]
        records = [_flat(record) for record in found if isinstance(record, dict)]
        if not records:
            raise InputError(f"{self.path} has no list of records like {{'date': …, 'sales': …}}")
        after = [list(records[0]), *(list(record.values()) for record in records[:2])]
        self.readings.append(Reading(how, ((text[:120].replace("\n", " "),),), examples(after)))
        return records

    def _lines(self, text: str, whole: json.JSONDecodeError) -> list[object]:
        lines = [line for line in text.splitlines() if line.strip()]
        found: list[object] = []
        for number, line in enumerate(lines, 1):
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError as error:
                why = error if found else whole
                raise InputError(
                    f"{self.path} is not JSON: {why} (line {number if found else whole.lineno})"
                ) from error
        return found


def _flat(record: dict[str, object], before: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")  # pyright: ignore[reportUnknownArgumentType]
        else:
            flat[before + name] = value
    return flat


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)
