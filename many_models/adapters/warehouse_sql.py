"""The warehouse in a SQL database, through SQLAlchemy; what is SQLite's own stands in `_Sqlite`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.event import listens_for
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchTableError,
    OperationalError,
    SQLAlchemyError,
)

from many_models.adapters.rows import LOADS, TIMESTAMP, check_where, clash, conform, require_part, sql_plain, utc_now
from many_models.errors import InputError, ManyModelsError, MissingTableError, SettingsError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping, Sequence
    from datetime import datetime

    from many_models.ports import Scalar, WarehousePart, Where

LOCK_SECONDS = 30.0


class SqlWarehouse:
    """Tables in the database that a SQLAlchemy `url` names; `clock` tells when a load was recorded.

    SQLite so far (`sqlite:///warehouse.db`, made with its folder when it is not there); SettingsError for the rest.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] = utc_now) -> None:
        parsed = _url(url)
        self._clock = clock
        self._name = parsed.render_as_string()
        self._dialect = _Sqlite()
        self._engine = self._dialect.engine(parsed)

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:
        """See `Warehouse.load`. Integers are kept as int64, numbers as double, NaN as null, zoned times as UTC."""
        ready = [(part, sql_plain(part.table, part.rows)) for part in parts]
        with self._transaction(f"load {load!r}", writes=True) as connection:
            for part, rows in ready:
                self._replace(connection, part, rows)
            written = sum(len(rows) for _, rows in ready)
            self._record(connection, load, fingerprint, written)
        return written

    def loads(self) -> Mapping[str, str]:
        """See `Warehouse.loads`."""
        with self._transaction("reading its loads") as connection:
            if self._reflected(connection, LOADS) is None:
                return {}
            columns = sa.column("load"), sa.column("fingerprint")
            rows = connection.execute(sa.select(*columns).select_from(sa.table(LOADS)).order_by("load"))
            return {row.load: row.fingerprint for row in rows}

    def read(self, table: str, where: Where | None = None) -> pa.Table:
        """See `Warehouse.read`. In no order."""
        with self._transaction(f"reading table {table!r}") as connection:
            there = self._reflected(connection, table)
            if there is None:
                names = ", ".join(map(repr, sorted(sa.inspect(connection).get_table_names()))) or "none"
                raise MissingTableError(f"the warehouse {self._name} has no table {table!r}; it has {names}")
            schema = self._schema(there)
            query = sa.select(*there.columns)
            if where is not None:
                check_where(table, schema, where)
                query = query.where(self._condition(there, where))
            found = connection.execute(query).fetchall()
        columns = zip(*found, strict=True) if found else [()] * len(schema)
        arrays = [_arrow(values, field.type) for values, field in zip(columns, schema, strict=True)]
        return pa.table(arrays, schema=schema)

    def check(self) -> str:
        """See `Warehouse.check`."""
        return f"warehouse {self._name}: {len(self.loads())} loads"

    def _replace(self, connection: sa.Connection, part: WarehousePart, rows: pa.Table) -> None:
        there = self._reflected(connection, part.table)
        known = pa.schema([]) if there is None else self._schema(there)
        rows = conform(part.table, rows, known)
        require_part(part, rows, key=None if there is None else [column.name for column in there.primary_key.columns])
        if there is None:
            there = self._create(connection, part, rows.schema)
        for field in list(rows.schema)[len(known) :] if len(known) else []:
            self._widen(connection, there, field)
        connection.execute(sa.delete(there).where(self._condition(there, part.where)))
        try:
            self._dialect.insert(connection, there, rows)
        except IntegrityError as error:
            raise clash(part, str(error.orig)) from error

    def _create(self, connection: sa.Connection, part: WarehousePart, schema: pa.Schema) -> sa.Table:
        columns = {field.name: sa.Column(field.name, self._dialect.sql_type(field.type)) for field in schema}
        key = sa.PrimaryKeyConstraint(*(columns[name] for name in part.key))
        table = sa.Table(part.table, sa.MetaData(), *columns.values(), key)
        table.create(connection)
        return table

    def _widen(self, connection: sa.Connection, table: sa.Table, field: pa.Field) -> None:
        column = sa.Column(field.name, self._dialect.sql_type(field.type))
        table.append_column(column)
        name = connection.dialect.identifier_preparer.format_table(table)
        connection.exec_driver_sql(
            f"ALTER TABLE {name} ADD COLUMN {sa.schema.CreateColumn(column).compile(connection)}"
        )

    def _record(self, connection: sa.Connection, load: str, fingerprint: str, rows: int) -> None:
        loads = sa.Table(
            LOADS,
            sa.MetaData(),
            sa.Column("load", sa.Unicode, primary_key=True),
            sa.Column("fingerprint", sa.Unicode, nullable=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("loaded_at", sa.DateTime, nullable=False),
        )
        loads.create(connection, checkfirst=True)
        connection.execute(sa.delete(loads).where(loads.c.load == load))
        record = {"load": load, "fingerprint": fingerprint, "rows": rows, "loaded_at": self._clock()}
        connection.execute(sa.insert(loads).values(record))

    def _reflected(self, connection: sa.Connection, table: str) -> sa.Table | None:
        try:
            return sa.Table(table, sa.MetaData(), autoload_with=connection)
        except NoSuchTableError:
            return None

    def _schema(self, table: sa.Table) -> pa.Schema:
        return pa.schema([(column.name, self._dialect.arrow_type(column.type)) for column in table.columns])

    def _condition(self, table: sa.Table, where: Where) -> sa.ColumnElement[bool]:
        terms = [self._dialect.among(table.c[name], values) for name, values in where.among.items()]
        if where.since is not None:
            terms.append(table.c[where.column] >= where.since)
        if where.before is not None:
            terms.append(table.c[where.column] < where.before)
        return sa.and_(sa.true(), *terms)

    @contextmanager
    def _transaction(self, doing: str, *, writes: bool = False) -> Generator[sa.Connection]:
        what = f"the warehouse {self._name}, {doing}"
        try:
            with self._engine.connect().execution_options(writes=writes) as connection, connection.begin():
                yield connection
        except ManyModelsError:
            raise
        except OperationalError as error:
            raise UnavailableError(f"{what}: {error.orig}; nothing was changed") from error
        except DBAPIError as error:
            raise InputError(f"{what}: {error.orig}; nothing was changed") from error
        except SQLAlchemyError as error:
            raise InputError(f"{what}: {error}; nothing was changed") from error


class _Sqlite:
    """What is SQLite's own: its engine, how types are declared and found again, lists of values, inserting in bulk."""

    _types: tuple[tuple[pa.DataType, sa.types.TypeEngine[Any]], ...] = (
        (pa.string(), sa.Text()),
        (pa.int64(), sa.BigInteger()),
        (pa.float64(), sa.Double()),
        (pa.bool_(), sa.Boolean()),
        (TIMESTAMP, sa.DateTime()),
        (pa.date32(), sa.Date()),
        (pa.binary(), sa.LargeBinary()),
    )

    def engine(self, url: sa.URL) -> sa.Engine:
        """An engine whose transactions take the write lock at once and hold DDL too."""
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": LOCK_SECONDS})

        @listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql(
                "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN"
            )

        return engine

    def sql_type(self, kind: pa.DataType) -> sa.types.TypeEngine[Any]:
        return next(declared for known, declared in self._types if known == kind)

    def arrow_type(self, declared: sa.types.TypeEngine[Any]) -> pa.DataType:
        """By the type's family, so that tables that others declared are read as well; text for the rest."""
        families: tuple[tuple[type[sa.types.TypeEngine[Any]], pa.DataType], ...] = (
            (sa.Boolean, pa.bool_()),
            (sa.Integer, pa.int64()),
            (sa.Numeric, pa.float64()),
            (sa.Float, pa.float64()),
            (sa.DateTime, TIMESTAMP),
            (sa.Date, pa.date32()),
            (sa.LargeBinary, pa.binary()),
        )
        return next((kind for family, kind in families if isinstance(declared, family)), pa.string())

    def among(self, column: sa.Column[object], values: Sequence[Scalar]) -> sa.ColumnElement[bool]:
        """One parameter for any number of values; SQLite cuts a JSON text at a NUL, so that those go one by one."""
        cut = [value for value in values if isinstance(value, str) and "\0" in value]
        listed = json.dumps([value for value in values if value not in set(cut)])
        among = column.in_(sa.select(sa.column("value")).select_from(sa.func.json_each(listed)))
        return sa.or_(among, column.in_(cut)) if cut else among

    def insert(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
        """Tuples straight to the driver; times as SQLAlchemy spells them, which is how Arrow does."""
        if not len(rows):
            return
        quoted = connection.dialect.identifier_preparer
        names = ", ".join(quoted.quote_identifier(name) for name in rows.column_names)
        marks = ", ".join("?" * rows.num_columns)
        spelt = [column.cast(pa.string()) if pa.types.is_temporal(column.type) else column for column in rows.columns]
        values = list(zip(*(column.to_pylist() for column in spelt), strict=True))
        name = quoted.quote_identifier(table.name)
        connection.exec_driver_sql(f"INSERT INTO {name} ({names}) VALUES ({marks})", values)  # noqa: S608 -- quoted


def _arrow(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Decimals, of tables that others made, as the double that their column is read as."""
    if kind == pa.float64() and any(isinstance(value, Decimal) for value in values):
        values = [None if value is None else float(value) for value in values]
    return pa.array(values, kind)


def _url(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except ArgumentError as error:
        raise SettingsError("[warehouse] url is no SQLAlchemy URL; write sqlite:///path/to/warehouse.db") from error
    if parsed.get_backend_name() != "sqlite":
        raise SettingsError(
            f"[warehouse] url names {parsed.render_as_string()}; the warehouse is SQLite so far: write sqlite:///path/to/warehouse.db"
        )
    return parsed
