"""What the runs of a night spent, as Dagster has recorded it, written down by cutoff."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.orchestration.look import stage_of
from many_models.ports import Filter
from many_models.reporting.costs import night_costs

if TYPE_CHECKING:
    from many_models.ports import Lake
    from many_models.settings import Settings

LOADS = dg.AssetKey("warehouse_predictions")
MOST_LOADS, MOST_RUNS = 50, 2000


def spent(instance: dg.DagsterInstance, date: str) -> list[tuple[str, float]]:
    """Stage and seconds of each run of a stage that has ended since the load of the cutoff before `date`."""
    loads = instance.fetch_materializations(LOADS, limit=MOST_LOADS).records
    earlier = [record.timestamp for record in loads if record.partition_key and record.partition_key < date]
    since = datetime.fromtimestamp(max(earlier), UTC) if earlier else None
    found = list[tuple[str, float]]()
    for record in instance.get_run_records(dg.RunsFilter(created_after=since), limit=MOST_RUNS):
        stage, began, ended = stage_of(record.dagster_run), record.start_time, record.end_time
        if stage and began is not None and ended is not None:
            found.append((stage, ended - began))
    return found[::-1]  # the oldest first


def record_costs(settings: Settings, instance: dg.DagsterInstance, lake: Lake, date: str) -> None:
    """Put what the night of the cutoff `date` has cost so far into the lake.

    What an earlier night cost stays as it was recorded: the runs of nights since are not its.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    as_of = lake_tables.lake_as_of(lake)
    if as_of is None or date != f"{as_of:%Y-%m-%d}":
        return
    where = Filter(among={"cutoff_date": [date]})
    decisions = lake_tables.read_if_there(lake, lake_tables.DECISIONS, where)
    rows = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, where, ["series_id"])
    models = 0 if rows is None else pc.count_distinct(rows["series_id"]).as_py()
    compute = settings.compute
    found = night_costs(spent(instance, date), compute.cores, compute.core_hour_price, models, decisions)
    dated = found.append_column("cutoff_date", pa.array([date] * found.num_rows, pa.string()))
    lake.replace(lake_tables.COSTS.name, dated, where, lake_tables.COSTS.partition_by)
