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
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError, MissingDependencyError, MissingTableError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import sqlalchemy as sa
    from numpy.typing import NDArray

SEPARATORS = (",", ";", "\t", "|")
BATCH_ROWS = 100_000
_BLOCK = 4 << 20
_MAGIC = {b"PAR1": "parquet", b"SQLi": "sqlite", b"PK\x03\x04": "zip", b"\x1f\x8b": "gzip"}

Kind = Literal["time", "number", "flag", "text", "empty"]


# --- Where rows come from -------------------------------------------------------------------------------------------
class Origin(Protocol):
    """Rows under clean, distinct column names; text where the origin knows no types."""

    kind: Literal["csv", "parquet", "sql"]

    def batches(self) -> Iterator[pa.Table]:
        """All rows, in tables of bounded size. Raises InputError for what cannot be read."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What was met while reading that its user should know."""
        ...


def head(origin: Origin, limit: int) -> tuple[pa.Table, bool]:
    """The first `limit` rows or a few more, and whether there are others."""
    tables: list[pa.Table] = []
    rows = 0
    for table in origin.batches():
        if rows >= limit:
            return pa.concat_tables(tables, promote_options="permissive"), True
        tables.append(table)
        rows += table.num_rows
    if not rows:
        raise InputError(f"{origin} has no rows")
    return pa.concat_tables(tables, promote_options="permissive"), False


def open_file(location: str) -> Origin:
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
        """See `Origin.batches`; nested columns are left out and noted."""
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
        """See `Origin.batches`; all columns are strings, an empty field is an empty one."""
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
        except (pa.ArrowInvalid, OSError, EOFError) as error:
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


# --- What text means ------------------------------------------------------------------------------------------------
_PLAIN = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_NUMBER_STYLES = {
    "plain": rf"^{_PLAIN}$",
    "thousands": rf"^({_PLAIN}|[+-]?\d{{1,3}}(,\d{{3}})+(\.\d+)?)$",
    "comma": r"^[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?$",
}
_FLAGS = {
    **dict.fromkeys(("true", "t", "yes", "y", "ja", "j", "oui", "si", "wahr"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "nein", "non", "falsch"), 0.0),
}
_DATES = (
    *("%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y"),
    *("%m-%d-%Y", "%d-%m-%Y", "%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
    *("%b-%y", "%b %Y", "%B %Y", "%m/%Y", "%Y/%m", "%m.%Y"),
)
_CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MOSTLY = 0.9  # of a column's values must fit, for it to be numbers or times with a few bad ones
_TRIED = 300


@dataclass(frozen=True, slots=True)
class Meaning:
    """How a column's values are to be read.

    `style` of a number: `plain`, `thousands` (1,234.5) or `comma` (1.234,5); of a time: `native`, `iso`, `isoweek`,
    `epoch_s`, `epoch_ms` or a strptime format; `or_else` a second format that fits as well. `whole`: no fractions.
    """

    kind: Kind
    style: str = ""
    or_else: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Column:
    """A column by its distinct values: row i holds `levels[codes[i]]`.

    `levels` is float64 (number, flag), datetime64[us] (time) or object (text); NaN, NaT or None where the value is
    missing or cannot be read. `unread` and `missing` count rows.
    """

    name: str
    meaning: Meaning
    codes: NDArray[np.int64]
    levels: NDArray[Any]
    unread: int
    missing: int

    @property
    def kind(self) -> Kind:
        """What its values are."""
        return self.meaning.kind

    @property
    def values(self) -> NDArray[Any]:
        """One value a row."""
        return self.levels[self.codes]


def understand(name: str, column: pa.ChunkedArray, *, comma_first: bool = False, time_like: bool = False) -> Column:
    """What a column means, from all its values; `comma_first` where 1,5 is more likely one and a half.

    `time_like` says that its name speaks of time, so that 202401 or 1700000000 may be one.
    """
    whole = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    encoded = whole.dictionary_encode("encode")
    codes, levels = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary
    counts = np.bincount(codes, minlength=len(levels))
    meaning = meaning_of(levels, counts, comma_first=comma_first, time_like=time_like)
    parsed = parse(levels, meaning)
    empty = is_empty(levels)
    readable = (
        ~np.isnan(parsed)
        if meaning.kind in {"number", "flag"}
        else ~np.isnat(parsed)
        if meaning.kind == "time"
        else ~empty
    )
    return Column(name, meaning, codes, parsed, int(counts[~readable & ~empty].sum()), int(counts[empty].sum()))


def is_empty(levels: pa.Array) -> NDArray[np.bool_]:
    """Where a value is null, NaN or text of nothing but blanks."""
    null = pc.is_null(levels, nan_is_null=True).to_numpy(zero_copy_only=False)
    if pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type):
        blank = pc.equal(pc.utf8_trim_whitespace(levels), "")
        null = null | pc.fill_null(blank, fill_value=True).to_numpy(zero_copy_only=False)
    return null


