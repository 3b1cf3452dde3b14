"""store_item_datasets: one regular, typed history per series."""

from collections.abc import Iterator, Mapping
from datetime import datetime

import dagster as dg
import pyarrow as pa

from many_models import tables
from many_models.assets import state
from many_models.assets.chunks import chunks_of, failures_of, follow, good_series, together
from many_models.assets.spec import spec_of
from many_models.assets.stage import STORE_ITEMS, Done, KeySet, Metadata, backfill_policy, finish
from many_models.errors import InputError, SeriesFailure
from many_models.ports import Compute, Lake
from many_models.settings import Settings
from many_models.tables import Gathering

ROWS_A_COMMIT = 1_000_000  # some 100 MB in memory


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset store_item_datasets."""

    @dg.asset(
        partitions_def=STORE_ITEMS,
        deps=[
            dg.AssetDep("raw_sales", partition_mapping=dg.AllPartitionMapping()),
            dg.AssetDep("raw_covariates"),
        ],
        backfill_policy=backfill_policy("store_item_datasets"),
        output_required=False,
        group_name="data",
        kinds={"deltalake", "table"},
        owners=[settings.dagster.owner],
        pool="store_item_datasets",
        description=(
            "Each series' own history: one row per period from its first observation, gaps filled as missing, closed "
            "days and stock-outs marked (`state`). A series that cannot be used fails alone, with its reason."
        ),
    )
    def store_item_datasets(
        context: dg.AssetExecutionContext,
        config: KeySet,
        lake: dg.ResourceParam[Lake],
        compute: dg.ResourceParam[Compute],
    ) -> Iterator[None]:
        from many_models.work import PrepareTask

        keys = state.begin_series(context, config, settings, lake)
        as_of = state.lake_as_of(lake)
        if as_of is None:
            raise InputError("raw_sales has no rows in the lake yet: materialize raw_sales first")
        wanted = state.dataset_versions(settings, lake)
        task = PrepareTask(lake, spec_of(settings), as_of, tuple(settings.data.keys))
        done, failures, rows = dict[str, Done](), list[SeriesFailure](), 0
        histories, described = Gathering(lake, tables.DATASETS), Gathering(lake, tables.SERIES)
        for pack, results in follow(context, compute, task, chunks_of(settings, keys, compute)):
            failures += failures_of(results)
            if not (good := good_series(results)):
                continue
            series = with_as_of(together(results, "series"), as_of)
            histories.add(pack, together(results, "rows"), good)
            described.add(pack, series, good)
            rows += histories.parts[-1].num_rows
            done |= {row["series_id"]: _done(row, wanted) for row in series.to_pylist()}
            if histories.rows >= ROWS_A_COMMIT:
                histories.write()
                described.write()
        histories.write()
        described.write()
        summary = {"as_of": str(as_of), "dagster/row_count": rows}
        finish(context, settings, lake, keys, done, failures, wanted, summary)
        yield from ()

    return store_item_datasets


def with_as_of(series: pa.Table, as_of: datetime) -> pa.Table:
    """`series` with the as_of that their datasets reach to."""
    return series.append_column("as_of", pa.array([as_of] * series.num_rows, pa.timestamp("us")))


def _done(row: Mapping[str, object], wanted: Mapping[str, str]) -> Done:
    version = wanted.get(str(row["series_id"]), "")
    metadata: Metadata = {name: str(row[name]) for name in ("first", "last")}
    metadata |= {"observations": int(str(row["observations"])), "active": bool(row["active"])}
    return Done(version, version, metadata | ({"why": str(row["why"])} if row["why"] else {}))
