"""warehouse_predictions: what is new in the lake, loaded into the SQL warehouse once, under the user's key names."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import InputError, PermanentError
from many_models.orchestration import lake_marks, stage_state
from many_models.orchestration.event_log import dead_runs, runs
from many_models.orchestration.forecast_spec import periods_before, spec_of
from many_models.orchestration.look import Look
from many_models.orchestration.night_costs import record_costs
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import (
    CUTOFFS,
    Metadata,
    SeriesResult,
    board_link,
    materialization,
    refuse_shared_run,
)
from many_models.ports import Filter, Lake, Warehouse, WarehousePart
from many_models.reporting.actuals import actual_parts, held_periods, with_keys
from many_models.reporting.decisions import decision_parts
from many_models.reporting.losses import lost_rows
from many_models.reporting.naive import with_naive
from many_models.reporting.views import report_views
from many_models.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset warehouse_predictions."""

    @stage_asset(
        settings,
        partitions=CUTOFFS,
        deps=[dg.AssetDep("predictions", partition_mapping=dg.AllPartitionMapping())],
        group="serving",
        kinds={"sql"},
        description=(
            "The predictions of a cutoff in the SQL warehouse that reports read, with the actuals that have come, the "
            "promotion decisions, and the realised accuracy of earlier cutoffs, however long ago the sales were that "
            "have been corrected since; all in one transaction. "
            "Views for reports read them."
        ),
    )
    def warehouse_predictions(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake], warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[None]:
        refuse_shared_run(context)
        dead_runs.claim_run(context)
        lake_marks.require(context.instance, lake)
        look = Look(context.instance, lake)
        wanted, loaded = stage_state.warehouse_state(look).wanted, look.made("warehouse_predictions")
        refused = list[str]()
        for date in context.partition_keys:
            copied, held = stage_state.made_versions(context.instance, "raw_sales"), held_periods(warehouse)
            try:
                record_costs(settings, context.instance, lake, date)
            except PermanentError as error:  # forecasts are loaded all the same
                context.log.warning(f"what the night of cutoff {date} cost was not recorded: {error}")
            parts = forecast_parts(settings, lake, date)
            loads = warehouse.loads() or ()
            known = {*context.instance.get_dynamic_partitions("cutoffs"), *map(stage_state.date_of, loads)}
            cutoffs = sorted(known)  # those of the warehouse, too: the records may be newer than it
            parts += actual_parts(
                settings, lake, datetime.fromisoformat(date), copied, held, cutoffs, spec_of(settings)
            )
            if lost := lost_rows(warehouse, parts, settings):
                refused.append(f"cutoff {date}: {lost}")
                context.log.error(refused[-1])
                continue
            version = wanted.get(date, loaded.get(date, "earlier"))
            written = warehouse.load(stage_state.load_name(date), version, parts)
            views = report_views(settings.data.keys, {part.table: part.rows.column_names for part in parts})
            warehouse.create_views(views)
            context.log.info(f"cutoff {date}: {', '.join(f'{part.rows.num_rows:,} {part.table}' for part in parts)}")
            metadata: Metadata = {
                "dagster/row_count": parts[0].rows.num_rows,
                "rows_written": written,
                "views": ", ".join(view.name for view in views),
                **board_link(settings, "/"),
            }
            runs.record(context, [materialization(context.asset_key, date, SeriesResult(version, version, metadata))])
        if refused:
            raise InputError("; ".join(refused))
        yield from ()

    return warehouse_predictions


def forecast_parts(settings: Settings, lake: Lake, date: str) -> list[WarehousePart]:
    """The predictions and the decisions of the cutoff `date`. Raises InputError."""
    where = Filter(among={"cutoff_date": [date]})
    predictions = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, where)
    if predictions is None or not predictions.num_rows:
        raise InputError(f"the lake has no predictions of cutoff {date}: materialize predictions first")
    keys = settings.data.keys
    rows = with_keys(beside_naive(settings, lake, predictions.drop_columns(["pack"])), keys)
    parts = [WarehousePart("predictions", rows, where, ("series_id", "cutoff", "ds")), _series(rows, keys)]
    decisions = lake_tables.read_if_there(lake, lake_tables.DECISIONS, where)
    if decisions is not None and decisions.num_rows:
        parts.append(WarehousePart("decisions", with_keys(decisions, keys), where, ("series_id", "cutoff")))
    return [*parts, *decision_parts(lake, keys, date)]


def _series(rows: "pa.Table", keys: list[str]) -> WarehousePart:
    """A row for each series with its key parts: what reports filter by."""
    names = ["series_id", *keys]
    found = rows.group_by(names).aggregate([]).select(names).sort_by("series_id")
    return WarehousePart("series", found, Filter(among={"series_id": found["series_id"].to_pylist()}), ("series_id",))


def beside_naive(settings: Settings, lake: Lake, predictions: "pa.Table") -> "pa.Table":
    """`predictions` with the column `naive`, from the season of sales before their cutoffs."""
    import pyarrow.compute as pc

    spec = spec_of(settings)
    ends = pc.min_max(predictions["cutoff"]).as_py()
    since, before = periods_before(ends["min"], spec.steps_per_season, spec), ends["max"] + lake_tables.AFTER
    years = list(range(since.year, before.year + 1))
    where = Filter(among={"year": years}, since=since, before=before)
    return with_naive(predictions, lake.read(lake_tables.RAW_SALES.name, where, ["series_id", "ds", "y"]), spec)
