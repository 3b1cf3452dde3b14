"""A stranger's CSV or Parquet file as a table of a SQLite source, read as it was guessed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.errors import InputError, UnavailableError
from many_models.keys import quoted
from many_models.onboarding.cleaning import without
from many_models.onboarding.grid import listed
from many_models.onboarding.value_types import is_empty, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from many_models.onboarding.inferred import InferredSettings
    from many_models.onboarding.value_types import ColumnType

_LARGEST_INTEGER = 2**63 - 1
_WHOLE_NUMBERS = frozenset("int8 int16 int32 int64 uint8 uint16 uint32".split())
COLUMNS = "many_models_columns"  # how each column of the files that are loaded is read


@dataclass(frozen=True, slots=True)
class Loaded:
    """What `load_file` put where; `notes` say what was left out."""

    database: Path
    table: str
    rows: int
    notes: tuple[str, ...]


def load_file(
    location: str, database: Path, guess: InferredSettings, progress: Callable[[int, int], None] | None = None
) -> Loaded:
    """Load the file at `location` into table `guess.table` of the SQLite `database`, in place of one of that name.

    One transaction: the database's other tables stay, and an interrupted load leaves the old table. Timestamps become
    ISO 8601 text (UTC where they have a zone), numbers and flags numbers; what cannot be read stays the text it is,
    so that the row checks quarantine it. All columns are loaded. `progress` is told (rows done, rows or 0 where
    unknown). Raises InputError when the file cannot be read, UnavailableError when the database is locked.
    """
    reader = guess.reader()
    columns = [Target.of(name, guess) for name in guess.columns]
    planned_columns = {*guess.keys.value, guess.timestamp.value, *guess.known.value}
    plan = [column for column in columns if column.name in planned_columns] if guess.plan_after else []
    rows = 0
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            insert = make_table(connection, guess.table.value, columns, guess.added_key)
            into_plan = make_table(connection, guess.covariates_table.value, plan, guess.added_key) if plan else ""
            keep_columns(connection, columns)
            for batch in reader.batches():
                if missing := [column.source for column in columns if column.source not in batch.column_names]:
                    raise InputError(f"{location}: columns {listed(missing)} are gone since it was looked at")
                sold, planned = split_plan(without(batch, guess.totals), guess)
                series = guess.added_key and Path(location).stem
                connection.executemany(insert, rows_for(sold, columns, series))
                if planned.num_rows:
                    connection.executemany(into_plan, rows_for(planned, plan, series))
                rows += sold.num_rows + planned.num_rows
                if progress:
                    progress(rows, guess.rows if guess.complete else 0)
            index = quoted(f"{guess.table.value}_by_{guess.timestamp.value}")
            table, time = quoted(guess.table.value), quoted(guess.timestamp.value)
            connection.execute(f"CREATE INDEX IF NOT EXISTS {index} ON {table} ({time})")
            connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{database}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise InputError(f"{database} cannot take the table: {error}") from error
    return Loaded(database, guess.table.value, rows, tuple(reader.notes))


@dataclass(frozen=True, slots=True)
class Target:
    """A column of the file, and what it becomes."""

    source: str
    name: str
    declared: str
    type: ColumnType
    as_it_is: bool
    replaced: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, source: str, guess: InferredSettings) -> Target:
        """Keys that are texts in the file stay texts, since 007 is not 7; numbers beyond 64 bits do, too."""
        column_type = guess.columns[source].type
        name = guess.renamed.get(source, source)
        as_it_is = name in guess.keys.value or column_type.kind in {"text", "empty"}
        number = "INTEGER" if column_type.whole else "REAL"
        declared = {"number": number, "flag": "INTEGER"}.get(column_type.kind, "TEXT")
        if as_it_is and guess.columns[source].raw not in _WHOLE_NUMBERS:
            declared = "TEXT"
        return cls(source, name, declared, column_type, as_it_is, guess.variants.get(source, {}))


def split_plan(batch: pa.Table, guess: InferredSettings) -> tuple[pa.Table, pa.Table]:
    """Rows of the past, and those of the plan: after the last sale, and without a target."""
    if guess.plan_after is None:
        return batch, batch.slice(0, 0)
    times, target = guess.columns[guess.timestamp.value].type, guess.columns[guess.target.value].type
    later = parse(batch[guess.timestamp.value].combine_chunks(), times) > np.datetime64(guess.plan_after, "us")
    planned = later & np.isnan(parse(batch[guess.target.value].combine_chunks(), target))
    return batch.filter(pa.array(~planned)), batch.filter(pa.array(planned))


def keep_columns(connection: sqlite3.Connection, columns: Sequence[Target]) -> None:
    """Write down how each column of the file is read, so that the next file is read in the same way."""
    connection.execute(f"DROP TABLE IF EXISTS {COLUMNS}")
    connection.execute(
        f"CREATE TABLE {COLUMNS} (source TEXT, name TEXT, declared TEXT, kind TEXT, style TEXT, as_it_is INTEGER)"
    )
    rows = [(c.source, c.name, c.declared, c.type.kind, c.type.style, int(c.as_it_is)) for c in columns]
    connection.executemany(f"INSERT INTO {COLUMNS} VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608


def make_table(connection: sqlite3.Connection, name: str, columns: Sequence[Target], added_key: str) -> str:
    """Make the table, and return the statement that inserts into it."""
    table = quoted(name)
    declared = [f"{quoted(column.name)} {column.declared}" for column in columns]
    declared += [f"{quoted(added_key)} TEXT"] if added_key else []
    connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(f"CREATE TABLE {table} ({', '.join(declared)})")
    return f"INSERT INTO {table} VALUES ({', '.join('?' * len(declared))})"  # noqa: S608


def rows_for(batch: pa.Table, columns: Sequence[Target], series: str) -> Iterator[tuple[object, ...]]:
    """A batch's rows as SQLite takes them, with the name of the only series where there is one."""
    values = [_values(batch[column.source], column) for column in columns]
    if series:
        values.append([series] * batch.num_rows)
    return zip(*values, strict=True)


