"""What a load brings of decisions: the lake's tables of them, by cutoff."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from many_models.data import lake_tables
from many_models.errors import PermanentError
from many_models.ports import Filter, WarehousePart
from many_models.reporting.actuals import with_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from many_models.ports import Lake

log = logging.getLogger(__name__)

OF_SERIES = {
    lake_tables.STOCK: ("series_id",),
    lake_tables.FINAL: ("series_id", "ds"),
    lake_tables.VALUE_ADDED: ("series_id", "author", "reason", "month", "size"),
    lake_tables.DRIFT: ("series_id",),
    lake_tables.DRIVERS: ("series_id", "ds", "kind", "driver"),
}
OTHERS = {
    lake_tables.COHERENT: ("node", "ds"),
    lake_tables.COSTS: ("stage",),
    lake_tables.DECISION_PROBLEMS: ("number",),
}


def decision_parts(lake: Lake, keys: Sequence[str], date: str) -> list[WarehousePart]:
    """The decisions of the cutoff `date`, as far as the lake has any. A column that is called as one of the `keys` gets
    the ending _of_decision.
    """
    import pyarrow as pa

    where = Filter(among={"cutoff_date": [date]})
    parts = list[WarehousePart]()
    for table, key in {**OF_SERIES, **OTHERS}.items():
        rows = _read(lake, table, where)
        if rows is None or (not rows.num_rows and table != lake_tables.DECISION_PROBLEMS):
            continue
        taken = {name: f"{name}_of_decision" for name in rows.column_names if name in keys}
        rows = rows.rename_columns([taken.get(name, name) for name in rows.column_names])
        if table in OF_SERIES:
            rows = with_keys(rows, keys)
        if table == lake_tables.DECISION_PROBLEMS:
            rows = rows.append_column("number", pa.array(range(1, rows.num_rows + 1), pa.int64()))
        parts.append(WarehousePart(table.name, rows, where, (*(taken.get(name, name) for name in key), "cutoff_date")))
    return parts


def _read(lake: Lake, table: lake_tables.LakeTable, where: Filter) -> pa.Table | None:
    """The rows of a table, None where there are none: what nights cost is left out where it cannot be read."""
    try:
        return lake_tables.read_if_there(lake, table, where)
    except PermanentError as error:
        if table != lake_tables.COSTS:
            raise
        log.warning("what the night cost is not loaded: %s", error)
        return None
