"""A stranger's CSV, Parquet file or SQL table: its rows, and what the text in its columns means."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pyarrow as pa

from many_models.errors import InputError, MissingDependencyError, MissingTableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa

SEPARATORS = (",", ";", "\t", "|")
BATCH_ROWS = 100_000
_BLOCK = 4 << 20
_MAGIC = {b"PAR1": "parquet", b"SQLi": "sqlite", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip"}


# --- Where rows come from -------------------------------------------------------------------------------------------
class TableReader(Protocol):
    """Rows under clean, distinct column names; text where the reader knows no types."""

    kind: Literal["csv", "parquet", "sql"]

    def batches(self) -> Iterator[pa.Table]:
        """All rows, in tables of bounded size. Raises InputError for what cannot be read."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was met while reading that its user should know."""
        ...


def head(reader: TableReader, limit: int) -> tuple[pa.Table, bool]:
    """The first `limit` rows or a few more, and whether there are others."""
    tables: list[pa.Table] = []
    rows = 0
    for table in reader.batches():
        if rows >= limit:
            return pa.concat_tables(tables, promote_options="permissive"), True
        tables.append(table)
        rows += table.num_rows
    if not rows:
        raise InputError(f"{reader} has no rows")
    return pa.concat_tables(tables, promote_options="permissive"), False


def open_file(location: str) -> TableReader:
    """The rows of a CSV (plain or .gz) or Parquet file. Raises InputError that says what else it is."""
    path = Path(location)
    if not path.is_file():
        raise InputError(f"there is no file {location!r}")
    with path.open("rb") as file:
        first = file.read(4)
    kind = next((kind for magic, kind in _MAGIC.items() if first.startswith(magic)), "csv")
    if kind == "parquet":
        return ParquetFile(path)
    if kind == "zip":
        raise InputError(f"{location!r} is a zip archive or an Excel workbook: unpack it, or save it as CSV")
    return CsvFile(path, "gzip" if kind == "gzip" else "detect")


def clean_names(names: Sequence[str]) -> list[str]:
    """Column names without blanks around them, none empty, none twice (whatever their case, as SQLite compares)."""
    result: list[str] = []
    seen: set[str] = set()
    for number, raw in enumerate(names, 1):
        name = base = raw.strip().strip("\ufeff") or f"column_{number}"
        copy = 2
        while name.casefold() in seen:
            name, copy = f"{base}_{copy}", copy + 1
        seen.add(name.casefold())
        result.append(name)
    return result


