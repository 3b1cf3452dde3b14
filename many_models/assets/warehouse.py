"""warehouse_predictions: what is new in the lake, loaded into the SQL warehouse once, under the user's key names."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import dagster as dg
import pyarrow as pa

from many_models import events, tables
from many_models.accuracy import realised
from many_models.assets import state
from many_models.assets.stage import Done, Metadata, backfill_policy, materialization, refuse_shared_run
from many_models.errors import InputError
from many_models.keys import SeriesKey
from many_models.ports import Lake, Warehouse, WarehousePart, Where
from many_models.report_views import WEEK, report_views
from many_models.settings import Settings

CUTOFFS = dg.DynamicPartitionsDefinition(name="cutoffs")
ACTUALS_BACK = 2  # horizons of actuals that a load brings up to date


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset warehouse_predictions."""

    @dg.asset(
        partitions_def=CUTOFFS,
        deps=[dg.AssetDep("predictions", partition_mapping=dg.AllPartitionMapping())],
        backfill_policy=backfill_policy("warehouse_predictions"),
        output_required=False,
        group_name="serving",
        kinds={"sql"},
        owners=[settings.dagster.owner],
        pool="warehouse_predictions",
        description=(
            "The predictions of a cutoff in the SQL warehouse that reports read, with the actuals that have come, the "
            "promotion decisions, and the realised accuracy of earlier cutoffs; all in one transaction. "
            "Views for reports stand on them."
        ),
    )
    def warehouse_predictions(
        context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake], warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[None]:
        refuse_shared_run(context)
        events.claim_run(context)
        wanted = state.warehouse_state(context.instance, lake).wanted
        for date in context.partition_keys:
            parts = parts_of(settings, lake, date)
            version = wanted.get(date, "earlier")
            written = warehouse.load(f"cutoff {date}", version, parts)
            views = report_views(settings.data.keys, {part.table: part.rows.column_names for part in parts})
            warehouse.define(views)
            context.log.info(f"cutoff {date}: {', '.join(f'{part.rows.num_rows:,} {part.table}' for part in parts)}")
            metadata: Metadata = {
                "dagster/row_count": parts[0].rows.num_rows,
                "rows_written": written,
                "views": ", ".join(view.name for view in views),
            }
            events.record(context, [materialization(context.asset_key, date, Done(version, version, metadata))])
        yield from ()

    return warehouse_predictions


def parts_of(settings: Settings, lake: Lake, date: str) -> list[WarehousePart]:
    """What a load of the cutoff `date` replaces: predictions, decisions, actuals, accuracy. Raises InputError."""
    where = Where(among={"cutoff_date": [date]})
    predictions = tables.read_if_there(lake, tables.PREDICTIONS, where)
    if predictions is None or not predictions.num_rows:
        raise InputError(f"the lake has no predictions of cutoff {date}: materialize predictions first")
    keys = settings.data.keys
    cutoff = datetime.fromisoformat(date)
    horizon = timedelta(days=settings.forecast.horizon * state.step_days(settings))
    parts = [
        WarehousePart(
            "predictions", with_keys(predictions.drop_columns(["pack"]), keys), where, ("series_id", "cutoff", "ds")
        )
    ]
    decisions = tables.read_if_there(lake, tables.DECISIONS, where)
    if decisions is not None and decisions.num_rows:
        parts.append(WarehousePart("decisions", with_keys(decisions, keys), where, ("series_id", "cutoff")))
    since, before = cutoff - ACTUALS_BACK * horizon, cutoff + timedelta(days=1)
    recent = Where(among={"year": list(range(since.year, before.year + 1))}, since=since, before=before)
    actuals = lake.read(tables.RAW_SALES.name, recent, ["series_id", "ds", "y"])
    span = Where(since=since, before=before)
    parts.append(WarehousePart("actuals", with_week(with_keys(actuals, keys)), span, ("series_id", "ds")))
    earlier = lake.read(tables.PREDICTIONS.name, Where(since=since, before=before, column="cutoff"))
    scored = realised(earlier, actuals)
    parts.append(
        WarehousePart(
            "accuracy",
            with_keys(scored, keys),
            Where(since=since, before=before, column="cutoff"),
            ("series_id", "cutoff"),
        )
    )
    return parts


def with_keys(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """`rows` with the key parts of their series in the user's names, after series_id."""
    ids = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    parts = [SeriesKey.parse(name, len(keys)).parts for name in ids.dictionary.to_pylist()]
    for index, key in enumerate(keys):
        column = pa.array([part[index] for part in parts], pa.string()).take(ids.indices)
        rows = rows.add_column(index + 1, key, column)
    return rows


def with_week(rows: pa.Table) -> pa.Table:
    """`rows` with the Monday of each `ds`, which reports group by; databases reckon weeks in different ways."""
    import pyarrow.compute as pc

    return rows.append_column(WEEK, pc.floor_temporal(rows["ds"], unit="week").cast(pa.date32()))