def meaning_of(levels: pa.Array, counts: NDArray[np.int64], *, comma_first: bool, time_like: bool) -> Meaning:
    """The meaning that fits at least nine tenths of the rows that are not empty; `counts` are rows per level."""
    there = ~is_empty(levels)
    if not there.any() or pa.types.is_null(levels.type):
        return Meaning("empty")
    if pa.types.is_temporal(levels.type):
        return Meaning("time", "native") if not pa.types.is_time(levels.type) else Meaning("text")
    if pa.types.is_boolean(levels.type):
        return Meaning("flag", "native")
    if _is_number(levels.type):
        return _meaning_of_numbers(parse(levels, Meaning("number", "native")), counts, "native", time_like=time_like)
    if not (pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type)):
        return Meaning("text")
    weights = counts[there]
    texts = pc.utf8_trim_whitespace(levels.filter(pa.array(there)).cast(pa.string()))
    total = weights.sum()
    if len(texts) <= 4 and set(pc.utf8_lower(texts).to_pylist()) <= set(_FLAGS):
        return Meaning("flag", "words")
    styles = ("comma", "plain", "thousands") if comma_first else ("plain", "thousands", "comma")
    for style in styles:
        fits = pc.match_substring_regex(texts, _NUMBER_STYLES[style]).to_numpy(zero_copy_only=False)
        if weights[fits].sum() >= _MOSTLY * total:
            return _meaning_of_numbers(parse(texts, Meaning("number", style)), weights, style, time_like=time_like)
    return _meaning_of_times(texts, weights) or Meaning("text")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _meaning_of_numbers(
    values: NDArray[np.float64], weights: NDArray[np.int64], style: str, *, time_like: bool
) -> Meaning:
    finite = np.isfinite(values)
    numbers, counts = values[finite], weights[finite]
    whole = bool(len(numbers)) and bool((numbers == np.floor(numbers)).all())
    if not whole:
        return Meaning("number", style)

    def mostly(fits: NDArray[np.bool_]) -> bool:
        return len(numbers) > 2 and counts[fits].sum() >= 0.99 * counts.sum()

    if mostly((numbers > 19000101) & (numbers < 22001231)):
        days = parse_times(_as_text(numbers), "%Y%m%d")
        if mostly(~np.isnat(days)):
            return Meaning("time", "%Y%m%d")
    if time_like and mostly((numbers >= 190001) & (numbers <= 220012) & (numbers % 100 >= 1) & (numbers % 100 <= 12)):
        return Meaning("time", "%Y%m")
    if time_like and mostly((numbers > 3e8) & (numbers < 4.1e9)):
        return Meaning("time", "epoch_s")
    if time_like and mostly((numbers > 3e11) & (numbers < 4.1e12)):
        return Meaning("time", "epoch_ms")
    if set(numbers) <= {0.0, 1.0}:
        return Meaning("flag", style, whole=True)
    return Meaning("number", style, whole=True)


def _as_text(numbers: NDArray[np.float64]) -> pa.Array:
    whole = np.where(np.isfinite(numbers), numbers, 0).astype(np.int64)
    return pa.array(whole.astype(str), pa.string(), mask=~np.isfinite(numbers))


