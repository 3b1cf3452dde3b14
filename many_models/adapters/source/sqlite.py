"""Sales read from a SQL database: SQLite, through connectorx.

SQLite types values, not columns, so what a column holds is looked up in the rows that are read:

- A timestamp is a date when it is text or an integer written `2017-01-01`, `20170101` or `2017-01-01 10:00[:00[.000]]`
  (with a blank or a T; with a zone, `Z` or `+02:00`, its clock time, or the moment in `SalesTable.timezone`, exact to
  the millisecond) and such a day exists from the
  year 2 on. Anything else (null, epoch seconds, `01/02/2017`) leaves its row undated: it is read by `read_undated`,
  never guessed at, never dropped.
- A column of integers is int64, of numbers double; with any text among them all of it is string, so that the row check
  downstream sees what is wrong. Blobs are their hex digits. A declared date column is timestamp[us] when all of it is.
- A key is the text of its value, a whole number without decimal point, null as "".
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.arrow import (
    TIMESTAMP,
    between,
    day_after,
    first_and_last_day,
    midnight,
    require_columns,
)
from many_models.adapters.source.fingerprints import DayFingerprints, days_of
from many_models.errors import InputError, ManyModelsError, MissingTableError, SettingsError, UnavailableError
from many_models.keys import quoted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from many_models.ports import DayCount, SalesTable

BATCH_ROWS = 100_000
FETCHED_ROWS = 2_000  # while connectorx fetches this many, no other thread of Python runs
LOCK_SECONDS = 30.0
_ZONES = timedelta(days=2)  # more than a zone can shift a timestamp
_SENTINELS = {pa.string(): "''", pa.int64(): "0", pa.float64(): "0.0", TIMESTAMP: "''"}
_SPELT = {TIMESTAMP: pa.string()}


class SqlSource:
    """Sales in the database that a SQLAlchemy `url` names: `sqlite:///sales.db` or `sqlite:////absolute/sales.db`.

    Raises SettingsError for any other database.
    """

    def __init__(self, url: str) -> None:
        self._path = _sqlite_path(url)
        self._uniform: dict[tuple[str, str], tuple[object, _Column]] = {}
        self._plain: dict[tuple[str, str], tuple[object, bool]] = {}

    def columns(self, table: str) -> Mapping[str, str]:
        """See `Source.columns`."""
        with self._errors(table):
            found = self._found(table, self._declared(table), "1")
        return {name: str(column.type) for name, column in found.items()}

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """See `Source.days`; see `DayFingerprints` for what a fingerprint tells. One pass over the rows."""
        days = DayFingerprints()
        with self._errors(sales.table):
            declared = self._required(sales.table, list(dict.fromkeys([*sales.columns, *sales.counted])))
            plain = self._plain_days(sales)
            near = _near(sales.timestamp, since, None, plain=plain)
            keys = () if sales.changed else sales.keys
            found = self._found(sales.table, {name: declared[name] for name in sales.counted[len(keys) :]}, near)
            zone = "" if plain else sales.timezone
            stamp = _at(sales.timestamp) if plain else _canonical(sales.timestamp, utc=bool(zone))
            chosen = [(stamp, TIMESTAMP), *((_key(key), pa.string()) for key in keys)]
            for column in found.values():
                chosen += (
                    [(column.number, pa.float64()), (column.text, pa.string())]
                    if column.mixed
                    else [(column.value, column.type)]
                )
            columns = list(found.values())
            target = len(chosen) if sales.changed else _place(columns, sales.target, 1 + len(keys))
            for rows in self._rows(sales.table, [*chosen, *_zoned(sales, zone)], near):
                dated = between(_localised(rows, "c0", zone), "c0", midnight(since), None)
                told = None if sales.changed else _values_of(dated.columns, target, columns, sales.target)
                days.add(dated.column(0), _paired(dated.columns[1:], len(keys), columns), told)
        return days.counted()

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """See `Source.span`."""
        with self._errors(sales.table):
            self._required(sales.table, sales.columns)
            plain = self._plain_days(sales)
            if sales.timezone and not plain:
                return self._local_span(sales, since, until)
            at, different = (
                (_at(sales.timestamp), quoted(sales.table))
                if plain
                else (f"substr({_canonical(sales.timestamp)}, 1, 10)", f"({_different(sales)})")
            )
            within = f"FROM {different} AS t WHERE {at} BETWEEN '{since.date()}' AND '{until.date()}'"
            ends = (f"coalesce((SELECT {end}({at}) {within}), '')" for end in ("min", "max"))  # each served by an index
            (batch,) = self._fast("SELECT {} AS first, {} AS last".format(*ends))
            first, last = (str(column[0].as_py()) for column in batch.columns)
        return (datetime.fromisoformat(first), datetime.fromisoformat(last)) if first else None

    def _local_span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """`span` in a time zone, which SQLite does not know: the column is read whole."""
        chosen = [(_canonical(sales.timestamp, utc=True), TIMESTAMP), *_zoned(sales, sales.timezone)]
        near = _near(sales.timestamp, since, until, plain=False)
        start, end = midnight(since), day_after(until)
        days = [
            ends
            for rows in self._rows(sales.table, chosen, near)
            if (ends := first_and_last_day(between(_localised(rows, "c0", sales.timezone), "c0", start, end).column(0)))
        ]
        return (min(first for first, _ in days), max(last for _, last in days)) if days else None

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """See `Source.read`; tables of at most 100,000 rows."""
        with self._errors(sales.table):
            declared = self._required(sales.table, sales.columns)
            plain = self._plain_days(sales)
            near = _near(sales.timestamp, since, before, plain=plain)
            found = self._found(sales.table, {name: declared[name] for name in (sales.target, *sales.known)}, near)
            zone, at = "" if plain else sales.timezone, f"c{len(sales.keys)}"
            chosen = [
                *((_key(key), pa.string()) for key in sales.keys),
                (_at(sales.timestamp) if plain else _canonical(sales.timestamp, utc=bool(zone)), TIMESTAMP),
                *((column.value, column.type) for column in found.values()),
            ]
            for rows in self._rows(sales.table, [*chosen, *_zoned(sales, zone)], near):
                if len(inside := between(_localised(rows, at, zone), at, since, before)):
                    yield inside.rename_columns(list(sales.columns))

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """See `Source.days_of`."""
        return days_of(sales, rows)

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """See `Source.read_undated`."""
        with self._errors(sales.table):
            declared = self._required(sales.table, sales.columns)
            dated = self._plain_days(sales) or not self._any_undated(sales)
            undated = "0" if dated else f"{_canonical(sales.timestamp)} IS NULL"
            found = self._found(sales.table, {name: declared[name] for name in (sales.target, *sales.known)}, undated)
            chosen = [
                *((_key(key), pa.string()) for key in sales.keys),
                (_text(sales.timestamp), pa.string()),
                *((column.value, column.type) for column in found.values()),
            ]
            tables = list(self._rows(sales.table, chosen, undated))
        return pa.concat_tables(tables).rename_columns(list(sales.columns))

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """See `Source.read_table`."""
        with self._errors(table):
            declared = self._required(table, columns)
            names = list(dict.fromkeys(columns)) or list(declared)
            found = self._found(table, {name: declared[name] for name in names}, "1")
            tables = list(self._rows(table, [(column.value, column.type) for column in found.values()], "1"))
        return pa.concat_tables(tables).rename_columns(names)

    def check(self) -> str:
        """See `Source.check`."""
        with self._errors(""):
            names = self._tables()
        return f"SQLite at {self._path}: {len(names)} tables"

    def _tables(self) -> list[str]:
        found = self._ask(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
        )
        return sorted(name for (name,) in found)

    def _declared(self, table: str) -> dict[str, str]:
        """Column name → declared type in capitals."""
        found = self._ask("SELECT name, type FROM pragma_table_info(?) ORDER BY cid", table)
        if not found:
            names = ", ".join(map(repr, self._tables())) or "none"
            raise MissingTableError(f"the database at {self._path} has no table {table!r}; it has {names}")
        return {name: kind.upper() for name, kind in found}

    def _required(self, table: str, columns: Sequence[str]) -> dict[str, str]:
        declared = self._declared(table)
        require_columns(table, list(declared), columns)
        return declared

    def _found(self, table: str, declared: Mapping[str, str], condition: str) -> dict[str, _Column]:
        """What the rows under `condition` hold in each of the `declared` columns."""
        rows = f"FROM {quoted(table)} AS t WHERE {condition}"
        found, stamp = dict[str, _Column](), self._stamp()
        for name, kind in declared.items():
            at, column = self._uniform.get((table, name), (None, None))
            if column is None or at != stamp:
                column = None if _dates(kind) else self._at_sight(rows, name, kind)
            if column is not None:
                found[name] = column
        rest = {name: kind for name, kind in declared.items() if name not in found}
        if rest:
            probes = ", ".join(_probe(name, kind) for name, kind in rest.items())
            (row,) = self._ask(f"SELECT {probes} {rows}")
            answers = iter(row)
            found |= {
                name: _Column(name, kind, str(next(answers)), str(next(answers)), bool(next(answers)))
                for name, kind in rest.items()
            }
        if condition == "1":
            self._uniform |= {(table, name): (stamp, c) for name, c in found.items() if c.uniform}
        return {name: found[name] for name in declared}

    def _stamp(self) -> object:
        """Differs when the file was written to in between."""
        files = (Path(self._path + suffix) for suffix in ("", "-wal"))
        return tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.is_file())

    def _at_sight(self, rows: str, name: str, declared: str) -> _Column | None:
        """What a column holds, as its first value tells: a text makes it one of texts, whatever else it holds; numbers
        when all of it is of that type. None where only a closer look tells.
        """
        found = self._ask(f"SELECT typeof({_at(name)}) {rows} AND {_at(name)} IS NOT NULL LIMIT 1")
        kind = found[0][0] if found else ""
        numbers = kind in {"integer", "real"} and not self._ask(
            f"SELECT 1 {rows} AND typeof({_at(name)}) <> '{kind}' LIMIT 1"
        )
        return _Column(name, declared, kind, kind, undated=True) if numbers or kind == "text" else None

    def _any_undated(self, sales: SalesTable) -> bool:
        return self._any_timestamp(sales, f"{_canonical(sales.timestamp)} IS NULL")

    def _plain_days(self, sales: SalesTable) -> bool:
        """Whether every timestamp is a day written `2017-01-01`, which then needs no judging row by row."""
        where, stamp, at = (sales.table, sales.timestamp), self._stamp(), _at(sales.timestamp)
        if self._plain.get(where, (None, False))[0] != stamp:
            other = f"typeof({at}) <> 'text' OR length({at}) <> 10 OR {at} < '0002' OR date({at}) IS NOT {at}"
            self._plain[where] = stamp, not self._any_timestamp(sales, other)
        return self._plain[where][1]

    def _any_timestamp(self, sales: SalesTable, condition: str) -> bool:
        """Judged by the different timestamps, of which there are few, and which an index serves."""
        named = quoted(sales.table + ": timestamps")  # a name that cannot be the table's own
        asked = f"SELECT 1 FROM {named} AS t WHERE {condition}"  # noqa: S608 -- the same
        (batch,) = self._fast(f"WITH {named} AS MATERIALIZED ({_different(sales)}) SELECT EXISTS ({asked}) AS found")
        return bool(batch.column(0)[0].as_py())

    def _ask(self, query: str, *values: str) -> list[tuple[str, ...]]:
        with closing(self._connected()) as connection:
            return connection.execute(query, values).fetchall()

    def _connected(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{quote(self._path)}?mode=ro", uri=True, timeout=LOCK_SECONDS)

    def _rows(self, table: str, chosen: Sequence[tuple[str, pa.DataType]], condition: str) -> Iterator[pa.Table]:
        """The `chosen` expressions, read as these types, in tables of bounded size; at least one table.

        connectorx takes a column's type from its first row: a row of constants that is dropped again. It panics on
        text that is not UTF-8: what is left then comes through Python, five times slower.
        """
        schema = pa.schema([(f"c{at}", kind) for at, (_, kind) in enumerate(chosen)])
        constants = ", ".join(f"{_SENTINELS[field.type]} AS {field.name}" for field in schema)
        values = ", ".join(expression for expression, _ in chosen)
        rows = f"SELECT {values} FROM {quoted(table)} AS t WHERE {condition}"  # noqa: S608 -- names are quoted
        done = 0
        try:
            for batches in _gathered(self._fast(f"SELECT {constants} UNION ALL {rows}")):
                read = pa.Table.from_batches(batches)
                yield read.slice(0 if done else 1).combine_chunks().cast(schema)
                done += len(read)
        except BaseException as error:
            if type(error).__name__ != "PanicException" or "Utf8Error" not in str(error):
                raise
        else:
            return
        yield from self._lenient(f"{rows} LIMIT -1 OFFSET {max(done - 1, 0)}", schema)

    def _fast(self, query: str) -> Iterator[pa.RecordBatch]:
        import connectorx

        address = "sqlite://" + quote(self._path)
        yield from connectorx.read_sql(address, query, return_type="arrow_stream", batch_size=FETCHED_ROWS)

    def _lenient(self, query: str, schema: pa.Schema) -> Iterator[pa.Table]:
        r"""Rows whose text may be no UTF-8: such bytes come as `\xff`."""
        with closing(self._connected()) as connection:
            connection.text_factory = lambda text: text.decode(errors="backslashreplace")
            cursor = connection.execute(query)
            while lines := cursor.fetchmany(BATCH_ROWS):
                columns = zip(*lines, strict=True)
                read = [
                    pa.array(values, _SPELT.get(field.type, field.type))
                    for values, field in zip(columns, schema, strict=True)
                ]
                yield pa.table(read, names=schema.names).cast(schema)

    @contextmanager
    def _errors(self, table: str) -> Generator[None]:
        what = f"the database at {self._path}" + (f", table {table!r}" if table else "")
        if not Path(self._path).is_file():
            raise SettingsError(f"there is no database at {self._path}; set [source] url to one that is there")
        try:
            yield
        except ManyModelsError:
            raise
        except (sqlite3.OperationalError, RuntimeError) as error:
            raise UnavailableError(f"{what}: {error}") from error
        except (sqlite3.DatabaseError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise InputError(f"{what}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Column:
    """A column and what some rows hold in it: the first and the last of its values' types by name (blob, integer, null,
    real, text; "None" when there are no rows), and whether one of a declared date column is not a date.
    """

    name: str
    declared: str
    first: str
    last: str
    undated: bool

    @property
    def uniform(self) -> bool:
        """Whether all are numbers of one type, so that any part of the rows holds that type too."""
        return self.first == self.last and self.last in {"integer", "real"} and not _dates(self.declared)

    @property
    def mixed(self) -> bool:
        """Whether there are texts or blobs, and perhaps numbers beside them."""
        return self.last == "text" or self.first == "blob"

    @property
    def type(self) -> pa.DataType:
        if _dates(self.declared) and not self.undated:
            return TIMESTAMP
        if self.mixed:
            return pa.string()
        if self.last == "real":
            return pa.float64()
        if self.first == "integer" or "INT" in self.declared:
            return pa.int64()
        return (
            pa.float64()
            if any(sign in self.declared for sign in ("REAL", "FLOA", "DOUB", "NUM", "DEC"))
            else pa.string()
        )

    @property
    def value(self) -> str:
        """The SQL that reads it as its type."""
        if self.type == TIMESTAMP:
            return _canonical(self.name)
        if self.type == pa.string():
            return _text(self.name)
        return _at(self.name) if self.type == pa.int64() else f"CAST({_at(self.name)} AS REAL)"

    @property
    def number(self) -> str:
        """The SQL of its numbers, null for the rest."""
        return f"CASE WHEN typeof({_at(self.name)}) IN ('integer', 'real') THEN CAST({_at(self.name)} AS REAL) END"

    @property
    def text(self) -> str:
        """The SQL of its texts, null for the rest."""
        return f"CASE WHEN typeof({_at(self.name)}) IN ('text', 'blob') THEN {_text(self.name)} END"


def _sqlite_path(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SettingsError("[source] url is not a SQLAlchemy URL; write sqlite:///path/to/sales.db") from error
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        name = parsed.render_as_string()
        raise SettingsError(
            f"[source] url names {name}; the source reads SQLite files: write sqlite:///path/to/sales.db"
        )
    return str(Path(parsed.database).absolute())


def _different(sales: SalesTable) -> str:
    return f"SELECT DISTINCT {quoted(sales.timestamp)} FROM {quoted(sales.table)}"  # noqa: S608 -- names are quoted


def _at(name: str) -> str:
    """The column; without `t.`, SQLite reads the name of a missing column as a text."""
    return f"t.{quoted(name)}"


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """`batches` in lists of at most BATCH_ROWS."""
    held = list[pa.RecordBatch]()
    for batch in batches:
        held.append(batch)
        if len(held) == BATCH_ROWS // FETCHED_ROWS:
            yield held
            held = []
    if held:
        yield held


def _dates(declared: str) -> bool:
    return "DATE" in declared or "TIME" in declared


def _probe(name: str, declared: str) -> str:
    undated = f"max({_at(name)} IS NOT NULL AND {_canonical(name)} IS NULL)" if _dates(declared) else "1"
    return f"min(typeof({_at(name)})), max(typeof({_at(name)})), {undated}"


def _text(name: str) -> str:
    at = _at(name)
    return f"CASE typeof({at}) WHEN 'blob' THEN hex({at}) ELSE CAST({at} AS TEXT) END"


def _key(name: str) -> str:
    at = _at(name)
    whole = (
        f"CASE WHEN {at} = CAST({at} AS INTEGER) THEN CAST(CAST({at} AS INTEGER) AS TEXT) ELSE CAST({at} AS TEXT) END"
    )
    return (
        f"CASE typeof({at}) WHEN 'text' THEN {at} WHEN 'null' THEN '' WHEN 'real' THEN {whole} ELSE {_text(name)} END"
    )


_OFFSET = "*[-+Zz]*"


def _zoned(sales: SalesTable, zone: str) -> list[tuple[str, pa.DataType]]:
    """Where moments are brought to a `zone`: whether each timestamp has an offset."""
    if not zone:
        return []
    at = _at(sales.timestamp)
    return [(f"CASE WHEN length({at}) > 10 AND substr({at}, 12) GLOB '{_OFFSET}' THEN 1 ELSE 0 END", pa.int64())]


def _localised(rows: pa.Table, at: str, zone: str) -> pa.Table:
    """`rows` with those moments of column `at` that have an offset (the last column says which) in local time."""
    if not zone:
        return rows
    utc, flag = rows[at], pc.equal(rows.column(rows.num_columns - 1), 1)
    local = pc.local_timestamp(pc.assume_timezone(utc, "UTC").cast(pa.timestamp("us", zone)))
    rows = rows.set_column(rows.column_names.index(at), at, pc.if_else(flag, local, utc))
    return rows.remove_column(rows.num_columns - 1)


def _place(found: Sequence[_Column], name: str, start: int) -> int:
    """Where the values of column `name` are among those that `days` reads."""
    at = start
    for column in found:
        if column.name == name:
            return at
        at += 2 if column.mixed else 1
    return at


def _values_of(columns: Sequence[pa.ChunkedArray], at: int, found: Sequence[_Column], target: str) -> pa.ChunkedArray:
    """The target: numbers, and texts where there are some; a blank text is not a target."""
    if not next(column.mixed for column in found if column.name == target):
        return columns[at]
    texts = columns[at + 1]
    texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), pa.scalar(None, pa.string()), texts)
    return pc.coalesce(columns[at].cast(pa.string()), texts)


def _canonical(name: str, *, utc: bool = False) -> str:
    """SQL of the timestamp as text that Arrow parses and that sorts by day; null when it is not a date.

    A moment with an offset comes in UTC, or as the clock time that is written.
    """
    at = _at(name)
    written = f"substr({at}, 1, 4) || '-' || substr({at}, 5, 2) || '-' || substr({at}, 7, 2)"
    clock = f"substr({at}, 11) GLOB '[ T][0-2][0-9]:[0-5][0-9]*' AND substr({at}, 12, 2) < '24'"
    valid = f"strftime('%s', {at}) IS NOT NULL AND instr({at}, char(0)) = 0"
    trimmed = f"rtrim({at}, char(9, 10, 11, 12, 13, 32))"
    clock_time = (
        f"substr(CASE WHEN {trimmed} GLOB '*[Zz]' THEN rtrim(rtrim({trimmed}, 'Zz')) "
        f"ELSE rtrim(substr({trimmed}, 1, length({trimmed}) - 6)) END, 1, 26)"
    )
    with_offset = f"strftime('%Y-%m-%d %H:%M:%f', {at})" if utc else clock_time
    moment = (
        f"CASE WHEN date(substr({at}, 1, 10)) = substr({at}, 1, 10) AND {clock} AND {valid} "
        f"THEN CASE WHEN substr({at}, 12) GLOB '{_OFFSET}' THEN {with_offset} "
        f"ELSE rtrim(substr({at}, 1, 26), char(9, 10, 11, 12, 13, 32)) END END"
    )
    return (
        f"CASE WHEN typeof({at}) NOT IN ('text', 'integer') OR substr({at}, 1, 4) < '0002' THEN NULL "
        f"WHEN length({at}) = 10 THEN CASE WHEN date({at}) = {at} THEN {at} END "
        f"WHEN length({at}) = 8 THEN CASE WHEN date({written}) = {written} THEN {written} END "
        f"ELSE {moment} END"
    )


def _near(name: str, since: datetime | None, before: datetime | None, *, plain: bool) -> str:
    """SQL that keeps every dated row from `since` to `before`, and some more: an index serves it, and it is cheap.

    With `plain` days there is one spelling to look for.
    """
    if since is None and before is None:
        return "1"
    at = _at(name)
    first, last = since.date() if since else date.min, before.date() if before else date.max
    low = first - _ZONES if first > date.min + _ZONES else date.min
    high = last + _ZONES if last < date.max - _ZONES else date.max
    dashed = f"{at} BETWEEN '{low.isoformat()}' AND '{high.isoformat()}~'"
    if plain:
        return dashed
    compact = [f"{at} BETWEEN {mark}{_digits(low)}{mark} AND {mark}{_digits(high)}{mark}" for mark in ("", "'")]
    return f"({dashed} OR {' OR '.join(f'({written} AND length({at}) = 8)' for written in compact)})"


def _digits(day: date) -> str:
    return day.isoformat().replace("-", "")


def _paired(columns: Sequence[pa.ChunkedArray], keys: int, found: Sequence[_Column]) -> list[pa.ChunkedArray]:
    """`columns` with the numbers and texts of a mixed column in one struct."""
    rest = iter(columns[keys:])
    paired = list(columns[:keys])
    for column in found:
        values = next(rest)
        if column.mixed:
            texts = next(rest)
            values = pa.chunked_array(
                [pa.StructArray.from_arrays([values.combine_chunks(), texts.combine_chunks()], ["number", "text"])]
            )
        paired.append(values)
    return paired