def _values(column: pa.ChunkedArray, target: Target) -> list[object]:
    """The column's values as SQLite takes them; each different value is turned once."""
    whole = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    encoded = whole.dictionary_encode("encode")
    levels = encoded.dictionary
    turned = np.empty(len(levels), object)
    turned[:] = _as_they_are(levels) if target.as_it_is else _turned(levels, target.type)
    if target.replaced:
        turned[:] = [target.replaced.get(value, value) if isinstance(value, str) else value for value in turned]
    return turned[encoded.indices.to_numpy(zero_copy_only=False)].tolist()


def _as_they_are(levels: pa.Array) -> list[object]:
    return [
        value
        if value is None
        or isinstance(value, (str, float, bytes))
        or (isinstance(value, int) and abs(value) <= _LARGEST_INTEGER)
        else str(value)
        for value in levels.to_pylist()
    ]


def _turned(levels: pa.Array, column_type: ColumnType) -> list[object]:
    empty, raw = is_empty(levels), _as_they_are(levels)
    parsed = parse(levels, column_type)
    if column_type.kind == "time":
        clock = parsed.astype("datetime64[D]") != parsed
        days, moments = np.datetime_as_string(parsed, "D"), np.datetime_as_string(parsed, "s")
        read = ~np.isnat(parsed)
        texts = np.where(clock, np.char.replace(moments, "T", " "), days).tolist()
    else:
        read = ~np.isnan(parsed)
        whole = read & (parsed == np.floor(parsed)) & (np.abs(parsed) < 2**53)
        texts = [int(value) if good else float(value) for value, good in zip(parsed.tolist(), whole, strict=True)]
    return [
        text if good else None if none else before
        for text, good, none, before in zip(texts, read, empty, raw, strict=True)
    ]