def _meaning_of_times(texts: pa.Array, weights: NDArray[np.int64]) -> Meaning | None:
    with_digits = pc.match_substring_regex(texts, r"\d").to_numpy(zero_copy_only=False)
    if weights[with_digits].sum() < _MOSTLY * weights.sum():
        return None
    tried = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _TRIED)).astype(int))
    some = texts.take(pa.array(tried))
    candidates = ["iso", "isoweek", *(day + clock for day in _DATES for clock in _CLOCKS)]
    shares = {style: float((~np.isnat(parse_times(some, style))).mean()) for style in candidates}
    best = max(shares.values())
    if best < _MOSTLY * 0.9:
        return None
    good = [style for style in candidates if shares[style] >= best - 1e-9]
    parsed = {style: parse_times(texts, style) for style in good[:4]}
    fits = {style: weights[~np.isnat(times)].sum() / weights.sum() for style, times in parsed.items()}
    style = max(fits, key=lambda name: (fits[name], round(_regularity(parsed[name]), 2)))
    if fits[style] < _MOSTLY:
        return None
    rivals = [name for name in fits if name != style and fits[name] == fits[style]]
    return Meaning("time", style, or_else=rivals[0] if rivals else "")


def _regularity(times: NDArray[np.datetime64]) -> float:
    """The share of the most frequent distance between neighbours, months counting as equally long."""
    days = np.unique(times[~np.isnat(times)].astype("datetime64[D]")).astype(np.int64)
    steps = np.diff(days)
    if not len(steps):
        return 0.0
    steps = np.where((steps >= 28) & (steps <= 31), 30, steps)
    return float(np.bincount(np.minimum(steps, 400)).max() / len(steps))


def parse(levels: pa.Array, meaning: Meaning) -> NDArray[Any]:
    """`levels` as float64 (NaN), datetime64[us] (NaT) or objects (None), by their meaning."""
    if meaning.kind == "time":
        return parse_times(levels, meaning.style)
    if meaning.kind in {"text", "empty"}:
        return np.array(levels.to_pylist(), object)
    if meaning.style == "words":
        words = levels.cast(pa.string()).to_pylist()
        return np.array([_FLAGS.get((word or "").strip().lower(), np.nan) for word in words])
    if not (pa.types.is_string(levels.type) or pa.types.is_large_string(levels.type)):
        plain = levels.cast(pa.uint8()) if pa.types.is_boolean(levels.type) else levels
        return pc.fill_null(plain.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)
    style = "plain" if meaning.style == "native" else meaning.style
    texts = pc.utf8_trim_whitespace(levels.cast(pa.string()))
    fits = pc.fill_null(pc.match_substring_regex(texts, _NUMBER_STYLES[style]), fill_value=False)
    texts = pc.if_else(fits, texts, pa.scalar(None, pa.string()))
    if style != "plain":
        texts = pc.replace_substring(texts, "," if style == "thousands" else ".", "")
    if style == "comma":
        texts = pc.replace_substring(texts, ",", ".")
    return pc.fill_null(texts.cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)


def parse_times(levels: pa.Array, style: str) -> NDArray[np.datetime64]:
    """`levels` as datetime64[us], in UTC where they have a zone; NaT for what is not written in this style."""
    import pandas as pd

    if style == "native":
        kind = levels.type
        stamps = levels.cast(
            pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.timestamp("us"), safe=False
        )
        return stamps.cast(pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    if style.startswith("epoch"):
        unit = 1_000_000 if style == "epoch_s" else 1_000
        numbers = parse(levels, Meaning("number", "native"))
        return pd.to_datetime(pd.Series(numbers) * unit, unit="us", errors="coerce").to_numpy().astype("datetime64[us]")
    if _is_number(levels.type):
        levels = _as_text(parse(levels, Meaning("number", "native")))
    texts = pd.Series(pc.utf8_trim_whitespace(levels.cast(pa.string())).to_pylist(), dtype=object)
    if style == "isoweek":
        weeks = texts.str.extract(r"^(\d{4})-?[Ww](\d{2})$")
        texts, style = weeks[0] + "-W" + weeks[1] + "-1", "%G-W%V-%u"
    pattern = "ISO8601" if style == "iso" else style
    stamps = pd.to_datetime(texts, format=pattern, errors="coerce", utc=True)
    return stamps.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
