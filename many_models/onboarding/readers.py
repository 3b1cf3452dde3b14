"""CSV files, Parquet files and SQL tables of other people, as Arrow tables under clean names."""

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
from many_models.onboarding.grid import Reading, examples, find_header, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa

SEPARATORS = (",", ";", "\t", "|")
BATCH_ROWS = 100_000
_ENCODINGS = (
    "cp1251",
    "cp1250",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp932",
    "gb18030",
    "big5",
    "euc_kr",
    "koi8_r",
)
_BLOCK = 4 << 20
TableKind = Literal["csv", "parquet", "sql", "excel", "json"]


# --- Where rows come from -------------------------------------------------------------------------------------------
class TableReader(Protocol):
    """Rows under clean, distinct column names; text where the reader knows no types."""

    @property
    def kind(self) -> TableKind:
        """What it is read from."""
        ...

    def batches(self) -> Iterator[pa.Table]:
        """All rows, in tables of bounded size. Raises InputError for what cannot be read."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was met while reading that its user should know."""
        ...

    @property
    def readings(self) -> Sequence[Reading]:
        """How the file was read, where there was a choice; whole once `batches` has been read from."""
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


def clean_names(names: Sequence[str]) -> list[str]:
    """Column names without blanks around them, none empty, none twice (whatever their case, as SQLite compares).

    A control character (a line break in a spreadsheet's header) becomes a space: the settings refuse it.
    """
    result: list[str] = []
    seen: set[str] = set()
    for number, raw in enumerate(names, 1):
        plain = "".join(char if char.isprintable() else " " for char in raw.replace("\ufeff", ""))
        name = base = plain.strip() or f"column_{number}"
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
    kind: TableKind = "parquet"
    notes: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])

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
                yield _plain(pa.Table.from_batches([batch])).rename_columns(clean_names(batch.schema.names))
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{self.path} is not a Parquet file that can be read: {error}") from error


