"""Sales in files, as Data Factory lands them: Parquet, CSV or Delta under a folder or an `abfss://` path.

A table is a subfolder, whatever folders are inside it, or one file (`sales.parquet`, `sales.csv`). Names that begin
with `_` or `.` (`_SUCCESS`, `_temporary`) and those that end in .tmp, .crc or .inprogress are passed over. A folder
`name=value` is a column of the files in it that do not have it.

A file is known by its path: what is written there later replaces it. A row that other files repeat in all its columns
is there once. Rows that differ for the same keys and timestamp all come, those of the newest file (by its time, then
its name) first: the row check keeps that one and sets the others aside with their reason: no sale is lost unseen.
Where `data.aggregate` makes several rows one, each file holds a part of the sales, and all of them add up.
What repeats inside one file stays, and is judged as rows of any source. What a date is, says `sqlite`.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.arrow import (
    TIMESTAMP,
    between,
    day_after,
    first_and_last_day,
    midnight,
    normalize_types,
    plain_type,
    require_columns,
    without_zones,
    zoneless,
)
from many_models.adapters.azure.storage import access_error
from many_models.adapters.source.fingerprints import DayFingerprints, days_of
from many_models.adapters.source.memory import key_texts, moments
from many_models.errors import InputError, ManyModelsError, MissingTableError, SettingsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from pyarrow.fs import FileInfo, FileSystem

    from many_models.ports import DayCount, SalesTable

BATCH_ROWS = 100_000
PASSED_OVER = (".tmp", ".crc", ".inprogress")
FORMATS = {".parquet": "parquet", ".csv": "csv", ".csv.gz": "csv"}
MAGIC = b"PAR1"
CODES_PER_ROW = 8
Ends = tuple[datetime, datetime] | None  # the first and the last moment; None: no row has one


@dataclass(frozen=True, slots=True)
class _File:
    """One version of a file. `values` are what the names of its folders say."""

    path: str
    size: int
    written: int
    kind: str
    values: tuple[tuple[str, str], ...]


class FilesSource:
    """The tables under `place`, a folder or an `abfss://` path; `options` are delta-rs', asked for at each use."""

    def __init__(self, place: str, options: Callable[[], dict[str, str]] = dict) -> None:
        self._place = place.rstrip("/") if "://" in place else str(Path(place).absolute())
        self._options = options
        self._schemas: dict[_File, pa.Schema] = {}
        self._spans: dict[tuple[_File, str], list[Ends]] = {}
        self._dated_wholly: set[tuple[_File, str]] = set()  # files whose statistics know of no row without a time
        self._parsed: tuple[object, pa.Table] | None = None

    def columns(self, table: str) -> Mapping[str, str]:
        """See `Source.columns`. The columns of all files, in the order in which they come."""
        return {field.name: str(field.type) for field in self._schema(self._files(table))}

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """See `Source.days`; see `DayFingerprints` for what a fingerprint tells."""
        days = DayFingerprints()
        for rows in self._merged(sales, midnight(since), None):
            if len(rows):
                days.add(
                    rows[sales.timestamp],
                    [rows[name] for name in sales.counted],
                    None if sales.changed else rows[sales.target],
                )
        return days.counted()

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """See `Source.span`. Told by the statistics of Parquet files that are within."""
        first, last = midnight(since), day_after(until)
        ends: list[datetime] = []
        for file, schema in self._required(sales):
            if not _overlap(_widened(own := self._ends(file, sales.timestamp), sales), first, last):
                continue
            whole = own is not None and first is not None and own[0] >= first and (last is None or own[1] < last)
            if own is not None and whole and not sales.timezone:
                ends += own
                continue
            rows = self._dated(file, schema, [sales.timestamp], sales, first, last)
            ends += first_and_last_day(rows[sales.timestamp]) or ()
        found = [end for end in map(midnight, ends) if end is not None]
        return (min(found), max(found)) if found else None

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """See `Source.read`; tables of at most 100,000 rows."""
        for rows in self._merged(sales, since, before):
            chosen = rows.select(list(sales.columns))
            for start in range(0, len(chosen), BATCH_ROWS):
                yield chosen.slice(start, BATCH_ROWS)

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """See `Source.days_of`."""
        return days_of(sales, rows)

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """See `Source.read_undated`."""
        found = self._required(sales)
        tables: list[pa.Table] = []
        for file, schema in found:
            self._row_groups(file, sales.timestamp)
            if (file, sales.timestamp) in self._dated_wholly:
                continue
            rows = self._rows(file, schema, sales.columns, sales)
            undated = rows.filter(pc.is_null(moments(rows[sales.timestamp], sales.timezone)))
            tables.append(_with_key_texts(undated, sales, undated[sales.timestamp].cast(pa.string())))
        return pa.concat_tables(tables) if tables else _no_rows(found[0][1], sales)

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """See `Source.read_table`."""
        files = self._files(table)
        schema = self._schema(files)
        require_columns(table, schema.names, columns)
        names = list(dict.fromkeys(columns)) or schema.names
        return pa.concat_tables(self._rows(file, schema, names) for file in files)

    def check(self) -> str:
        """See `Source.check`."""
        return f"files at {self._place}: {len(self._tables())} tables"

    # --- files ---
    def _system(self) -> FileSystem:
        from pyarrow.fs import LocalFileSystem, PyFileSystem, SubTreeFileSystem

        if "://" not in self._place:
            return SubTreeFileSystem(self._place, LocalFileSystem())
        from deltalake.fs import DeltaStorageHandler

        return PyFileSystem(DeltaStorageHandler(self._place, self._options()))

    def _listed(self, folder: str, *, deep: bool) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        if "://" not in self._place and not Path(self._place).is_dir():
            raise SettingsError(f"there is no folder {self._place}; set [source] url to the one that the files are in")
        return self._system().get_file_info(FileSelector(folder, recursive=deep, allow_not_found=True))

    def _tables(self) -> dict[str, FileInfo]:
        from pyarrow.fs import FileType

        found: dict[str, FileInfo] = {}
        with self._errors(self._place):
            for info in self._listed("", deep=False):
                if _passed_over(info.base_name):
                    continue
                if info.type == FileType.Directory:
                    found[info.base_name] = info
                elif kind := _format(info.base_name):
                    found[info.base_name[: -len(kind[0])]] = info
        return found

    def _files(self, table: str) -> list[_File]:
        """The files of `table`, the oldest first. Raises MissingTableError; InputError for an unknown format."""
        from pyarrow.fs import FileType

        tables = self._tables()
        if table not in tables:
            names = ", ".join(map(repr, sorted(tables))) or "none"
            raise MissingTableError(f"the files at {self._place} have no table {table!r}; they have {names}")
        info = tables[table]
        with self._errors(f"{self._place}/{info.path}"):
            infos = [info] if info.type == FileType.File else self._listed(info.base_name, deep=True)
            if any("/_delta_log/" in f"/{one.path}" for one in infos):
                return [_File(info.base_name, 0, self._delta(info.base_name).version(), "delta", ())]
        files = [
            self._file(one)
            for one in infos
            if one.type == FileType.File and not any(map(_passed_over, one.path.split("/")[1:] or [one.path]))
        ]
        return sorted(files, key=lambda file: (file.written, file.path))

    def _file(self, info: FileInfo) -> _File:
        known = _format(info.base_name)
        if known is None:
            raise InputError(
                f"{self._place}/{info.path} is neither Parquet nor CSV by its name; move it away, or put _ before it"
            )
        folders = [folder.partition("=") for folder in info.path.split("/")[:-1]]
        values = tuple((unquote(name), unquote(value)) for name, sign, value in folders if sign)
        return _File(info.path, info.size or 0, info.mtime_ns or 0, known[1], values)

    def _delta(self, folder: str) -> Any:
        from deltalake import DeltaTable

        return DeltaTable(f"{self._place}/{folder}", storage_options=self._options() or None)

    # --- what is in them ---
    def _schema(self, files: Sequence[_File]) -> pa.Schema:
        """The columns of all `files`; a column that differs from file to file is what holds all of its values."""
        kinds: dict[str, list[pa.DataType]] = {}
        for file in files:
            for field in self._schema_of(file):
                kinds.setdefault(field.name, []).append(field.type)
        return pa.schema([(name, _common(found)) for name, found in kinds.items()])

    def _schema_of(self, file: _File) -> pa.Schema:
        if file not in self._schemas:
            with self._errors(f"{self._place}/{file.path}"):
                if file.kind == "parquet":
                    found = self._parquet(file).schema_arrow
                elif file.kind == "delta":
                    found = pa.schema(self._delta(file.path).schema().to_arrow())
                else:
                    found = self._csv(file, {}).schema
            fields = [(field.name, zoneless(plain_type(field.type))) for field in found]
            fields += [(name, pa.string()) for name, _ in file.values if name not in found.names]
            self._schemas[file] = pa.schema(fields)
        return self._schemas[file]

    def _required(self, sales: SalesTable) -> list[tuple[_File, pa.Schema]]:
        """The files of the sales with the columns of all. Raises InputError that names a file without some of them."""
        files = self._files(sales.table)
        schema = self._schema(files)
        require_columns(sales.table, schema.names, list(dict.fromkeys([*sales.columns, *sales.counted])))
        needed = [*sales.keys, sales.timestamp, sales.target]
        for file in files:
            own = self._schema_of(file)
            if missing := [name for name in needed if name not in own.names]:
                raise InputError(
                    f"{self._place}/{file.path} has no column {', '.join(map(repr, missing))}, which the other files "
                    f"of {sales.table!r} have; it has {', '.join(map(repr, own.names))}: land it again"
                )
        return [(file, schema) for file in files]

    def _merged(self, sales: SalesTable, since: datetime | None, before: datetime | None) -> Iterator[pa.Table]:
        """The dated rows of that time, those of files whose times overlap together; see `_once`."""
        columns = list(dict.fromkeys([*sales.columns, *sales.counted]))
        found = [(file, schema, self._ends(file, sales.timestamp)) for file, schema in self._required(sales)]
        if not any(_overlap(_widened(ends, sales), since, before) for *_, ends in found):
            return
        for group in _groups([(ends, (file, schema)) for file, schema, ends in found if ends is not None]):
            tables = [self._dated(file, schema, columns, sales, since, before) for file, schema in group]
            yield _once(tables, sales)

    def _dated(
        self,
        file: _File,
        schema: pa.Schema,
        columns: Sequence[str],
        sales: SalesTable,
        since: datetime | None,
        before: datetime | None,
    ) -> pa.Table:
        """The rows of `file` with since ≤ timestamp < before, the timestamp as timestamp[us], keys as string."""
        rows = self._rows(file, schema, columns, sales, since, before)
        rows = _with_key_texts(rows, sales, moments(rows[sales.timestamp], sales.timezone))
        return between(rows, sales.timestamp, since, before)

    def _ends(self, file: _File, timestamp: str) -> Ends:
        spans = [span for span in self._row_groups(file, timestamp) if span is not None]
        return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None

    def _row_groups(self, file: _File, timestamp: str) -> list[Ends]:
        """The ends of each row group's times; of the whole file where it has no statistics of them."""
        if (file, timestamp) not in self._spans:
            spans = self._statistics(file, timestamp) if file.kind == "parquet" else None
            if spans is None:
                column = moments(self._rows(file, self._schema_of(file), [timestamp])[timestamp])
                ends = pc.min_max(column).as_py()
                spans = [None if ends["min"] is None else (ends["min"], ends["max"])]
            self._spans[file, timestamp] = spans
        return self._spans[file, timestamp]

    def _statistics(self, file: _File, timestamp: str) -> list[Ends] | None:
        with self._errors(f"{self._place}/{file.path}"):
            parquet = self._parquet(file)
            names = parquet.schema_arrow.names
            kind = parquet.schema_arrow.field(timestamp).type if timestamp in names else pa.null()
            if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
                return None
            spans: list[Ends] = []
            nulls = 0
            for number in range(parquet.num_row_groups):
                group = parquet.metadata.row_group(number)
                at = next(at for at in range(group.num_columns) if group.column(at).path_in_schema == timestamp)
                told = group.column(at).statistics
                if told is None or not told.has_min_max:
                    return None
                spans.append((_moment(told.min), _moment(told.max)))
                nulls += told.null_count if told.has_null_count else 1
            if not nulls:
                self._dated_wholly.add((file, timestamp))
        return spans

    def _rows(
        self,
        file: _File,
        schema: pa.Schema,
        columns: Sequence[str],
        sales: SalesTable | None = None,
        since: datetime | None = None,
        before: datetime | None = None,
    ) -> pa.Table:
        """The `columns` of `file` as `schema` has them; of Parquet no row group without a time in between."""
        own, values = self._schema_of(file), dict(file.values)
        texts = (
            () if sales is None else (*sales.keys, sales.timestamp)
        )  # judged as they are, see `key_texts`, `moments`
        with self._errors(f"{self._place}/{file.path}"):
            if file.kind == "parquet":
                parquet = self._parquet(file)
                stored = [name for name in columns if name in parquet.schema_arrow.names]
                groups = list(range(parquet.num_row_groups))
                if sales is not None and len(groups) > 1 and (since or before):
                    spans = self._row_groups(file, sales.timestamp)
                    near = [_widened(span, sales) for span in spans]
                    groups = [at for at in groups if len(near) == 1 or _overlap(near[at], since, before)]
                rows = parquet.read_row_groups(groups, stored, use_threads=False)
                count = sum(parquet.metadata.row_group(at).num_rows for at in groups)
            elif file.kind == "delta":
                stored = [name for name in dict.fromkeys(columns) if name in own.names]
                rows = pa.table(self._delta(file.path).scan(columns=stored))
                count = len(rows)
            else:
                rows = self._csv(file, dict.fromkeys(texts, pa.string()))
                count = len(rows)
            zoned = normalize_types(rows)
            rows = without_zones(zoned)
            if sales is not None and sales.timezone and sales.timestamp in columns:  # `moments` needs the offset
                at = rows.column_names.index(sales.timestamp)
                rows = rows.set_column(at, sales.timestamp, zoned[sales.timestamp])
        kept = {
            name: rows[name]
            if name in rows.column_names
            else pa.chunked_array([pa.repeat(pa.scalar(values.get(name), pa.string()), count)])
            for name in columns
        }
        return pa.table(
            {name: column if name in texts else _cast(column, schema.field(name).type) for name, column in kept.items()}
        )

    def _parquet(self, file: _File) -> Any:
        from pyarrow import parquet

        try:
            return parquet.ParquetFile(self._system().open_input_file(file.path))
        except pa.ArrowInvalid as error:
            with self._system().open_input_file(file.path) as stream:
                begins = stream.read(len(MAGIC)) == MAGIC
            if begins or not file.size:
                raise UnavailableError("it is half written; it is read when it is whole") from error
            raise InputError(f"it is not a Parquet file ({error}); move it away, or land it again") from error

    def _csv(self, file: _File, kinds: Mapping[str, pa.DataType]) -> pa.Table:
        from pyarrow import csv

        if self._parsed is not None and self._parsed[0] == (file, tuple(kinds)):
            return self._parsed[1]
        system = self._system()
        with system.open_input_stream(file.path, compression="detect") as stream:
            options = csv.ConvertOptions(column_types=dict(kinds), strings_can_be_null=False)
            rows = csv.read_csv(stream, csv.ReadOptions(use_threads=False), convert_options=options)
        now = system.get_file_info(file.path)
        if (now.size or 0, now.mtime_ns or 0) != (file.size, file.written):
            raise UnavailableError("it was written to while it was read; it is read when it is whole")
        self._parsed = (file, tuple(kinds)), rows
        return rows

    @contextmanager
    def _errors(self, what: str) -> Generator[None]:
        from deltalake.exceptions import DeltaError

        try:
            yield
        except (InputError, UnavailableError) as error:
            raise error if str(error).startswith(what) else type(error)(f"{what}: {error}") from error
        except ManyModelsError:
            raise
        except FileNotFoundError as error:
            raise UnavailableError(f"{what}: it is gone since the files were listed; run again") from error
        except (OSError, DeltaError, pa.ArrowException) as error:
            if (refused := access_error(str(error))) is not None:
                raise type(refused)(f"{what}: {refused}") from error
            kind = InputError if isinstance(error, pa.ArrowInvalid) else UnavailableError
            raise kind(f"{what}: {' '.join(str(error).split())[:400]}") from error


