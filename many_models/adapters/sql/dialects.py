"""What each database does in its own way for the warehouse: types, reflection, lists of values, rows in bulk, views.

`Dialect` is what SQLite needs, `Postgres` what PostgreSQL does otherwise; SQL Server's is in tsql.py.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from many_models.adapters.arrow import TIMESTAMP
from many_models.adapters.sql import connections
from many_models.errors import InputError, UnavailableError
from many_models.keys import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from many_models.ports import Scalar, WarehouseView

LOCK_SECONDS = 30.0
BATCH_ROWS = 10_000
WRITE_LOCK = 7_031_994  # any number, the same for all loaders
SqlType = sa.types.TypeEngine[Any]


class KeyClashError(InputError):
    """New rows have the key of rows that stay."""


class Dialect:
    """SQLite: one file, one writer at a time."""

    attempts = 1  # the driver waits for the lock by itself
    default_schema: ClassVar[str | None] = None
    types: ClassVar[tuple[tuple[pa.DataType, SqlType], ...]] = (
        (pa.string(), sa.Text()),
        (pa.int64(), sa.BigInteger()),
        (pa.float64(), sa.Double()),
        (pa.bool_(), sa.Boolean()),
        (TIMESTAMP, sa.DateTime()),
        (pa.date32(), sa.Date()),
        (pa.binary(), sa.LargeBinary()),
    )

    def engine(self, url: sa.URL, login: connections.Login) -> sa.Engine:  # noqa: ARG002  a file has no login
        """An engine whose transactions take the write lock at once and hold DDL too."""
        if url.database and url.database != ":memory:":
            try:
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UnavailableError(f"the folder of {connections.shown(url)} cannot be made: {error}") from error
        engine = sa.create_engine(url, connect_args={"timeout": LOCK_SECONDS})

        @listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN"
            )

        return engine

    def begin_writing(self, connection: sa.Connection, schema: str | None) -> None:
        """Begin a transaction that writes: make other loaders wait, and make the schema."""

    def reflect(self, connection: sa.Connection, schema: str | None, table: str) -> sa.Table | None:
        """The table or view as it is in the database; None when it is not there."""
        inspector = sa.inspect(connection)
        try:
            found = inspector.get_columns(table, schema)
        except NoSuchTableError:
            return None
        key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
        names = {column["name"]: self.column_name(column["name"]) for column in found}
        columns = {column["name"]: sa.Column[Any](names[column["name"]], column["type"]) for column in found}
        primary = sa.PrimaryKeyConstraint(*(columns[name] for name in key))
        return sa.Table(table, sa.MetaData(), *columns.values(), primary, schema=schema)

    def column_name(self, reflected: str) -> str:
        """A column's name, by what SQLAlchemy says that it is."""
        return reflected

    def tables(self, connection: sa.Connection, schema: str | None) -> list[str]:
        """The names of the tables."""
        return sorted(sa.inspect(connection).get_table_names(schema))

    def prepare(self, table: str, rows: pa.Table, key: Sequence[str]) -> pa.Table:  # noqa: ARG002  others refuse some
        """`rows` as the database can keep them. Raises InputError when it cannot."""
        return rows

    def column_type(self, kind: pa.DataType, key_texts: int = 0) -> SqlType:  # noqa: ARG002  others bound a key's length
        """The SQL type of a column; `key_texts`: of how many texts its key is made, 0 outside the key."""
        return next(declared for known, declared in self.types if known == kind)

    def arrow_type(self, declared: SqlType) -> pa.DataType:
        """By the type's family, so that tables that others declared are read as well; text for the rest."""
        families: tuple[tuple[type[SqlType], pa.DataType], ...] = (
            (sa.Boolean, pa.bool_()),
            (sa.Integer, pa.int64()),
            (sa.Numeric, pa.float64()),
            (sa.Float, pa.float64()),
            (sa.DateTime, TIMESTAMP),
            (sa.Date, pa.date32()),
            (sa.LargeBinary, pa.binary()),
        )
        return next((kind for family, kind in families if isinstance(declared, family)), pa.string())

    def create(self, connection: sa.Connection, table: sa.Table) -> None:
        """Make the table."""
        table.create(connection)

    def widen(self, connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> None:
        """Add `column`, which `table` has already been given, to the table in the database."""
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.exec_driver_sql(
            f"ALTER TABLE {name} {self.add_column} {sa.schema.CreateColumn(column).compile(connection)}"
        )

    add_column = "ADD COLUMN"

    def in_list(self, column: sa.Column[Any], values: Sequence[Scalar]) -> sa.ColumnElement[bool]:
        """One parameter for any number of values; SQLite cuts a JSON text at a NUL, so that those go one by one."""
        cut = [value for value in values if isinstance(value, str) and "\0" in value]
        listed = json.dumps([value for value in values if value not in set(cut)])
        among = column.in_(sa.select(sa.column("value")).select_from(sa.func.json_each(listed)))
        return sa.or_(among, column.in_(cut)) if cut else among

    def replace(
        self, connection: sa.Connection, table: sa.Table, rows: pa.Table, condition: sa.ColumnElement[bool]
    ) -> None:
        """Put `rows` in place of those under `condition`. A key that is there already is KeyClashError
        or the driver's IntegrityError.
        """
        connection.execute(sa.delete(table).where(condition))
        if len(rows):
            self.insert(connection, table, rows)

    def insert(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
        """Tuples straight to the driver; times as SQLAlchemy spells them, which is how Arrow does."""
        statement = insert_statement(connection, table, rows.column_names, "?")
        for batch in batches(rows):
            written = [
                column.cast(pa.string()) if pa.types.is_temporal(column.type) else column for column in batch.columns
            ]
            values = list(zip(*(column.to_pylist() for column in written), strict=True))
            connection.exec_driver_sql(statement, values)

    def create_view(self, connection: sa.Connection, schema: str | None, view: WarehouseView) -> None:
        """Make the view, or replace it."""
        name = connection.dialect.identifier_preparer.format_table(sa.table(view.name, schema=schema))
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE VIEW {name} AS {query_of(connection, schema, view)}")


class Postgres(Dialect):
    """PostgreSQL: rows by COPY, one load at a time by an advisory lock, views that keep their grants."""

    attempts = 3

    def engine(self, url: sa.URL, login: connections.Login) -> sa.Engine:
        """An engine of the server."""
        return connections.server_engine(url, login, "warehouse")

    def begin_writing(self, connection: sa.Connection, schema: str | None) -> None:
        """Wait for other loads; make the schema."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{int(LOCK_SECONDS)}s'")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITE_LOCK)))
        if schema and not sa.inspect(connection).has_schema(schema):
            connection.execute(sa.schema.CreateSchema(schema))

    def prepare(self, table: str, rows: pa.Table, key: Sequence[str]) -> pa.Table:  # noqa: ARG002
        """A NUL in a text and a name that is too long are refused."""
        refuse_names(table, rows, 63)
        refuse_texts(table, rows, "\0", "PostgreSQL cannot keep a NUL character in a text")
        return rows

    def in_list(self, column: sa.Column[Any], values: Sequence[Scalar]) -> sa.ColumnElement[bool]:
        """One array parameter; a text with a NUL is in no row."""
        possible = [value for value in values if not (isinstance(value, str) and "\0" in value)]
        kind = sa.BigInteger() if isinstance(column.type, sa.Integer) else sa.Text()
        return column == sa.any_(sa.cast(sa.bindparam(None, possible, sa.ARRAY(kind)), sa.ARRAY(kind)))

    def insert(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
        """COPY, batch by batch, so that memory does not grow with the rows; IntegrityError as SQLAlchemy's."""
        names = ", ".join(map(quoted, rows.column_names))
        path = ".".join(map(quoted, filter(None, (table.schema, table.name))))
        statement = f"COPY {path} ({names}) FROM STDIN (FORMAT csv)"
        driver = connection.connection.driver_connection
        assert driver is not None
        try:
            with driver.cursor() as cursor:
                cursor.copy_expert(statement, _CsvFile(rows))
        except driver.Error as error:
            raise DBAPIError.instance(
                statement, None, error, driver.Error, dialect=connection.dialect
            ) from error  # as if SQLAlchemy had run it

    def create_view(self, connection: sa.Connection, schema: str | None, view: WarehouseView) -> None:
        """Replace it in place while its columns stay the same, which keeps grants; else drop and make it."""
        name = connection.dialect.identifier_preparer.format_table(sa.table(view.name, schema=schema))
        query = query_of(connection, schema, view)
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(f"CREATE OR REPLACE VIEW {name} AS {query}")
        except DBAPIError as error:
            if getattr(error.orig, "pgcode", "") != "42P16":  # other columns than before
                raise
            connection.exec_driver_sql(f"DROP VIEW {name}")
            connection.exec_driver_sql(f"CREATE VIEW {name} AS {query}")


class MySql(Dialect):
    """MySQL and MariaDB, as a source: the types of tables that others declared."""

    def column_type(self, kind: pa.DataType, key_texts: int = 0) -> SqlType:
        """See `Dialect.column_type`; a DATETIME keeps microseconds only where it is told to."""
        from sqlalchemy.dialects import mysql

        return mysql.DATETIME(fsp=6) if kind == TIMESTAMP else super().column_type(kind, key_texts)

    def column_name(self, reflected: str) -> str:
        """See `Dialect.column_name`; SQLAlchemy reads SHOW CREATE TABLE, where a backtick in a name is doubled."""
        return reflected.replace("``", "`")

    def insert(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
        """Many rows a statement, by SQLAlchemy."""
        for batch in batches(rows):
            connection.execute(sa.insert(table), batch.to_pylist())


class _CsvFile(io.RawIOBase):
    """Rows as the CSV that COPY reads: a text always quoted, null as nothing; made as it is read."""

    def __init__(self, rows: pa.Table) -> None:
        self._texts = self._made(rows)
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; none at the end."""
        if not self._left:
            self._left = next(self._texts, b"")
        given, self._left = (self._left, b"") if size < 0 else (self._left[:size], self._left[size:])
        return given

    def _made(self, rows: pa.Table) -> Iterator[bytes]:
        from pyarrow import csv

        options = csv.WriteOptions(include_header=False, quoting_style="needed")
        for batch in batches(rows):
            columns = [_hex(column) if pa.types.is_binary(column.type) else column for column in batch.columns]
            made = io.BytesIO()
            csv.write_csv(pa.table(columns, names=[f"c{at}" for at in range(len(columns))]), made, options)
            yield made.getvalue()


def _hex(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else f"\\x{value.hex()}" for value in column.to_pylist()], pa.string())


def batches(rows: pa.Table) -> Iterator[pa.Table]:
    """`rows` in tables of bounded size."""
    for start in range(0, len(rows), BATCH_ROWS):
        yield rows.slice(start, BATCH_ROWS)


def insert_statement(connection: sa.Connection, table: sa.Table, columns: Sequence[str], mark: str) -> str:
    """INSERT of one row, for the driver."""
    quoted = connection.dialect.identifier_preparer
    names = ", ".join(map(quoted.quote_identifier, columns))
    marks = ", ".join(mark for _ in columns)
    return f"INSERT INTO {quoted.format_table(table)} ({names}) VALUES ({marks})"  # noqa: S608 -- quoted


def query_of(connection: sa.Connection, schema: str | None, view: WarehouseView) -> str:
    """The view's query with its tables' names as this database and schema have them."""
    quoted = connection.dialect.identifier_preparer
    names: Mapping[str, str] = {name: quoted.format_table(sa.table(name, schema=schema)) for name in view.tables}
    query = view.query
    for name, path in names.items():
        query = query.replace(f"{{{name}}}", path)
    return query


def refuse_names(table: str, rows: pa.Table, longest: int) -> None:
    """Raise InputError when the name of the table or a column has more than `longest` bytes."""
    for name in (table, *rows.column_names):
        if len(name.encode()) > longest:
            raise InputError(f"table {table!r}: the database's names have at most {longest} bytes, not so {name!r}")


def refuse_texts(table: str, rows: pa.Table, part: str, why: str) -> None:
    """Raise InputError that names the column in which a text contains `part`."""
    for name in rows.column_names:
        column = rows.column(name)
        if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, part)).as_py():
            raise InputError(f"table {table!r}, column {name!r}: {why}; take it out before it is loaded")
