"""The warehouse of Microsoft Fabric: the steps of a dedicated pool, in Fabric's dialect.

Fabric has no distributions, indexes and nvarchar; a key is added after the table is made; statistics and row groups
are its own affair; COPY INTO reads OneLake or Data Lake Storage as the user who asks. docs/azure-rules.md lists more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.dialects import mssql
from sqlalchemy.ext.compiler import compiles

from many_models.adapters.arrow import TIMESTAMP
from many_models.adapters.warehouse.sql import NO_LOGIN
from many_models.adapters.warehouse.synapse import Staging, SynapseDialect, SynapseWarehouse
from many_models.errors import InputError, SettingsError
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from many_models.adapters.sql import connections
    from many_models.adapters.sql.dialects import SqlType

LONGEST_TEXT = 8000  # bytes in UTF-8
LONGEST_ROW = 8060  # bytes
COLLATION = "Latin1_General_100_BIN2_UTF8"


class Utf8Text(sa.Unicode):
    """VARCHAR, which is UTF-8 in Fabric; parameters go as Unicode, since a driver has no UTF-8 in VARCHAR."""


@compiles(Utf8Text, "mssql")
def _varchar(kind: Utf8Text, _compiler: object, **_: object) -> str:
    return f"VARCHAR({kind.length})"


@dataclass
class FabricDialect(SynapseDialect):
    """T-SQL as a Fabric warehouse takes it."""

    collation: ClassVar[str] = COLLATION
    types: ClassVar[tuple[tuple[pa.DataType, SqlType], ...]] = (
        (pa.string(), Utf8Text(LONGEST_TEXT)),
        (pa.int64(), sa.BigInteger()),
        (pa.float64(), sa.Float(53)),
        (pa.bool_(), mssql.BIT()),
        (TIMESTAMP, mssql.DATETIME2(6)),
        (pa.date32(), sa.Date()),
        (pa.binary(), mssql.VARBINARY(8000)),
    )

    def column_type(self, kind: pa.DataType, key_texts: int = 0) -> SqlType:  # noqa: ARG002  there is no index
        """A key's texts are as the others."""
        return super().column_type(kind)

    def prepare(self, table: str, rows: pa.Table, key: Sequence[str]) -> pa.Table:
        """As in SQL Server, and no row of more than 8,060 bytes."""
        rows = super().prepare(table, rows, key)
        sizes = [pc.fill_null(pc.binary_length(rows[name]), 0) for name in rows.column_names if _long(rows[name].type)]
        fixed = 8 * (rows.num_columns - len(sizes))
        if not sizes or fixed + sum(pc.max(size).as_py() or 0 for size in sizes) <= LONGEST_ROW:
            return rows
        total = pa.chunked_array([pa.repeat(pa.scalar(fixed, pa.int64()), len(rows))])
        for size in sizes:
            total = pc.add(total, pc.cast(size, pa.int64()))
        if (longest := pc.max(total).as_py()) > LONGEST_ROW:
            at = pc.index(total, longest).as_py()
            shown = {name: rows[name][at].as_py() for name in key}
            raise InputError(
                f"table {table!r}: the row {shown} has {longest} bytes; Fabric keeps at most {LONGEST_ROW} in a row"
            )
        return rows

    def create(self, connection: sa.Connection, table: sa.Table) -> None:
        """Create the table, then its key, which CREATE TABLE cannot hold, each with its own statement."""
        key = [column.name for column in table.primary_key.columns]
        self.record_key(connection, table.schema, table.name, key)
        connection.exec_driver_sql(self.ddl(connection, table, ()))
        quoted = connection.dialect.identifier_preparer
        names, constraint = (
            ", ".join(map(quoted.quote_identifier, key)),
            quoted.quote_identifier(f"pk_{table.name}"[:128]),
        )
        connection.exec_driver_sql(
            f"ALTER TABLE {quoted.format_table(table)} ADD CONSTRAINT {constraint} "
            f"PRIMARY KEY NONCLUSTERED ({names}) NOT ENFORCED"
        )

    def ddl(self, connection: sa.Connection, table: sa.Table, key: Sequence[str]) -> str:  # noqa: ARG002
        """CREATE TABLE, without key, distribution and index."""
        columns = ", ".join(str(sa.schema.CreateColumn(column).compile(connection)) for column in table.columns)
        return f"CREATE TABLE {connection.dialect.identifier_preparer.format_table(table)} ({columns})"

    def copy_options(self) -> str:
        """How COPY INTO reads the files: as the user of Entra ID who asks."""
        return "FILE_TYPE = 'PARQUET'"

    def upkeep(self, connection: sa.Connection, table: sa.Table) -> Iterator[str]:  # noqa: ARG002
        """Nothing: Fabric keeps statistics and row groups by itself."""
        yield from ()

    def require_rights(self, connection: sa.Connection, warehouse: str) -> None:
        """Also raises SettingsError where texts that differ in case alone would be one."""
        super().require_rights(connection, warehouse)
        found = connection.exec_driver_sql("SELECT DATABASEPROPERTYEX(DB_NAME(), 'Collation')").scalar_one()
        if found != COLLATION:
            raise SettingsError(
                f"the warehouse {warehouse} has the collation {found}, in which a and A are one series; make one with "
                f"Fabric's default, {COLLATION}"
            )


class FabricWarehouse(SynapseWarehouse):
    """Tables in a Fabric warehouse; rows travel through `staging`, in OneLake or in Data Lake Storage."""

    def __init__(
        self,
        url: str,
        staging: Staging,
        clock: Callable[[], datetime] = utc_now,
        *,
        schema: str = "",
        login: connections.Login = NO_LOGIN,
    ) -> None:
        super().__init__(url, staging, clock, schema=schema, login=login, dialect=FabricDialect())


def _long(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_binary(kind)
