"""The warehouse in memory: for tests, notebooks and runs that leave nothing behind."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.arrow import (
    LOADS,
    TIMESTAMP,
    align_schema,
    key_conflict,
    matches,
    require_part,
    require_unique,
    sql_plain,
)
from many_models.errors import InputError, MissingTableError
from many_models.system import utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from many_models.ports import Filter, WarehousePart, WarehouseView

_LOADS_SCHEMA = pa.schema(
    [("load", pa.string()), ("fingerprint", pa.string()), ("rows", pa.int64()), ("loaded_at", TIMESTAMP)]
)


@dataclass(frozen=True, slots=True)
class _Kept:
    rows: pa.Table
    key: tuple[str, ...]


class MemoryWarehouse:
    """Arrow tables by name, kept as a SQL database would keep them; `clock` tells when a load was recorded."""

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._tables: dict[str, _Kept] = {}
        self._loads: dict[str, tuple[str, int, datetime]] = {}
        self._views: dict[str, WarehouseView] = {}
        self._lock = Lock()

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:
        """See `Warehouse.load`. Types and NaN as `SqlWarehouse.load` keeps them."""
        ready = [(part, sql_plain(part.table, part.rows)) for part in parts]
        with self._lock:
            tables = dict(self._tables)
            for part, rows in ready:
                tables[part.table] = _replaced(tables.get(part.table), part, rows)
            written = sum(len(rows) for _, rows in ready)
            self._tables = tables
            self._loads[load] = (fingerprint, written, self._clock())
        return written

    def create_views(self, views: Sequence[WarehouseView]) -> None:
        """See `Warehouse.create_views`. A view is computed, by SQLite, when it is read."""
        for view in views:
            self._viewed(view)
        self._views |= {view.name: view for view in views}

    def loads(self) -> Mapping[str, str]:
        """See `Warehouse.loads`."""
        return {load: fingerprint for load, (fingerprint, _, _) in sorted(self._loads.items())}

    def count(self, table: str, where: Filter) -> int:
        """See `Warehouse.count`."""
        kept = self._tables.get(table)
        return 0 if kept is None else pc.sum(matches(table, kept.rows, where)).as_py() or 0

    def read(self, table: str, where: Filter | None = None) -> pa.Table:
        """See `Warehouse.read`. In no order."""
        if table in self._views:
            return self._viewed(self._views[table], where)
        tables = {name: kept.rows for name, kept in self._tables.items()}
        if self._loads:
            records = [(load, *record) for load, record in self._loads.items()]
            tables[LOADS] = pa.table([pa.array(values) for values in zip(*records, strict=True)], schema=_LOADS_SCHEMA)
        if table not in tables:
            names = ", ".join(map(repr, sorted(tables))) or "none"
            raise MissingTableError(f"the warehouse in memory has no table {table!r}; it has {names}")
        rows = tables[table]
        return rows if where is None else rows.filter(matches(table, rows, where))

    def _viewed(self, view: WarehouseView, where: Filter | None = None) -> pa.Table:
        from many_models.adapters.warehouse.sql import SqlWarehouse
        from many_models.ports import Filter, WarehousePart

        if missing := [name for name in view.tables if name not in self._tables]:
            raise InputError(f"view {view.name!r}: the warehouse in memory has no table {missing[0]!r}")
        database = SqlWarehouse("sqlite:///:memory:")
        kept = {name: self._tables[name] for name in view.tables}
        database.load("", "", [WarehousePart(name, table.rows, Filter(), table.key) for name, table in kept.items()])
        database.create_views([view])
        return database.read(view.name, where)

    def check(self) -> str:
        """See `Warehouse.check`."""
        return f"warehouse in memory, loads: {len(self._loads)}"


def _replaced(there: _Kept | None, part: WarehousePart, rows: pa.Table) -> _Kept:
    rows = align_schema(part.table, rows, there.rows.schema if there else pa.schema([]))
    require_part(part, rows, key=there.key if there else None)
    if there is None:
        return _Kept(rows, part.key)
    old = align_schema(part.table, there.rows, rows.schema)
    whole = pa.concat_tables([old.filter(pc.invert(matches(part.table, old, part.where))), rows])
    try:
        require_unique(part.table, whole, part.key)
    except InputError as error:
        raise key_conflict(part, str(error)) from error
    return _Kept(whole, part.key)