def _plain(table: pa.Table) -> pa.Table:
    """Categories as what they stand for, half floats as floats, durations and bytes as texts, for all rules to read."""
    for at, column in enumerate(table.schema):
        kind = column.type
        if pa.types.is_dictionary(kind):
            table = table.set_column(at, column.name, table[at].cast(kind.value_type))
        elif pa.types.is_float16(kind):
            table = table.set_column(at, column.name, table[at].cast(pa.float32()))
        elif pa.types.is_duration(kind):
            table = table.set_column(
                at, column.name, pa.array([value and str(value) for value in table[at].to_pylist()])
            )
        elif pa.types.is_decimal(kind):
            table = table.set_column(at, column.name, table[at].cast(pa.float64()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
            table = table.set_column(at, column.name, _as_text(table[at]))
    return table


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Bytes as the text that they are, as older writers mark texts; other bytes stay as they are."""
    try:
        return column.cast(pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return column


@dataclass
class CsvFile:
    """A text file with a header line; separator, encoding and the header's line are found out."""

    path: Path
    compression: str = "detect"
    kind: TableKind = "csv"
    broken: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])
    _names: list[str] = field(default_factory=list[str], init=False)
    _below: int = field(default=0, init=False)  # lines of the header after its first

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
        """`utf8` where the whole file is; UTF-16 by its mark or its zeros; else what its letters speak for."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        with self._stream() as stream:
            block = first = stream.read(_BLOCK)
            if wide := _utf16(first):
                return wide
            try:
                while block:
                    decoder.decode(block)
                    block = stream.read(_BLOCK)
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                found = _single_byte(block[: 1 << 18])
                self.readings.append(Reading(f"a text in the encoding {found}"))
                return found
        return "utf8"

    @cached_property
    def _start(self) -> tuple[str, int]:
        """The separator and the header's line. Raises InputError."""
        lines = self._first_lines()
        if told := re.fullmatch(r'"?sep=(.)"?\s*', lines[0]):
            return told[1], 1 + self._header(lines[1:], told[1])
        separator = self._separator(lines)
        return separator, self._header(lines, separator)

    @property
    def separator(self) -> str:
        """What is between the fields."""
        return self._start[0]

    def _separator(self, lines: list[str]) -> str:
        """The separator that cuts most of the first lines into equally many fields."""
        scores: dict[str, tuple[float, int]] = {}
        for separator in SEPARATORS:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=separator) if row)
            several = [(width, times) for width, times in widths.most_common() if width > 1]
            width, times = several[0] if several else (1, 0)
            scores[separator] = (times / max(widths.total(), 1), width)
        best = max(SEPARATORS, key=lambda separator: scores[separator])
        if scores[best][1] < 2 or (scores[best][0] < 0.3 and len(lines) > 5):
            raise InputError(
                f"{self.path}: its lines have one field, needed a header and columns separated by , ; | or tabs"
            )
        return best

    def _header(self, lines: list[str], separator: str) -> int:
        """The line of the header among `lines`. Raises InputError where values come first."""
        reader = csv.reader(lines, delimiter=separator)
        ends, rows = [0], list[list[str]]()
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
        at = find_header(rows)
        if at < 0:
            first = next((row for row in rows if len(row) > 1), rows[0])
            raise InputError(
                f"{self.path}: the first line ({listed(first)}) looks like values, needed a line of column names first"
            )
        if ends[at]:
            what = f"a table with its header in line {ends[at] + 1}"
            self.readings.append(Reading(what, examples(rows[: at + 1]), examples(rows[at:])))
        self._names, self._below = clean_names(rows[at]), ends[at + 1] - ends[at] - 1
        return ends[at]

    @cached_property
    def names(self) -> list[str]:
        """The header's names, clean and distinct."""
        _ = self._start
        return self._names

    def batches(self) -> Iterator[pa.Table]:
        """See `TableReader.batches`; all columns are strings, an empty field is an empty one."""
        from pyarrow import csv as arrow_csv

        self.broken.clear()
        header = self._start[1]
        reading = arrow_csv.ReadOptions(
            column_names=self.names,
            skip_rows=header + 1 + self._below,
            encoding=self.encoding,
            block_size=_BLOCK,
            use_threads=False,
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
    kind: TableKind = "sql"
    notes: list[str] = field(default_factory=list[str])
    readings: list[Reading] = field(default_factory=list[Reading])

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
            raise UnavailableError(f"table {self.table!r}: {said_of(error, self.url)}") from None
        finally:
            engine.dispose()
        columns = zip(*fetched, strict=True) if fetched else ((),) * len(names)
        table = pa.table([array_of(values) for values in columns], names=names)
        yield table
        if more:
            yield table.slice(0, 0)


def array_of(values: Sequence[object]) -> pa.Array:
    """Values of any types as one array: numbers and moments where all are, else texts."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return array.cast(pa.float64(), safe=False) if pa.types.is_decimal(array.type) else array


def sql_engine(url: str) -> sa.Engine:
    """An engine for `url`. Raises InputError for another text, MissingDependencyError without the driver."""
    import sqlalchemy as sa
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    from many_models.adapters.sql.connections import masked
    from many_models.adapters.sql.drivers import with_driver

    try:
        parsed = sa.make_url(with_driver(url))
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise InputError(f"there is no SQLite database {parsed.database!r}")
        return sa.create_engine(parsed)
    except (ArgumentError, NoSuchModuleError, ValueError):
        said = masked(url)
        raise InputError(f"{said!r} is not a SQLAlchemy URL; write for example sqlite:///sales.db") from None
    except ImportError as error:
        raise MissingDependencyError(f"the driver of this database is not installed: {error}") from error


def said_of(error: Exception, url: str) -> str:
    """What a driver said, in one line and without the password of `url`."""
    from many_models.adapters.sql.connections import Login, parse, without_secrets

    text = " ".join(str(error).split("\n(Background", maxsplit=1)[0].split())
    return without_secrets(text, parse(url, "source"), Login())


def sql_tables(url: str) -> list[str]:
    """The names of all tables and views. Raises UnavailableError when the database does not answer."""
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError

    engine = sql_engine(url)
    try:
        inspector = sa.inspect(engine)
        names = [*inspector.get_table_names(), *inspector.get_view_names()]
        return sorted(name for name in names if not name.startswith("many_models_"))
    except SQLAlchemyError as error:
        raise UnavailableError(f"the database does not answer: {said_of(error, url)}") from None
    finally:
        engine.dispose()


def require_table(url: str, table: str) -> None:
    """Raise MissingTableError that names the tables that are there, unless `table` is one of them."""
    there = sql_tables(url)
    if table not in there:
        raise MissingTableError(f"no table {table!r} in the database; there are: {', '.join(there) or 'none'}")


# --- Encodings ------------------------------------------------------------------------------------------------------
def _utf16(block: bytes) -> str:
    """The UTF-16 that `block` is in, by its mark or because every second byte is zero; "" where it is none."""
    if block[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}:
        return "utf-16"
    some = block[:4096]
    even, odd = some[::2].count(0), some[1::2].count(0)
    if max(even, odd) * 2 < len(some) * 0.7:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _single_byte(block: bytes) -> str:
    """The encoding of a text that is not UTF-8: Western where few letters have accents, else by their frequencies."""
    import charset_normalizer

    letters = sum(byte > 127 or chr(byte).isalpha() for byte in block)
    if sum(byte > 127 for byte in block) < 0.3 * letters:
        return "cp1252"
    best = charset_normalizer.from_bytes(block, cp_isolation=list(_ENCODINGS)).best()
    return best.encoding if best else "cp1252"
