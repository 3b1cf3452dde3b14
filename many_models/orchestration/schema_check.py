"""The source's columns: what has changed among them since the copy before, told by the check `schema` of raw_sales."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from many_models.data import lake_tables
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from many_models.orchestration.stage_run import Metadata
    from many_models.ports import Lake
    from many_models.settings import Settings

NUMBERS = ("int", "uint", "float", "double", "halffloat", "decimal")


def drift(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs between two looks at a table (column → Arrow type name), in words; none when there was no first.

    Numbers are one type: SQLite tells whole ones from others by the values that are there.
    """
    if not before:
        return []
    gone = [f"{name} is gone" for name in before if name not in now]
    new = [f"{name} ({kind}) is new" for name, kind in now.items() if name not in before]
    other = [
        f"{name} was {before[name]}, is {kind}"
        for name, kind in now.items()
        if name in before and _family(before[name]) != _family(kind)
    ]
    return [*gone, *new, *other]


def _family(kind: str) -> str:
    return "number" if kind.startswith(NUMBERS) else kind


def schema_check(settings: Settings, lake: Lake, columns: Mapping[str, str]) -> dg.AssetCheckResult:
    """The check `schema`: it fails once, as a warning, when a column has gone, come, or changed its type.

    The columns are kept in the lake, for the next copy to compare with.
    """
    kept = lake_tables.records(lake, lake_tables.SOURCE_COLUMNS)
    table = settings.source.table
    before = {str(row["column"]): str(row["type"]) for row in kept if row["table"] == table}
    found = drift(before, columns)
    if before != dict(columns):
        rows = {"table": [table] * len(columns), "column": list(columns), "type": list(columns.values())}
        names = pa.schema([(name, pa.string()) for name in rows])
        lake.replace(lake_tables.SOURCE_COLUMNS.name, pa.table(rows, schema=names), Filter())
    metadata: Metadata = {"columns": ", ".join(columns)}
    if found:
        metadata["changed"] = "; ".join(found)
    return dg.AssetCheckResult(
        passed=not found, check_name="schema", severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )
