"""A stranger's CSV or Parquet file as a table of a SQLite source, read as it was guessed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.errors import InputError, UnavailableError
from many_models.onboarding.readers import open_file
from many_models.onboarding.value_types import is_empty, parse
from many_models.sql_names import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from many_models.onboarding.guess import InferredSettings
    from many_models.onboarding.value_types import ColumnType

_LARGEST_INTEGER = 2**63 - 1


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
    """Load the file at `location` into table `guess.table` of the SQLite `database`, in the place of one of that name.

    One transaction: the database's other tables stay, and an interrupted load leaves the old table. Timestamps become
    ISO 8601 text (UTC where they have a zone), numbers and flags numbers; what cannot be read stays the text it is,
    so that the row checks quarantine it. All columns are loaded. `progress` is told (rows done, rows or 0 where
    unknown). Raises InputError when the file cannot be read, UnavailableError when the database is locked.
    """
    reader = open_file(location)
    columns = [_Target.of(name, guess) for name in guess.columns]
    rows = 0
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            insert = _make_table(connection, guess, columns)
            for batch in reader.batches():
                if missing := [column.source for column in columns if column.source not in batch.column_names]:
                    raise InputError(f"{location}: columns {', '.join(missing)} are gone since it was looked at")
                connection.executemany(insert, _rows(batch, columns, guess.added_key and Path(location).stem))
                rows += batch.num_rows
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
class _Target:
    """A column of the file, and what it becomes."""

    source: str
    name: str
    declared: str
    type: ColumnType
    as_it_is: bool

    @classmethod
    def of(cls, source: str, guess: InferredSettings) -> _Target:
        """Keys of a text file stay text: 007 is not 7."""
        column_type = guess.columns[source].type
        name = guess.renamed.get(source, source)
        as_it_is = name in guess.keys.value or column_type.kind in {"text", "empty"}
        number = "INTEGER" if column_type.whole else "REAL"
        declared = {"number": number, "flag": "INTEGER"}.get(column_type.kind, "TEXT")
        if as_it_is:
            declared = "TEXT" if guess.kind == "csv" or column_type.kind in {"text", "empty"} else declared
        return cls(source, name, declared, column_type, as_it_is)


def _make_table(connection: sqlite3.Connection, guess: InferredSettings, columns: Sequence[_Target]) -> str:
    """Make the table, and return the statement that inserts into it."""
    table = quoted(guess.table.value)
    declared = [f"{quoted(column.name)} {column.declared}" for column in columns]
    declared += [f"{quoted(guess.added_key)} TEXT"] if guess.added_key else []
    connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute(f"CREATE TABLE {table} ({', '.join(declared)})")
    return f"INSERT INTO {table} VALUES ({', '.join('?' * len(declared))})"  # noqa: S608


def _rows(batch: pa.Table, columns: Sequence[_Target], series: str) -> Iterator[tuple[object, ...]]:
    values = [_values(batch[column.source], column) for column in columns]
    if series:
        values.append([series] * batch.num_rows)
    return zip(*values, strict=True)


def _values(column: pa.ChunkedArray, target: _Target) -> list[object]:
    """The column's values as SQLite takes them; each different value is turned once."""
    whole = column.combine_chunks() if column.num_chunks else pa.array([], column.type)
    encoded = whole.dictionary_encode("encode")
    levels = encoded.dictionary
    turned = np.empty(len(levels), object)
    turned[:] = _as_they_are(levels) if target.as_it_is else _turned(levels, target.type)
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
