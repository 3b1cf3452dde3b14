"""The warehouse in a SQL database, through SQLAlchemy: SQLite, PostgreSQL, SQL Server and Azure SQL.

A load is one transaction. What differs from database to database is in `warehouse_dialects` and `warehouse_tsql`;
Synapse, where a transaction cannot hold DDL, has its own load in `warehouse_synapse`.
"""

from __future__ import annotations

from contextlib import contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from many_models.adapters.arrow import LOADS, align_schema, check_where, key_conflict, require_part, sql_plain
from many_models.adapters.sql import connections
from many_models.adapters.sql.dialects import Dialect, KeyClashError, Postgres
from many_models.errors import InputError, ManyModelsError, MissingTableError, SettingsError, TransientError
from many_models.system import retry, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from datetime import datetime

    from many_models.ports import Filter, WarehousePart, WarehouseView

PAUSE_SECONDS = 1.0  # before another attempt; twice as long each time
NO_LOGIN = connections.Login()
T = TypeVar("T")


class SqlWarehouse:
    """Tables in the database that a SQLAlchemy `url` names, in `schema` (default: the database's own).

    `sqlite:///warehouse.db` is made with its folder when it is not there; `postgresql://…`; `mssql+pyodbc://…`.
    SettingsError for the rest. A server that fails for a passing reason is asked three times: a load is one transaction
    that ends the same however often it is run. `clock` tells when a load was recorded.
    """

    def __init__(
        self,
        url: str,
        clock: Callable[[], datetime] = utc_now,
        *,
        schema: str = "",
        login: connections.Login = NO_LOGIN,
        dialect: Dialect | None = None,
    ) -> None:
        self._url, self._login = connections.parse(url, "warehouse"), login
        self._clock = clock
        self._name = connections.shown(self._url)
        self._dialect = dialect or _dialect(self._url)
        self._schema = schema or self._dialect.default_schema
        self._engine = self._dialect.engine(self._url, login)

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:
        """See `Warehouse.load`. Integers are kept as int64, numbers as double, NaN as null, zoned times as UTC."""
        ready = [
            (part, self._dialect.prepare(part.table, sql_plain(part.table, part.rows), part.key)) for part in parts
        ]
        return self._again(lambda: self._load(load, fingerprint, ready))

    def _load(self, load: str, fingerprint: str, ready: Sequence[tuple[WarehousePart, pa.Table]]) -> int:
        with self._transaction(f"load {load!r}", writes=True) as connection:
            for part, rows in ready:
                self._replace(connection, part, rows)
            written = sum(len(rows) for _, rows in ready)
            self._record(connection, load, fingerprint, written)
        return written

    def create_views(self, views: Sequence[WarehouseView]) -> None:
        """See `Warehouse.create_views`."""

        def make() -> None:
            with self._transaction("making its views", writes=True) as connection:
                there = set(self._dialect.tables(connection, self._schema))
                for view in views:
                    if missing := sorted(set(view.tables) - there):
                        raise MissingTableError(f"view {view.name!r}: the warehouse {self._name} has no {missing}")
                    self._dialect.create_view(connection, self._schema, view)

        self._again(make)

    def loads(self) -> Mapping[str, str] | None:
        """See `Warehouse.loads`."""

        def look() -> dict[str, str]:
            with self._transaction("reading its loads") as connection:
                if self._reflected(connection, LOADS) is None:
                    return {}
                columns = sa.column("load"), sa.column("fingerprint")
                there = sa.table(LOADS, schema=self._schema)
                rows = connection.execute(sa.select(*columns).select_from(there).order_by(columns[0]))
                return {row.load: row.fingerprint for row in rows}

        return self._again(look)

    def count(self, table: str, where: Filter) -> int:
        """See `Warehouse.count`."""

        def ask() -> int:
            with self._transaction(f"counting rows of table {table!r}") as connection:
                there = self._reflected(connection, table)
                if there is None:
                    return 0
                check_where(table, self._arrow_schema(there), where)
                query = sa.select(sa.func.count()).select_from(there).where(self._condition(there, where))
                return int(connection.execute(query).scalar_one())

        return self._again(ask)

    def read(self, table: str, where: Filter | None = None) -> pa.Table:
        """See `Warehouse.read`. In no order."""
        return self._again(lambda: self._read(table, where))

    def _read(self, table: str, where: Filter | None) -> pa.Table:
        with self._transaction(f"reading table {table!r}") as connection:
            there = self._reflected(connection, table)
            if there is None:
                names = ", ".join(map(repr, self._dialect.tables(connection, self._schema))) or "none"
                raise MissingTableError(f"the warehouse {self._name} has no table {table!r}; it has {names}")
            schema = self._arrow_schema(there)
            query = sa.select(*there.columns)
            if where is not None:
                check_where(table, schema, where)
                query = query.where(self._condition(there, where))
            found = connection.execute(query).fetchall()
        columns = zip(*found, strict=True) if found else [()] * len(schema)
        computed = [isinstance(column.type, sa.types.NullType) for column in there.columns]  # in SQLite's views
        arrays = [
            _inferred(values) if untyped else _arrow(values, field.type)
            for values, field, untyped in zip(columns, schema, computed, strict=True)
        ]
        return pa.table(arrays, names=schema.names)

    def check(self) -> str:
        """See `Warehouse.check`."""
        return f"warehouse {self._name}, loads: {len(self.loads() or ())}"

    def _replace(self, connection: sa.Connection, part: WarehousePart, rows: pa.Table) -> None:
        there = self._reflected(connection, part.table)
        rows = self._checked(there, part, rows)
        if there is None:
            there = self._table(part.table, rows.schema, part.key)
            self._dialect.create(connection, there)
        for field in list(rows.schema)[len(there.columns) :]:
            self._widen(connection, there, field)
        try:
            self._dialect.replace(connection, there, rows, self._condition(there, part.where))
        except KeyClashError as error:
            raise key_conflict(part, str(error)) from error
        except DBAPIError as error:
            if connections.is_clash(error):
                raise key_conflict(part, self._said(error)) from error
            raise

    def _checked(self, there: sa.Table | None, part: WarehousePart, rows: pa.Table) -> pa.Table:
        """`rows` as the table `there` takes them. Raises InputError when it cannot."""
        rows = align_schema(part.table, rows, pa.schema([]) if there is None else self._arrow_schema(there))
        require_part(part, rows, key=None if there is None else [column.name for column in there.primary_key.columns])
        return rows

    def _table(self, name: str, schema: pa.Schema, key: Sequence[str]) -> sa.Table:
        texts = sum(pa.types.is_string(schema.field(column).type) for column in key)
        columns = {
            field.name: sa.Column(
                field.name,
                self._dialect.column_type(field.type, texts if field.name in key else 0),
                nullable=field.name not in key,
                autoincrement=False,
            )
            for field in schema
        }
        primary = sa.PrimaryKeyConstraint(*(columns[column] for column in key))
        return sa.Table(name, sa.MetaData(), *columns.values(), primary, schema=self._schema)

    def _widen(self, connection: sa.Connection, table: sa.Table, field: pa.Field) -> None:
        column = sa.Column[Any](field.name, self._dialect.column_type(field.type))
        table.append_column(column)
        self._dialect.widen(connection, table, column)

    def _loads(self) -> sa.Table:
        fields = [("load", pa.string()), ("fingerprint", pa.string()), ("rows", pa.int64())]
        schema = pa.schema([*fields, ("loaded_at", pa.timestamp("us"))])
        return self._table(LOADS, schema, ("load",))

    def _record(self, connection: sa.Connection, load: str, fingerprint: str, rows: int) -> None:
        loads = self._loads()
        if self._reflected(connection, LOADS) is None:
            self._dialect.create(connection, loads)
        connection.execute(sa.delete(loads).where(loads.c.load == load))
        record = {"load": load, "fingerprint": fingerprint, "rows": rows, "loaded_at": self._clock()}
        connection.execute(sa.insert(loads).values(record))

    def _reflected(self, connection: sa.Connection, table: str) -> sa.Table | None:
        return self._dialect.reflect(connection, self._schema, table)

    def _arrow_schema(self, table: sa.Table) -> pa.Schema:
        return pa.schema([(column.name, self._dialect.arrow_type(column.type)) for column in table.columns])

    def _condition(self, table: sa.Table, where: Filter) -> sa.ColumnElement[bool]:
        terms = [self._dialect.in_list(table.c[name], values) for name, values in where.among.items()]
        if where.since is not None:
            terms.append(table.c[where.column] >= where.since)
        if where.before is not None:
            terms.append(table.c[where.column] < where.before)
        return sa.and_(sa.true(), *terms)

    def _again(self, work: Callable[[], T]) -> T:
        pauses = (PAUSE_SECONDS * 2**number for number in range(self._dialect.attempts - 1))
        return retry(work, lambda error: 0.0 if isinstance(error, TransientError) else None, pauses)

    @contextmanager
    def _transaction(self, doing: str, *, writes: bool = False) -> Generator[sa.Connection]:
        with self._errors(doing), self._engine.connect() as connected:
            connection = connected.execution_options(writes=writes)
            with connection.begin():
                if writes:
                    self._dialect.begin_writing(connection, self._schema)
                yield connection

    @contextmanager
    def _errors(self, doing: str) -> Generator[None]:
        what = f"the warehouse {self._name}, {doing}"
        try:
            yield
        except ManyModelsError:
            raise
        except DBAPIError as error:
            raise connections.translate_error(error, what, f"{self._said(error)}; nothing was changed") from error
        except SQLAlchemyError as error:
            raise InputError(f"{what}: {self._said(error)}; nothing was changed") from error

    def _said(self, error: SQLAlchemyError) -> str:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        return connections.without_secrets(" ".join(said.split()), self._url, self._login)


def _arrow(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Decimals, of tables that others made, as the double that their column is read as."""
    if kind == pa.float64() and any(isinstance(value, Decimal) for value in values):
        values = [None if value is None else float(value) for value in values]
    if kind == pa.binary():
        values = [None if value is None else bytes(value) for value in values]
    return pa.array(values, kind)


def _inferred(values: Sequence[Any]) -> pa.Array:
    """As the values are, where the database does not say; text where they differ, or there are none."""
    try:
        found = pa.array(values)
    except pa.ArrowInvalid:
        found = pa.array([None if value is None else str(value) for value in values])
    return found.cast(pa.string()) if pa.types.is_null(found.type) else found


def _dialect(url: sa.URL) -> Dialect:
    name = url.get_backend_name()
    if name == "sqlite":
        return Dialect()
    if name == "postgresql":
        return Postgres()
    if name == "mssql":
        from many_models.adapters.sql.tsql import SqlServer

        return SqlServer()
    raise SettingsError(
        f"[warehouse] url names {connections.shown(url)}; the warehouse is SQLite, PostgreSQL or SQL Server: write "
        "sqlite:///path/to/warehouse.db, postgresql://user@host/database or mssql+pyodbc://user@host/database?driver=…"
    )