def _passed_over(name: str) -> bool:
    return name.startswith(("_", ".")) or name.endswith(PASSED_OVER)


def _format(name: str) -> tuple[str, str] | None:
    return next(((end, kind) for end, kind in FORMATS.items() if name.lower().endswith(end)), None)


def _moment(value: date | datetime) -> datetime:
    if not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    return value.replace(tzinfo=None)


def _widened(ends: Ends, sales: SalesTable) -> Ends:
    """`ends` as far as local time may move them: statistics of files know no time zone."""
    if ends is None or not sales.timezone:
        return ends
    return ends[0] - timedelta(days=1), ends[1] + timedelta(days=1)


def _overlap(ends: Ends, since: datetime | None, before: datetime | None) -> bool:
    return ends is not None and (before is None or ends[0] < before) and (since is None or ends[1] >= since)


def _groups(files: Sequence[tuple[tuple[datetime, datetime], Any]]) -> Iterator[list[Any]]:
    """The files in groups, so that no two groups' times overlap; in each the oldest file first, as they come."""
    order = sorted(range(len(files)), key=lambda at: files[at][0])
    group: list[int] = []
    until: datetime | None = None
    for at in order:
        (first, last), _ = files[at]
        if until is not None and first > until:
            yield [files[one][1] for one in sorted(group)]
            group, until = [], None
        group.append(at)
        until = last if until is None else max(until, last)
    if group:
        yield [files[one][1] for one in sorted(group)]