@dataclass
class ParquetFile:
    """A Parquet file, or what calls itself one."""

    path: Path
    kind: Literal["csv", "parquet", "sql"] = "parquet"
    notes: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return str(self.path)

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader.batches`; nested columns are left out and noted."""
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
            flat = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
            nested = sorted(set(file.schema_arrow.names) - set(flat))
            self.notes = [f"nested columns are left out: {', '.join(nested)}"] if nested else []
            for batch in file.iter_batches(BATCH_ROWS, columns=flat):
                yield pa.Table.from_batches([batch]).rename_columns(clean_names(batch.schema.names))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is no Parquet file that can be read: {error}") from error


@dataclass
class CsvFile:
    """A text file with a header line; separator and encoding are found out."""

    path: Path
    compression: str = "detect"
    kind: Literal["csv", "parquet", "sql"] = "csv"
    broken: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return str(self.path)

    @property
    def notes(self) -> list[str]:
        """How many lines had another number of fields than the header."""
        if not self.broken:
            return []
        return [f"{len(self.broken)} lines are left out, they have too many or too few fields: {self.broken[0]} …"]

    @cached_property
    def encoding(self) -> str:
        """`utf8` where the whole file is, else what Windows writes; UTF-16 by its mark."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self._stream() as stream:
            block = stream.read(_BLOCK)
            if block[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
                return "utf-16"
            try:
                while block:
                    decoder.decode(block)
                    block = stream.read(_BLOCK)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                return "cp1252"
        return "utf8"

    @cached_property
    def separator(self) -> str:
        """The separator that cuts most of the first lines into equally many fields."""
        lines = self._first_lines()
        scores: dict[str, tuple[float, int]] = {}
        for separator in SEPARATORS:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=separator) if row)
            width, times = widths.most_common(1)[0]
            scores[separator] = (times / widths.total() if width > 1 else 0.0, width)
        best = max(SEPARATORS, key=lambda separator: scores[separator])
        if scores[best][1] < 2:
            raise InputError(
                f"{self.path}: its lines have one field, needed a header and columns separated by , ; | or tabs"
            )
        return best

    @cached_property
    def names(self) -> list[str]:
        """The header's names, clean and distinct."""
        header = next(csv.reader(self._first_lines()[:1], delimiter=self.separator))
        values = [
            cell
            for cell in header
            if re.fullmatch(r"[-+]?\d+([.,]\d+)?|\d{4}-\d\d-\d\d.*|\d\d?[./]\d\d?[./]\d{2,4}", cell)
        ]
        if len(values) * 2 >= len(header):
            raise InputError(
                f"{self.path}: the first line {header} looks like values, needed a line of column names first"
            )
        return clean_names(header)

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader.batches`; all columns are strings, an empty field is an empty one."""
        from pyarrow import csv as arrow_csv

        self.broken.clear()
        reading = arrow_csv.ReadOptions(
            column_names=self.names, skip_rows=1, encoding=self.encoding, block_size=_BLOCK, use_threads=False
        )
        parsing = arrow_csv.ParseOptions(
            delimiter=self.separator, newlines_in_values=True, invalid_row_handler=self._leave_out
        )
        types = dict.fromkeys(self.names, pa.string())
        converting = arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False)
        try:
            with self._stream() as stream, arrow_csv.open_csv(stream, reading, parsing, converting) as reader:
                for batch in reader:
                    if batch.num_rows:
                        yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError, EOFError, UnicodeError) as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error

    def _leave_out(self, row: object) -> str:
        if text := str(getattr(row, "text", "") or "").strip():
            self.broken.append(text[:60])
        return "skip"

    def _stream(self) -> pa.NativeFile:
        return pa.input_stream(str(self.path), compression=self.compression)

    def _first_lines(self) -> list[str]:
        with self._stream() as stream:
            start = stream.read(1 << 18)
        text = codecs.getincrementaldecoder("utf-8" if self.encoding == "utf8" else self.encoding)("replace").decode(
            start
        )
        lines = list(io.StringIO(text.removeprefix("\ufeff"), newline=None))
        if len(lines) > 2 and len(start) == 1 << 18:
            del lines[-1]  # cut off
        if not lines:
            raise InputError(f"{self.path} is empty")
        return lines[:200]


@dataclass
class SqlTable:
    """A table or view of the database that a SQLAlchemy URL names."""

    url: str
    table: str
    limit: int
    kind: Literal["csv", "parquet", "sql"] = "sql"
    notes: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return f"table {self.table!r}"

    def batches(self) -> Iterator[pa.Table]:
        """The first `limit` rows as one table, then an empty one when there are more; mixed columns are text."""
        import sqlalchemy as sa
        from sqlalchemy.exc import SQLAlchemyError

        engine = sql_engine(self.url)
        try:
            with engine.connect() as connection:
                everything = sa.select(sa.text("*")).select_from(sa.table(self.table))
                rows = connection.execution_options(stream_results=True).execute(everything)
                names = clean_names(list(rows.keys()))
                fetched = rows.fetchmany(self.limit)
                more = rows.fetchone() is not None
        except SQLAlchemyError as error:
            raise UnavailableError(f"table {self.table!r}: {error}") from error
        finally:
            engine.dispose()
        columns = zip(*fetched, strict=True) if fetched else ((),) * len(names)
        table = pa.table([_array(values) for values in columns], names=names)
        yield table
        if more:
            yield table.slice(0, 0)


def _array(values: Sequence[object]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return array.cast(pa.float64(), safe=False) if pa.types.is_decimal(array.type) else array


def sql_engine(url: str) -> sa.Engine:
    """An engine for `url`. Raises InputError for what is no URL, MissingDependencyError when its driver is missing."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise InputError(f"there is no SQLite database {parsed.database!r}")
        return sa.create_engine(parsed)
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(f"{url!r} is no SQLAlchemy URL; write for example sqlite:///sales.db") from error
    except ImportError as error:
        raise MissingDependencyError(f"the driver of this database is not installed: {error}") from error


def sql_tables(url: str) -> list[str]:
    """The names of all tables and views. Raises UnavailableError when the database does not answer."""
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    engine = sql_engine(url)
    try:
        inspector = sa.inspect(engine)
        return sorted([*inspector.get_table_names(), *inspector.get_view_names()])
    except SQLAlchemyError as error:
        raise UnavailableError(f"the database does not answer: {error}") from error
    finally:
        engine.dispose()


def require_table(url: str, table: str) -> None:
    """Raise MissingTableError that names the tables that are there, unless `table` is one of them."""
    there = sql_tables(url)
    if table not in there:
        raise MissingTableError(f"no table {table!r} in the database; there are: {', '.join(there) or 'none'}")
