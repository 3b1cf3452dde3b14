"""Sales read from a database server that types its columns: PostgreSQL, SQL Server, MySQL, MariaDB.

Rows come through connectorx where it can (PostgreSQL), else as the driver streams them: the same rows either way, and
memory does not grow with the table. A timestamp that is a text or an integer is read as
`source_sql` says; a range of dates is left to the server where the column is a date or a timestamp.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from many_models.adapters.arrow import TIMESTAMP, between, day_after, first_and_last_day, midnight, require_columns
from many_models.adapters.source import connectorx
from many_models.adapters.source.fingerprints import DayFingerprints, days_of
from many_models.adapters.source.memory import key_texts, moments
from many_models.adapters.sql import connections
from many_models.adapters.sql.dialects import Dialect, MySql, Postgres
from many_models.errors import InputError, ManyModelsError, MissingTableError, UnavailableError
from many_models.keys import digest
from many_models.ports import DayCount

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from many_models.ports import SalesTable

Reader = Literal["auto", "stream"]
BATCH_ROWS = 100_000
NO_LOGIN = connections.Login()
_LOG = logging.getLogger(__name__)


class ServerSource:
    """Sales in the database that a SQLAlchemy `url` names; tables as `name` or `schema.name`.

    With `reader` "stream" connectorx is not tried; it is not tried again where it could not begin once.
    """

    def __init__(self, url: str, *, login: connections.Login = NO_LOGIN, reader: Reader = "auto") -> None:
        self._url, self._login, self._reader = connections.parse(url, "source"), login, reader
        self._name = connections.shown(self._url)
        self._dialect = _dialect(self._url)
        self._engine = connections.server_engine(self._url, login, "source")

    def columns(self, table: str) -> Mapping[str, str]:
        """See `Source.columns`."""
        with self._connection(table) as connection:
            found = self._table(connection, table)
        return {column.name: str(self._dialect.arrow_type(column.type)) for column in found.columns}

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """See `Source.days`; see `DayFingerprints` for what a fingerprint tells. One pass over the rows, or, where a
        column tells what has changed and the timestamp is a date to the server, one query that counts there.
        """
        if sales.changed and (counted := self._counted(sales, midnight(since))) is not None:
            return counted
        days = DayFingerprints()
        columns = (sales.timestamp, *sales.counted) if sales.changed else sales.columns
        for rows in self._sales(sales, columns, midnight(since), None):
            if len(rows):
                target = None if sales.changed else rows.column(sales.target)
                days.add(rows.column(sales.timestamp), [rows.column(name) for name in sales.counted], target)
        return days.counted()

    def _counted(self, sales: SalesTable, since: datetime | None) -> list[DayCount] | None:
        """Each day's rows and the newest of what changed in it; None where the server cannot tell the day of a row."""
        with self._connection(sales.table) as connection:
            there = self._table(connection, sales.table)
            require_columns(sales.table, list(there.c.keys()), [*sales.columns, sales.changed])
            if not isinstance(there.c[sales.timestamp].type, sa.DateTime | sa.Date):
                return None
            moment = _local(there.c[sales.timestamp], sales.timezone)
            day = sa.cast(moment, sa.Date).label("day")
            newest = sa.func.max(there.c[sales.changed])
            dated = self._dated(there.c[sales.timestamp], moment)
            query = (
                sa.select(day, sa.func.count(), newest, sa.func.count(there.c[sales.target]))
                .where(dated.is_not(None))
                .group_by(day)
            )
            found = connection.execute(query.where(moment >= self._bound(since)) if since else query).fetchall()
        counted = [
            DayCount(datetime(at.year, at.month, at.day), told, f"{rows:x}-{digest(str(changed))}")
            for at, rows, changed, told in found
        ]
        return sorted(counted, key=lambda one: one.day)

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """See `Source.span`. Where the timestamp is a text to the server, that column is read whole."""
        start, end = midnight(since), day_after(until)
        with self._connection(sales.table) as connection:
            there = self._table(connection, sales.table)
            require_columns(sales.table, list(there.c.keys()), sales.columns)
            if isinstance(there.c[sales.timestamp].type, sa.DateTime | sa.Date):
                moment = _local(there.c[sales.timestamp], sales.timezone)
                dated = self._dated(there.c[sales.timestamp], moment)
                query = sa.select(sa.func.min(dated), sa.func.max(dated)).where(moment >= self._bound(start))
                found = connection.execute(query.where(moment < self._bound(end)) if end else query).one()
                days = [None if at is None else datetime(at.year, at.month, at.day) for at in found]  # a date, or more
                return first_and_last_day(pa.chunked_array([pa.array(days, TIMESTAMP)]))
        columns = self._sales(sales, (sales.timestamp,), start, end)
        ends = [ends for rows in columns if (ends := first_and_last_day(rows.column(0))) is not None]
        return (min(first for first, _ in ends), max(last for _, last in ends)) if ends else None

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """See `Source.read`; tables of at most 100,000 rows."""
        for rows in self._sales(sales, sales.columns, since, before):
            if len(rows):
                yield rows

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """See `Source.days_of`."""
        return days_of(sales, rows)

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """See `Source.read_undated`."""
        at = sales.columns.index(sales.timestamp)
        kept: list[pa.Table] = []
        for rows in self._rows(sales.table, sales.columns):
            written = rows.column(sales.timestamp)
            undated = pc.is_null(moments(written))
            kept.append(
                _with_keys(rows, sales).set_column(at, sales.timestamp, written.cast(pa.string())).filter(undated)
            )
        return pa.concat_tables(kept)

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """See `Source.read_table`."""
        return pa.concat_tables(list(self._rows(table, columns)))

    def check(self) -> str:
        """See `Source.check`."""
        with self._connection("") as connection:
            names = self._dialect.tables(connection, self._dialect.default_schema)
        return f"source {self._name}: {len(names)} tables"

    def _sales(
        self, sales: SalesTable, columns: Sequence[str], since: datetime | None, before: datetime | None
    ) -> Iterator[pa.Table]:
        """Dated rows: keys as text, the timestamp as timestamp[us]."""
        at = columns.index(sales.timestamp)
        for rows in self._rows(sales.table, columns, sales.timestamp, since, before, sales.timezone):
            dated = rows.set_column(at, sales.timestamp, moments(rows.column(sales.timestamp), sales.timezone))
            yield _with_keys(between(dated, sales.timestamp, since, before), sales)

    def _rows(
        self,
        table: str,
        columns: Sequence[str],
        timestamp: str = "",
        since: datetime | None = None,
        before: datetime | None = None,
        timezone: str = "",
    ) -> Iterator[pa.Table]:
        """The columns (none: all) in tables of bounded size, at least one; the server leaves out some rows only."""
        with self._connection(table) as connection:
            there = self._table(connection, table)
            names = list(dict.fromkeys(columns)) or [column.name for column in there.columns]
            require_columns(table, [column.name for column in there.columns], names)
            kinds = [self._dialect.arrow_type(there.c[name].type) for name in names]
            chosen = [self._chosen(there.c[name], kind, timezone) for name, kind in zip(names, kinds, strict=True)]
            query = sa.select(*chosen)
            if timestamp and isinstance(there.c[timestamp].type, sa.DateTime | sa.Date):
                moment = _local(there.c[timestamp], timezone)
                query = query.where(moment >= self._bound(midnight(since))) if since else query
                query = query.where(moment < self._bound(before)) if before else query
            schema = pa.schema(list(zip(names, kinds, strict=True)))
            address = connectorx.address_of(self._url, self._login, connection) if self._reader == "auto" else None
        read = False
        for rows in self._fast(table, address, query, schema) or self._streamed(table, query, schema):
            yield rows
            read = True
        if not read:
            yield schema.empty_table()

    def _streamed(self, table: str, query: sa.Select[Any], schema: pa.Schema) -> Iterator[pa.Table]:
        with self._connection(table) as connection:
            found = connection.execution_options(stream_results=True, max_row_buffer=BATCH_ROWS).execute(query)
            for lines in found.partitions(BATCH_ROWS):
                values = zip(*lines, strict=True)
                columns = [pa.array(some, kind) for some, kind in zip(values, schema.types, strict=True)]
                yield pa.table(columns, schema=schema)

    def _fast(
        self, table: str, address: str | None, query: sa.Select[Any], schema: pa.Schema
    ) -> Iterator[pa.Table] | None:
        if address is None:
            return None
        begun = connectorx.start(address, connectorx.compile_sql(query), schema, BATCH_ROWS)
        if begun is None:
            self._reader = "stream"
            _LOG.warning(
                "connectorx cannot read %s, which its driver then does, more slowly; set [source] reader = "
                '"stream" to spare the try',
                self._name,
            )
            return None
        return self._guarded(table, begun)

    def _guarded(self, table: str, rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
        what = f"the database {self._name}, table {table!r}"
        try:
            yield from rows
        except connectorx.LostError as error:
            raise UnavailableError(f"{what}: {self._said(error)}") from None
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{what}: {self._said(error)}") from error

    def _chosen(self, column: sa.Column[Any], kind: pa.DataType, timezone: str) -> sa.ColumnElement[Any]:
        """The column, converted by the server to what Arrow takes."""
        if kind == pa.float64() and not isinstance(column.type, sa.Double):
            double = sa.Double() if self._is_mysql else sa.Float(53)  # Synapse has no DOUBLE PRECISION
            return sa.cast(column, double).label(column.name)
        if kind == pa.float64() and self._is_mysql:  # whose dialect makes decimals of doubles
            return sa.type_coerce(column, sa.Double()).label(column.name)
        if isinstance(column.type, sa.DateTime | sa.Date):
            zoned = isinstance(column.type, sa.DateTime) and column.type.timezone
            return self._dated(column, _local(column, timezone) if zoned else column).label(column.name)
        if kind == pa.string() and (not isinstance(column.type, sa.String) or isinstance(column.type, sa.Enum)):
            return sa.cast(column, sa.Text()).label(column.name)
        return column

    def _dated(self, column: sa.Column[Any], moment: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """The moment, null where it is not a date: PostgreSQL has infinite ones, and years before the first; MySQL has
        0000-00-00.
        """
        if self._url.get_backend_name() == "mssql":
            return moment
        first, last = datetime(2, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)
        if isinstance(column.type, sa.DateTime):
            low, high = sa.literal(first, sa.DateTime()), sa.literal(last, sa.DateTime())
        else:
            low, high = sa.literal(first.date(), sa.Date()), sa.literal(last.date(), sa.Date())
        return sa.case((sa.and_(moment >= low, moment <= high), moment))

    def _bound(self, moment: datetime | None) -> sa.ColumnElement[Any]:
        """A moment to compare with; for SQL Server as text, since drivers cut its parameters to its old datetime."""
        if self._url.get_backend_name() != "mssql" or moment is None:
            return sa.literal(moment, sa.DateTime())
        return sa.cast(sa.literal(moment.isoformat(timespec="microseconds")), mssql.DATETIME2(6))

    @property
    def _is_mysql(self) -> bool:
        return self._url.get_backend_name() in connections.MYSQL

    def _table(self, connection: sa.Connection, table: str) -> sa.Table:
        found = self._dialect.reflect(connection, self._dialect.default_schema, table)
        schema, dot, name = table.partition(".")
        if found is None and dot:
            found = self._dialect.reflect(connection, schema, name)
        if found is None:
            there = self._dialect.tables(connection, self._dialect.default_schema)
            names = ", ".join(map(repr, there)) or "none"
            raise MissingTableError(f"the database {self._name} has no table {table!r}; it has {names}")
        return found

    @contextmanager
    def _connection(self, table: str) -> Generator[sa.Connection]:
        what = f"the database {self._name}" + (f", table {table!r}" if table else "")
        try:
            with self._engine.connect() as connection:
                yield connection
        except ManyModelsError:
            raise
        except DBAPIError as error:
            raise connections.translate_error(error, what, self._said(error)) from error
        except (SQLAlchemyError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise InputError(f"{what}: {self._said(error)}") from error

    def _said(self, error: Exception) -> str:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        return connections.without_secrets(" ".join(said.split()), self._url, self._login)


def _with_keys(rows: pa.Table, sales: SalesTable) -> pa.Table:
    for at, name in enumerate(rows.column_names):
        if name in sales.keys:
            rows = rows.set_column(at, name, key_texts(rows.column(name)))
    return rows


def _local(column: sa.Column[Any], timezone: str) -> sa.ColumnElement[Any]:
    """A zoned timestamp in local time (UTC without a `timezone`), its zone dropped; anything else as it is.

    MySQL's TIMESTAMP is a moment, too, but what it knows of time zones is an option of the server: it comes in UTC.
    """
    if timezone and isinstance(column.type, mysql.TIMESTAMP):
        raise InputError(
            f"column {column.name!r} is a TIMESTAMP, which MySQL keeps in UTC, and data.timezone is {timezone}: name a "
            "DATETIME column with the local time, or a view that has one"
        )
    zoned = isinstance(column.type, sa.DateTime) and column.type.timezone
    return sa.func.timezone(timezone or "UTC", column) if zoned else sa.type_coerce(column, sa.DateTime())


def _dialect(url: sa.URL) -> Dialect:
    if url.get_backend_name() == "mssql":
        from many_models.adapters.sql.tsql import SqlServer

        return SqlServer()
    return MySql() if url.get_backend_name() in connections.MYSQL else Postgres()