def _once(tables: Sequence[pa.Table], sales: SalesTable) -> pa.Table:
    """The rows of all `tables` (the oldest file's first), each that several files repeat once, the newest file's first.

    Rows that differ for the same keys and moment all stay: `check_rows` keeps the first and sets the others aside.
    Where `sales.aggregate` makes rows one, each file holds a part (of a till, of an hour) and all rows stay.
    """
    filled = [table for table in tables if len(table)]
    if len(filled) < 2 or sales.aggregate:
        return pa.concat_tables(filled) if filled else tables[0]
    whole = pa.concat_tables(filled[::-1])
    ranks = np.repeat(np.arange(len(filled))[::-1], [len(table) for table in filled[::-1]])
    codes = _codes(whole, [*sales.keys, sales.timestamp])
    newest, oldest = np.zeros(int(codes.max()) + 1, np.int64), np.full(int(codes.max()) + 1, len(filled), np.int64)
    np.maximum.at(newest, codes, ranks)
    np.minimum.at(oldest, codes, ranks)
    shared = np.flatnonzero((newest > oldest)[codes])
    if not len(shared):
        return whole
    same = _codes(whole.take(shared), whole.column_names)
    newest = np.zeros(int(same.max()) + 1, np.int64)
    np.maximum.at(newest, same, ranks[shared])
    keep = np.ones(len(whole), np.bool_)
    keep[shared] = newest[same] == ranks[shared]
    return whole.filter(pa.array(keep))


