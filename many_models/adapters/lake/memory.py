"""The lake in memory: for tests, notebooks and runs that leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.arrow import (
    align_schema,
    matches,
    normalize_types,
    require_columns,
    require_table,
    require_within,
    without_zones,
)
from many_models.errors import MissingTableError
from many_models.ports import VacuumResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from many_models.ports import Filter


@dataclass(frozen=True, slots=True)
class _Version:
    number: int
    rows: pa.Table
    partition_by: tuple[str, ...]


class MemoryLake:
    """Arrow tables by name. A pickle of it is a copy: what a worker writes there stays there."""

    def __init__(self) -> None:
        self._newest: dict[str, _Version] = {}
        self._lock = Lock()

    def __getstate__(self) -> dict[str, _Version]:
        return self._newest

    def __setstate__(self, newest: dict[str, _Version]) -> None:
        self._newest = newest
        self._lock = Lock()

    def replace(self, table: str, rows: pa.Table, where: Filter, partition_by: Sequence[str] = ()) -> int:
        """See `Lake.replace`. Writers wait for each other, so that there are no conflicts."""
        rows = without_zones(normalize_types(rows))
        with self._lock:
            there = self._newest.get(table)
            rows = align_schema(table, rows, there.rows.schema if there else pa.schema([]))
            partitions = there.partition_by if there else tuple(partition_by)
            require_table(table, rows, partitions)
            require_within(table, rows, where)
            if there is not None:
                old = align_schema(table, there.rows, rows.schema)
                rows = pa.concat_tables([old.filter(pc.invert(matches(table, old, where))), rows])
            self._newest[table] = _Version(there.number + 1 if there else 0, rows, partitions)
            return self._newest[table].number

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """See `Lake.read`. In no order."""
        there = self._newest.get(table)
        if there is None:
            names = ", ".join(map(repr, sorted(self._newest))) or "none"
            raise MissingTableError(f"the lake in memory has no table {table!r}; it has {names}")
        rows = there.rows
        require_columns(table, rows.column_names, columns)
        found = rows if where is None else rows.filter(matches(table, rows, where))
        return found.select(list(dict.fromkeys(columns)) or rows.column_names)

    def version(self, table: str) -> int | None:
        """See `Lake.version`."""
        there = self._newest.get(table)
        return there.number if there else None

    def fingerprint(self, table: str) -> str:
        """See `Lake.fingerprint`."""
        there = self._newest.get(table)
        return "" if there is None else f"{there.number} {id(there.rows)}"

    def tables(self) -> frozenset[str]:
        """See `Lake.tables`."""
        return frozenset(self._newest)

    def prune(self, older: timedelta) -> VacuumResult:  # noqa: ARG002  there is no history to be that old
        """See `Lake.prune`. Only the newest versions are kept anyway."""
        return VacuumResult()

    def damaged(self) -> dict[str, dict[str, str]]:
        """See `Lake.damaged`."""
        return {}

    def put_aside(self, table: str) -> None:
        """See `Lake.put_aside`."""

    def check(self) -> str:
        """See `Lake.check`."""
        return f"lake in memory: {len(self._newest)} tables"
