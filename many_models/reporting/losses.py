"""What a load would take away from the warehouse though the settings have not changed: see `data.max_loss`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from many_models.data.losses import TOLD, is_refused
from many_models.errors import MissingTableError
from many_models.ports import Filter
from many_models.reporting.actuals import COPIED, PERIODS, copied_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from many_models.ports import Warehouse, WarehousePart
    from many_models.settings import Settings


def lost_rows(warehouse: Warehouse, parts: Sequence[WarehousePart], settings: Settings) -> str:
    """The first loss of predictions or actuals that `parts` would make beyond `data.max_loss`; "" for none.

    Predictions are compared by their first steps, one a series, so that a shorter horizon is not a loss. Actuals are
    compared from `data.start` on, and only where the warehouse's were copied with the same settings. The database
    counts; no rows are read.
    """
    most = settings.data.max_loss
    if most >= 1:
        return ""
    same = _copied_alike(warehouse, parts, settings)
    for part in parts:
        if part.table == "predictions":
            where, comes, what = _first_steps(part), _number_of_first_steps(part.rows), "series with a forecast"
        elif part.table == "actuals" and same:
            where, comes, what = _since_start(part, settings)
        else:
            continue
        held = warehouse.count(part.table, where)
        if is_refused(held, comes, most):
            return (
                f"table {part.table!r} of the warehouse holds {held:,} {what}, and the lake has {comes:,}, a loss of "
                f"more than {most:.0%} (data.max_loss). Nothing of this cutoff was loaded. Where the rows are really "
                f"gone: {TOLD}; where they are not: `many-models doctor`"
            )
    return ""


def _first_steps(part: WarehousePart) -> Filter:
    return replace(part.where, among={**part.where.among, "step": [1]})


def _number_of_first_steps(rows: pa.Table) -> int:
    import pyarrow.compute as pc

    return pc.sum(pc.equal(rows["step"], 1)).as_py() or 0


def _since_start(part: WarehousePart, settings: Settings) -> tuple[Filter, int, str]:
    """What to count in the warehouse, how many rows come, and what they are, all since `data.start`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    start = datetime.combine(settings.data.start, datetime.min.time())
    since = start if part.where.since is None else max(start, part.where.since)
    comes = pc.sum(pc.greater_equal(part.rows["ds"], pa.scalar(since, pa.timestamp("us")))).as_py() or 0
    before = "" if part.where.before is None else f" to before {part.where.before:%Y-%m-%d}"
    return replace(part.where, since=since), comes, f"rows from {since:%Y-%m-%d}{before}"


def _copied_alike(warehouse: Warehouse, parts: Sequence[WarehousePart], settings: Settings) -> bool:
    """Whether the periods that `parts` bring were loaded before with rows copied as they are now, or not at all."""
    periods = [name for part in parts if part.table == PERIODS for name in part.rows["period"].to_pylist()]
    try:
        held = warehouse.read(PERIODS, Filter(among={"period": periods}))
    except MissingTableError:
        return True
    ways = set(held[COPIED].to_pylist()) if COPIED in held.column_names else set[str]()
    return ways <= {None, copied_as(settings)}  # an earlier version did not write it down
