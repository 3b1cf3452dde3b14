"""What is decided of forecasts, as the lake has it of the newest cutoff: stock of a series, sums that agree."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from many_models.data import clock, lake_tables
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from many_models.ports import Lake
    from many_models.settings import Settings

LOOKED_BACK = 30  # periods in which the newest cutoff is looked for


def stock_of(settings: Settings, lake: Lake, series_id: str) -> dict[str, Any] | None:
    """The recommendation for a series at its newest cutoff; None where there is none. Raises UnavailableError."""
    rows = _newest(settings, lake, lake_tables.STOCK, {"series_id": [series_id]})
    return None if rows is None else _plain(rows.to_pylist()[0])


def sum_of(settings: Settings, lake: Lake, node: str) -> dict[str, Any] | None:
    """The coherent forecast of a node (`total`, `store|Rome`, a series' id) at its newest cutoff, with a row for each
    step; None where there is none. Raises UnavailableError.
    """
    rows = _newest(settings, lake, lake_tables.COHERENT, {"node": [node]})
    if rows is None:
        return None
    told = [name for name in rows.column_names if name in {"ds", "y_hat", "base"} or name[:2] in {"lo", "hi"}]
    steps = rows.sort_by("ds").select(told).to_pylist()
    first = rows.to_pylist()[0]
    return {"node": node, "level": first["level"], "cutoff": first["cutoff"], "steps": [_plain(step) for step in steps]}


def _newest(
    settings: Settings, lake: Lake, table: lake_tables.LakeTable, among: dict[str, Sequence[str]]
) -> pa.Table | None:
    """The rows of the newest cutoff that has any."""
    import pyarrow.compute as pc

    as_of = lake_tables.lake_as_of(lake)
    if as_of is None:
        return None
    since = as_of - timedelta(days=LOOKED_BACK * clock.step_days(settings))
    rows = lake_tables.read_if_there(lake, table, Filter(among=among, since=since, column="cutoff"))
    if rows is None or not rows.num_rows:
        return None
    return rows.filter(pc.equal(rows["cutoff"], pc.max(rows["cutoff"])))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row as JSON has it: without the lake's own column, and null for what is not a number."""
    return {name: None if value != value else value for name, value in row.items() if name != "cutoff_date"}  # noqa: PLR0124 -- NaN
