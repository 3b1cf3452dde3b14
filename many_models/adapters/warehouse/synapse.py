"""The warehouse in a dedicated SQL pool of Synapse: rows through storage by COPY INTO, then swapped in one transaction.

A transaction there holds no DDL and no COPY, and a key is not enforced: a table's key is in the table
`table_keys`, since the catalogue need not call an unenforced key a primary key. A load first stages its parts, each in
its own table, then makes or widens the tables, and last, in one transaction, deletes, looks for keys that stay,
inserts and records the load. Killed before that, it leaves staging tables, which the next load drops, and perhaps
empty tables. docs/azure-rules.md lists the pool's rules.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import uuid4

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from many_models.adapters.arrow import LOADS, key_conflict
from many_models.adapters.sql.connections import BULK_RIGHT
from many_models.adapters.sql.dialects import batches, query_of
from many_models.adapters.sql.tsql import LONGEST_TEXT, SEPARATOR, SqlServer, separated
from many_models.adapters.warehouse.sql import NO_LOGIN, SqlWarehouse
from many_models.errors import AccessError, InputError
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from many_models.adapters.sql import connections
    from many_models.ports import Scalar, WarehousePart, WarehouseView

Distribution = Literal["hash", "round_robin", "replicate"]
Index = Literal["columnstore", "heap"]
STAGED = "many_models_staging_"
KEYS = "table_keys"
RIGHTS = (BULK_RIGHT, "SELECT", "INSERT", "DELETE", "CREATE TABLE", "CREATE VIEW")


class Staging(Protocol):
    """Where files lie while COPY INTO reads them."""

    def holding(self, file: Path, name: str) -> AbstractContextManager[str]:
        """The address of a copy of `file` named `name`, for as long as the block takes."""
        ...


@dataclass
class SynapseDialect(SqlServer):
    """T-SQL as a dedicated pool takes it: distributed tables, keys that are not enforced, no locks of applications."""

    distribution: Distribution = "hash"
    index: Index = "columnstore"
    attempts = 6  # half a minute: another's transaction that has filled the log may be through

    def begin_writing(self, connection: sa.Connection, schema: str | None) -> None:
        """Nothing: the schema is made before the transaction."""

    def reflect(self, connection: sa.Connection, schema: str | None, table: str) -> sa.Table | None:
        """With the key that was recorded; with the catalogue's where none was, in tables of older versions."""
        there = super().reflect(connection, schema, table)
        key = None if there is None or table == KEYS else self.recorded_key(connection, schema, table)
        if there is None or key is None:
            return there
        plain = [sa.Column[Any](column.name, column.type) for column in there.columns]
        primary = sa.PrimaryKeyConstraint(*(column for name in key for column in plain if column.name == name))
        return sa.Table(table, sa.MetaData(), *plain, primary, schema=schema)

    def recorded_key(self, connection: sa.Connection, schema: str | None, table: str) -> list[str] | None:
        """The key that was recorded when `table` was made; None when none was."""
        if KEYS not in self.tables(connection, schema):
            return None
        keys = self._keys(schema)
        asked = sa.select(keys.c.key_columns).where(keys.c.table_name == table)
        found = connection.execute(asked).scalar_one_or_none()
        return None if found is None else json.loads(found)

    def record_key(self, connection: sa.Connection, schema: str | None, table: str, key: Sequence[str]) -> None:
        """Before the table is made, so that no table is ever without."""
        keys = self._keys(schema)
        if KEYS not in self.tables(connection, schema):
            connection.exec_driver_sql(self.ddl(connection, keys, ()))
        connection.execute(sa.delete(keys).where(keys.c.table_name == table))
        connection.execute(sa.insert(keys).values(table_name=table, key_columns=json.dumps(list(key))))

    def _keys(self, schema: str | None) -> sa.Table:
        text = self.column_type(pa.string())
        columns = sa.Column[Any]("table_name", text), sa.Column[Any]("key_columns", text)
        return sa.Table(KEYS, sa.MetaData(), *columns, schema=schema)

    def create(self, connection: sa.Connection, table: sa.Table) -> None:
        """Create a table that is distributed by its key's first column, so that a series' rows lie together."""
        key = [column.name for column in table.primary_key.columns]
        self.record_key(connection, table.schema, table.name, key)
        connection.exec_driver_sql(self.ddl(connection, table, key))

    def lists(self, values: Sequence[Scalar]) -> Iterator[list[str] | Scalar]:
        """For STRING_SPLIT: pages disagree on OPENJSON in a dedicated pool."""
        return separated(values)

    def listed(self, texts: list[str]) -> sa.FromClause:
        """See `SqlServer.listed`."""
        joined = sa.literal(SEPARATOR.join(texts), sa.Unicode(LONGEST_TEXT))
        return sa.func.STRING_SPLIT(joined, sa.literal(SEPARATOR, sa.Unicode(1))).alias("listed")

    def copy_options(self) -> str:
        """How COPY INTO reads the files: as the workspace's managed identity."""
        return "FILE_TYPE = 'PARQUET', CREDENTIAL = (IDENTITY = 'Managed Identity')"

    def upkeep(self, connection: sa.Connection, table: sa.Table) -> Iterator[str]:
        """What is run after a load has changed `table`: statistics, and rows out of the open row groups."""
        name = connection.dialect.identifier_preparer.format_table(table)
        yield f"UPDATE STATISTICS {name}"
        if self.index == "columnstore":
            yield f"ALTER INDEX ALL ON {name} REORGANIZE WITH (COMPRESS_ALL_ROW_GROUPS = ON)"

    def ddl(self, connection: sa.Connection, table: sa.Table, key: Sequence[str]) -> str:
        """CREATE TABLE; without `key`, of a staging table: round robin, a heap."""
        quoted = connection.dialect.identifier_preparer
        columns = [str(sa.schema.CreateColumn(column).compile(connection)) for column in table.columns]
        names = ", ".join(map(quoted.quote_identifier, key))
        if key:
            columns.append(f"PRIMARY KEY NONCLUSTERED ({names}) NOT ENFORCED")
        spread = {"hash": f"HASH({quoted.quote_identifier(key[0])})" if key else "ROUND_ROBIN"}
        distribution = spread.get(self.distribution, self.distribution.upper()) if key else "ROUND_ROBIN"
        index = "CLUSTERED COLUMNSTORE INDEX" if key and self.index == "columnstore" else "HEAP"
        return (
            f"CREATE TABLE {quoted.format_table(table)} ({', '.join(columns)}) "
            f"WITH (DISTRIBUTION = {distribution}, {index})"
        )

    def create_view(self, connection: sa.Connection, schema: str | None, view: WarehouseView) -> None:
        """Altered where it is there, so that grants stay; a dedicated pool has no CREATE OR ALTER VIEW."""
        there = self.reflect(connection, schema, view.name) is not None
        name = connection.dialect.identifier_preparer.format_table(sa.table(view.name, schema=schema))
        verb = "ALTER" if there else "CREATE"
        connection.exec_driver_sql(f"{verb} VIEW {name} AS {query_of(connection, schema, view)}")

    def require_rights(self, connection: sa.Connection, warehouse: str) -> None:
        """Raise AccessError that names the GRANT of each right that the login lacks."""
        asked = "SELECT permission_name FROM sys.fn_my_permissions(NULL, 'DATABASE')"
        held = {name for (name,) in connection.exec_driver_sql(asked)}
        if lacking := [right for right in RIGHTS if right not in held]:
            raise AccessError(
                f"the warehouse {warehouse}: its login lacks {', '.join(lacking)}; run in that database: "
                f"GRANT {', '.join(lacking)} TO [the login's user]"
            )


@dataclass(frozen=True, slots=True)
class _Staged:
    part: WarehousePart
    rows: int
    columns: tuple[str, ...]
    table: sa.Table


class SynapseWarehouse(SqlWarehouse):
    """Tables in a dedicated SQL pool; rows travel through `staging`, which the pool's managed identity reads."""

    def __init__(
        self,
        url: str,
        staging: Staging,
        clock: Callable[[], datetime] = utc_now,
        *,
        schema: str = "",
        login: connections.Login = NO_LOGIN,
        dialect: SynapseDialect | None = None,
    ) -> None:
        self._synapse = dialect or SynapseDialect()
        super().__init__(url, clock, schema=schema, login=login, dialect=self._synapse)
        self._staging = staging

    def create_views(self, views: Sequence[WarehouseView]) -> None:
        """See `Warehouse.create_views`."""
        with self._autocommit("making its views") as connection:
            there = set(self._dialect.tables(connection, self._schema))
            for view in views:
                if missing := sorted(set(view.tables) - there):
                    raise InputError(f"view {view.name!r}: the warehouse {self._name} has no {missing}")
                self._dialect.create_view(connection, self._schema, view)

    def _load(self, load: str, fingerprint: str, ready: Sequence[tuple[WarehousePart, pa.Table]]) -> int:
        doing = f"load {load!r}"
        if any(part.table == KEYS for part, _ in ready):
            raise InputError(
                f"{KEYS!r} is where the warehouse records the keys of its tables; give the table another name"
            )
        with ExitStack() as stack:
            connection = stack.enter_context(self._autocommit(doing))
            self._synapse.make_schema(connection, self._schema)
            known: dict[str, pa.Schema] = {}
            checked = [(part, self._fitting(connection, part, rows, known)) for part, rows in ready]
            self._drop(connection, self._left_over(connection))
            staged = [self._stage(connection, at, part, rows) for at, (part, rows) in enumerate(checked)]
            made = self._prepare(connection, checked)
            try:
                self._swap(load, fingerprint, staged)
            except Exception:
                with suppress(DBAPIError):  # the connection may be what failed
                    self._drop(connection, made)
                raise
            finally:
                with suppress(DBAPIError):  # the next load drops what is left
                    self._drop(connection, [one.table.name for one in staged])
            for table in dict.fromkeys(part.table for part, rows in ready if len(rows)):
                self._keep_up(connection, table)
        return sum(len(rows) for _, rows in ready)

    def _keep_up(self, connection: sa.Connection, table: str) -> None:
        """Tidy up after a load. What fails here is done after the next one."""
        for statement in self._synapse.upkeep(connection, sa.Table(table, sa.MetaData(), schema=self._schema)):
            with suppress(DBAPIError):
                connection.exec_driver_sql(statement)

    def check(self) -> str:
        """See `Warehouse.check`. Raises AccessError that names the GRANT of each right that is missing."""
        with self._autocommit("asking for the login's rights") as connection:
            self._synapse.require_rights(connection, self._name)
        return super().check()

    def _checked(self, there: sa.Table | None, part: WarehousePart, rows: pa.Table) -> pa.Table:
        """See `SqlWarehouse._checked`. A table whose key neither we nor the catalogue know has the part's."""
        if there is not None and not there.primary_key.columns and set(part.key) <= set(there.c.keys()):
            there.append_constraint(sa.PrimaryKeyConstraint(*(there.c[name] for name in part.key)))
        return super()._checked(there, part, rows)

    def _fitting(
        self, connection: sa.Connection, part: WarehousePart, rows: pa.Table, known: dict[str, pa.Schema]
    ) -> pa.Table:
        """`rows` as their table takes them, or as the parts before have made it. Raises InputError."""
        there = self._reflected(connection, part.table)
        if there is None and part.table in known:
            there = self._table(part.table, known[part.table], part.key)
        rows = self._checked(there, part, rows)
        known[part.table] = rows.schema
        return rows

    def _stage(self, connection: sa.Connection, at: int, part: WarehousePart, rows: pa.Table) -> _Staged:
        from pyarrow import parquet

        kinds = [(field.name, self._dialect.column_type(field.type)) for field in rows.schema]
        columns = [sa.Column[Any](name, kind) for name, kind in kinds]
        name = f"{STAGED}{uuid4().hex[:12]}_{at}"
        table = sa.Table(name, sa.MetaData(), *columns, schema=self._schema)
        connection.exec_driver_sql(self._synapse.ddl(connection, table, ()))
        if len(rows):
            quoted = connection.dialect.identifier_preparer
            listed = ", ".join(quoted.quote_identifier(column) for column in rows.column_names)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"{name}.parquet"
                plain = pa.schema([(f"c{n}", field.type) for n, field in enumerate(rows.schema)])
                with parquet.ParquetWriter(file, plain, use_deprecated_int96_timestamps=True) as writer:
                    for batch in batches(rows):
                        writer.write_table(batch.rename_columns(plain.names))
                with self._staging.holding(file, file.name) as address:
                    connection.exec_driver_sql(
                        f"COPY INTO {quoted.format_table(table)} ({listed}) FROM '{address}' "
                        f"WITH ({self._synapse.copy_options()})"
                    )
        return _Staged(part, len(rows), tuple(rows.column_names), table)

    def _prepare(self, connection: sa.Connection, checked: Sequence[tuple[WarehousePart, pa.Table]]) -> list[str]:
        """Make and widen the tables; the names of those that are new."""
        made: list[str] = []
        for part, rows in checked:
            there = self._reflected(connection, part.table)
            if there is None:
                self._dialect.create(connection, self._table(part.table, rows.schema, part.key))
                made.append(part.table)
                continue
            if self._synapse.recorded_key(connection, self._schema, part.table) is None:
                self._synapse.record_key(connection, self._schema, part.table, part.key)
            for field in list(rows.schema)[len(there.columns) :]:
                self._widen(connection, there, field)
        if self._reflected(connection, LOADS) is None:
            self._dialect.create(connection, self._loads())
        return made

    def _swap(self, load: str, fingerprint: str, staged: Sequence[_Staged]) -> None:
        with self._transaction(f"load {load!r}", writes=True) as connection:
            for one in staged:
                there = self._reflected(connection, one.part.table)
                assert there is not None
                connection.execute(sa.delete(there).where(self._condition(there, one.part.where)))
                if one.rows:
                    self._refuse_taken(connection, one, there)
                    rows = sa.select(*(one.table.c[name] for name in one.columns))
                    connection.execute(sa.insert(there).from_select(list(one.columns), rows))
            self._record(connection, load, fingerprint, sum(one.rows for one in staged))

    def _refuse_taken(self, connection: sa.Connection, one: _Staged, there: sa.Table) -> None:
        """Raise InputError when rows that stay have the key of a new row, which Synapse does not prevent.

        Asked before the new rows are there, and not by GROUP BY: where an unenforced key is violated, the pool may take
        it for unique and answer wrongly. That the new rows' own keys are different, `require_part` has seen.
        """
        same = sa.and_(*(there.c[name] == one.table.c[name] for name in one.part.key))
        taken = sa.select(sa.func.count()).select_from(one.table).where(sa.exists().where(same))
        found = connection.execute(taken).scalar_one()
        if found:
            raise key_conflict(one.part, f"{found} of them")

    def _left_over(self, connection: sa.Connection) -> list[str]:
        """Staging tables of loads that were killed. One load runs at a time: Dagster's pool sees to it."""
        pattern = re.compile(rf"{STAGED}[0-9a-f]{{12}}_\d+")
        return [name for name in self._dialect.tables(connection, self._schema) if pattern.fullmatch(name)]

    def _drop(self, connection: sa.Connection, tables: Sequence[str]) -> None:
        quoted = connection.dialect.identifier_preparer
        for name in tables:
            connection.exec_driver_sql(f"DROP TABLE {quoted.format_table(sa.table(name, schema=self._schema))}")

    @contextmanager
    def _autocommit(self, doing: str) -> Generator[sa.Connection]:
        """A connection whose every statement is a transaction."""
        with self._errors(doing), self._ddl_engine().connect() as connection:
            yield connection

    def _ddl_engine(self) -> sa.Engine:
        if not hasattr(self, "_ddl"):
            self._ddl = self._dialect.engine(self._url, self._login).execution_options(isolation_level="AUTOCOMMIT")
        return self._ddl