def _codes(rows: pa.Table, names: Sequence[str]) -> NDArray[np.int64]:
    """A number for each row, the same for rows that are the same in the columns `names`; few for their number."""
    import pandas as pd

    codes, size = np.zeros(len(rows), np.int64), 1
    for name in names:
        encoded = rows[name].combine_chunks().dictionary_encode(null_encoding="encode")
        codes = codes * len(encoded.dictionary) + encoded.indices.to_numpy()
        size *= len(encoded.dictionary)
        if size > CODES_PER_ROW * len(rows):  # small again, so that no product overflows and no array is large
            codes, values = pd.factorize(codes)
            size = len(values)
    return codes


def _no_rows(schema: pa.Schema, sales: SalesTable) -> pa.Table:
    texts = (*sales.keys, sales.timestamp)
    kinds = [(name, pa.string() if name in texts else schema.field(name).type) for name in sales.columns]
    return pa.schema(kinds).empty_table()


def _with_key_texts(rows: pa.Table, sales: SalesTable, timestamps: pa.ChunkedArray) -> pa.Table:
    for name in sales.keys:
        if name in rows.column_names:
            rows = rows.set_column(rows.column_names.index(name), name, key_texts(rows[name]))
    return rows.set_column(rows.column_names.index(sales.timestamp), sales.timestamp, timestamps)


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """The type that holds the values of all `kinds`."""
    kinds = [kind for kind in dict.fromkeys(kinds) if not pa.types.is_null(kind)]
    if not kinds:
        return pa.string()
    if len(kinds) == 1:
        return kinds[0]
    if all(pa.types.is_timestamp(kind) or pa.types.is_date(kind) for kind in kinds):
        return TIMESTAMP
    if all(pa.types.is_integer(kind) for kind in kinds):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) for kind in kinds):
        return pa.float64()
    return pa.string()


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_string(kind) and pa.types.is_floating(column.type):
        return key_texts(column) if not column.null_count else column.cast(kind)
    return column.cast(kind)
