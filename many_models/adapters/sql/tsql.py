"""T-SQL for the warehouse: SQL Server and Azure SQL through pyodbc, and what Synapse shares with them.

Texts are compared by their code points (a binary collation), so that "a" and "A" are two; as everywhere in SQL Server,
blanks at a text's end do not count in comparisons.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from many_models.adapters.arrow import TIMESTAMP
from many_models.adapters.sql import connections
from many_models.adapters.sql.dialects import (
    LOCK_SECONDS,
    Dialect,
    KeyClashError,
    batches,
    insert_statement,
    query_of,
    refuse_names,
)
from many_models.errors import ConflictError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from many_models.adapters.sql.dialects import SqlType
    from many_models.ports import Scalar, WarehouseView

COLLATION = "Latin1_General_100_BIN2"
LONGEST_TEXT = 4000  # nvarchar's and columnstore's limit without MAX, in UTF-16 units
LONGEST_KEY = 400  # of all texts in a key together: an index key has at most 900 bytes
MOST_ROWS, MOST_PARAMETERS = 1000, 2000  # of one INSERT; SQL Server takes 2100 parameters
STAGING = "many_models_staging"
SEPARATOR = "\x1f"  # between values that STRING_SPLIT takes apart: ASCII's unit separator
_COLUMNS = """
SELECT c.name, t.name AS kind, COALESCE(k.ordinal, 0) AS ordinal
FROM sys.schemas AS s
JOIN sys.objects AS o ON o.schema_id = s.schema_id
JOIN sys.columns AS c ON c.object_id = o.object_id
JOIN sys.types AS t ON t.user_type_id = c.user_type_id
LEFT JOIN (
    SELECT i.object_id, x.column_id, x.key_ordinal AS ordinal
    FROM sys.indexes AS i
    JOIN sys.index_columns AS x ON x.object_id = i.object_id AND x.index_id = i.index_id
    WHERE i.is_primary_key = 1
) AS k ON k.object_id = c.object_id AND k.column_id = c.column_id
WHERE s.name = ? AND o.name = ? AND o.type IN ('U', 'V')
ORDER BY c.column_id
"""
_TABLES = """
SELECT o.name FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id
WHERE s.name = ? AND o.type = 'U' ORDER BY o.name
"""
_KINDS: dict[str, SqlType] = {
    "bigint": sa.BigInteger(),
    "int": sa.BigInteger(),
    "smallint": sa.BigInteger(),
    "tinyint": sa.BigInteger(),
    "float": sa.Double(),
    "real": sa.Double(),
    "decimal": sa.Double(),
    "numeric": sa.Double(),
    "money": sa.Double(),
    "bit": sa.Boolean(),
    "datetime": sa.DateTime(),
    "datetime2": mssql.DATETIME2(6),
    "smalldatetime": sa.DateTime(),
    "date": sa.Date(),
    "binary": sa.LargeBinary(),
    "varbinary": sa.LargeBinary(),
}


class SqlServer(Dialect):
    """SQL Server and Azure SQL: rows in bulk into a staging table, then MERGE."""

    attempts = 3
    _arrays = True
    default_schema: ClassVar[str | None] = "dbo"
    collation: ClassVar[str] = COLLATION
    add_column = "ADD"
    types: ClassVar[tuple[tuple[pa.DataType, SqlType], ...]] = (
        (pa.string(), sa.Unicode(LONGEST_TEXT, COLLATION)),
        (pa.int64(), sa.BigInteger()),
        (pa.float64(), sa.Float(53)),  # not DOUBLE PRECISION, which Synapse's grammar lacks
        (pa.bool_(), mssql.BIT()),
        (TIMESTAMP, mssql.DATETIME2(6)),
        (pa.date32(), sa.Date()),
        (pa.binary(), mssql.VARBINARY(8000)),
    )

    def engine(self, url: sa.URL, login: connections.Login) -> sa.Engine:
        """An engine whose bulk inserts go in arrays of parameters where the driver is Microsoft's: FreeTDS crashes."""
        self._arrays = "freetds" not in url.render_as_string().lower()
        return connections.server_engine(
            url, login, "warehouse", fast_executemany=self._arrays, ignore_no_transaction_on_rollback=True
        )

    def begin_writing(self, connection: sa.Connection, schema: str | None) -> None:
        """One load at a time, by an application lock that the transaction holds."""
        asked = (
            "DECLARE @held int; EXEC @held = sp_getapplock @Resource = N'many_models', @LockMode = N'Exclusive', "
            f"@LockOwner = N'Transaction', @LockTimeout = {int(LOCK_SECONDS * 1000)}; SELECT @held AS held"
        )
        if connection.exec_driver_sql(asked).scalar_one() < 0:
            raise ConflictError(f"the warehouse was locked by another load for {LOCK_SECONDS:.0f} s; try again")
        self.make_schema(connection, schema)

    def make_schema(self, connection: sa.Connection, schema: str | None) -> None:
        """Make the schema if it is not there."""
        found = connection.exec_driver_sql("SELECT COUNT(*) FROM sys.schemas WHERE name = ?", (schema,)).scalar_one()
        if schema and not found:
            connection.execute(sa.schema.CreateSchema(schema))

    def reflect(self, connection: sa.Connection, schema: str | None, table: str) -> sa.Table | None:
        """By one query of the catalog, which Synapse has, too."""
        found = connection.exec_driver_sql(_COLUMNS, (schema, table)).fetchall()
        if not found:
            return None
        texts = sa.Unicode(LONGEST_TEXT)
        columns = {name: sa.Column[Any](name, _KINDS.get(kind, texts)) for name, kind, _ in found}
        key = sorted((ordinal, name) for name, _, ordinal in found if ordinal)
        primary = sa.PrimaryKeyConstraint(*(columns[name] for _, name in key))
        return sa.Table(table, sa.MetaData(), *columns.values(), primary, schema=schema)

    def tables(self, connection: sa.Connection, schema: str | None) -> list[str]:
        """The names of the tables."""
        return [name for (name,) in connection.exec_driver_sql(_TABLES, (schema,))]

    def prepare(self, table: str, rows: pa.Table, key: Sequence[str]) -> pa.Table:
        """Infinite numbers and texts that are too long are refused."""
        refuse_names(table, rows, 128)
        keys = [name for name in key if name in rows.column_names and pa.types.is_string(rows[name].type)]
        for name in rows.column_names:
            column = rows.column(name)
            if pa.types.is_floating(column.type) and pc.any(pc.is_inf(column)).as_py():
                raise InputError(
                    f"table {table!r}, column {name!r}: SQL Server has no infinite numbers; make them null"
                )
            longest = LONGEST_KEY // len(keys) if name in keys else LONGEST_TEXT
            if pa.types.is_string(column.type) and (found := _longest(column)) > longest:
                raise InputError(
                    f"table {table!r}, column {name!r}: a text of {found} characters; it keeps at most {longest}"
                )
            if pa.types.is_binary(column.type) and (pc.max(pc.binary_length(column)).as_py() or 0) > 8000:
                raise InputError(f"table {table!r}, column {name!r}: it keeps at most 8000 bytes")
        return rows

    def column_type(self, kind: pa.DataType, key_texts: int = 0) -> SqlType:
        """A key's texts are short enough for an index."""
        if kind == pa.string() and key_texts:
            return sa.Unicode(LONGEST_KEY // key_texts, COLLATION)
        return super().column_type(kind)

    def in_list(self, column: sa.Column[Any], values: Sequence[Scalar]) -> sa.ColumnElement[bool]:
        """Any number of values in lists that fit into a parameter of every driver; a long text by itself."""
        value = sa.column("value", sa.Unicode())
        found = (
            sa.cast(value, sa.BigInteger())
            if isinstance(column.type, sa.Integer)
            else sa.collate(value, self.collation)
        )
        terms: list[sa.ColumnElement[bool]] = []
        for listed in self.lists(values):
            if isinstance(listed, list):
                terms.append(column.in_(sa.select(found).select_from(self.listed(listed))))
            else:
                terms.append(column == listed)
        return sa.or_(sa.false(), *terms)

    def lists(self, values: Sequence[Scalar]) -> Iterator[list[str] | Scalar]:
        """The values as texts, in lists that fit into a parameter; as it is what does not fit."""
        return _lists(values, json.dumps, 2)

    def listed(self, texts: list[str]) -> sa.FromClause:
        """A table of one column, `value`, that holds what a list of `lists` holds."""
        return sa.func.OPENJSON(sa.literal(f"[{', '.join(texts)}]", sa.Unicode(LONGEST_TEXT))).alias("listed")

    def replace(
        self, connection: sa.Connection, table: sa.Table, rows: pa.Table, condition: sa.ColumnElement[bool]
    ) -> None:
        """Staged rows are merged; those under `condition` that are not staged go. What has another's key is refused."""
        if not len(rows):
            connection.execute(sa.delete(table).where(condition))
            return
        staging = self.staged(connection, table, rows)
        same = sa.and_(*(table.c[column.name] == staging.c[column.name] for column in table.primary_key.columns))
        clash = sa.select(sa.func.count()).select_from(table.join(staging, same))
        outside = connection.execute(clash.where(sa.case((condition, 1), else_=0) == 0)).scalar_one()
        if outside:
            raise KeyClashError(f"{outside} of them")
        staged = sa.exists(sa.select(sa.literal(1)).select_from(staging).where(same))
        connection.execute(sa.delete(table).where(condition, ~staged))
        connection.exec_driver_sql(self.merge(connection, table, staging))
        staging.drop(connection)

    def staged(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> sa.Table:
        """A new table of `rows`, beside `table`."""
        key = {column.name for column in table.primary_key.columns}
        kinds = {
            field.name: self.column_type(field.type, len(key) if field.name in key else 0) for field in rows.schema
        }
        columns = [sa.Column[Any](name, kind) for name, kind in kinds.items()]
        staging = sa.Table(STAGING, sa.MetaData(), *columns, schema=table.schema)
        staging.create(connection)
        self.insert(connection, staging, rows)
        return staging

    def insert(self, connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
        """`fast_executemany` batch by batch, or as many rows in one INSERT as its parameters allow."""
        statement = insert_statement(connection, table, rows.column_names, "?")
        at_once = max(1, min(MOST_ROWS, MOST_PARAMETERS // rows.num_columns))
        _, marks = statement.rsplit(" VALUES ", 1)
        for batch in batches(rows):
            columns = batch.columns if self._arrays else [_as_text(column) for column in batch.columns]
            lines = list(zip(*(column.to_pylist() for column in columns), strict=True))
            if self._arrays:
                connection.exec_driver_sql(statement, lines)
                continue
            for start in range(0, len(lines), at_once):
                some = lines[start : start + at_once]
                values = tuple(value for line in some for value in line)
                connection.exec_driver_sql(statement + f", {marks}" * (len(some) - 1), values)

    def merge(self, connection: sa.Connection, table: sa.Table, staging: sa.Table) -> str:
        """MERGE that adds and updates the staged rows."""
        quoted = connection.dialect.identifier_preparer
        names = {column.name: quoted.quote_identifier(column.name) for column in table.columns}
        key = [column.name for column in table.primary_key.columns]
        same = " AND ".join(f"t.{names[name]} = s.{names[name]}" for name in key)
        changed = ", ".join(f"{quote} = s.{quote}" for name, quote in names.items() if name not in key)
        update = f"WHEN MATCHED THEN UPDATE SET {changed} " if changed else ""
        new, values = ", ".join(names.values()), ", ".join(f"s.{quote}" for quote in names.values())
        return (
            f"MERGE INTO {quoted.format_table(table)} AS t USING {quoted.format_table(staging)} AS s ON {same} "  # noqa: S608 -- quoted
            f"{update}WHEN NOT MATCHED THEN INSERT ({new}) VALUES ({values});"
        )

    def create_view(self, connection: sa.Connection, schema: str | None, view: WarehouseView) -> None:
        """In place, so that grants stay."""
        name = connection.dialect.identifier_preparer.format_table(sa.table(view.name, schema=schema))
        connection.exec_driver_sql(f"CREATE OR ALTER VIEW {name} AS {query_of(connection, schema, view)}")


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Moments as text that is exact to the microsecond; FreeTDS takes a datetime to the millisecond."""
    return pc.strftime(column, "%Y-%m-%dT%H:%M:%S") if pa.types.is_timestamp(column.type) else column


def _lists(
    values: Sequence[Scalar], text: Callable[[Scalar], str | None], between: int
) -> Iterator[list[str] | Scalar]:
    """The values as `text` makes them, in lists that fit into a parameter with `between` characters after each."""
    some, size = list[str](), 0
    for value in values:
        written = text(value)
        if written is None or len(written) > LONGEST_TEXT - 2:
            yield value
            continue
        if size + len(written) + between > LONGEST_TEXT - 2:
            yield some
            some, size = [], 0
        some.append(written)
        size += len(written) + between
    if some:
        yield some


def separated(values: Sequence[Scalar]) -> Iterator[list[str] | Scalar]:
    """The values in lists for STRING_SPLIT; as it is what holds its separator."""
    return _lists(values, lambda value: None if SEPARATOR in str(value) or value == "" else str(value), 1)


def _longest(column: pa.ChunkedArray) -> int:
    """UTF-16 units of the longest text; a text has at most as many as it has bytes."""
    longest = pc.max(pc.binary_length(column.cast(pa.binary()))).as_py() or 0
    if longest <= LONGEST_KEY // 4:
        return longest
    texts = pc.unique(column).to_pylist()
    return max(len(text.encode("utf-16-le")) // 2 for text in texts if text is not None)
