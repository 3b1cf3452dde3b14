"""store_item_datasets: one regular, typed history per series."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from many_models.data import lake_tables
from many_models.data.lake_tables import BufferedWriter
from many_models.errors import InputError, SeriesFailure
from many_models.orchestration import stage_state
from many_models.orchestration.chunks import chunks_of, concat_results, failures_of, follow, good_series
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.stage_asset import stage_asset
from many_models.orchestration.stage_run import (
    DUE_TAG,
    STORE_ITEMS,
    KeySet,
    Metadata,
    SeriesResult,
    finish,
)
from many_models.ports import Compute, Lake
from many_models.settings import Settings

ROWS_A_COMMIT = 1_000_000  # some 100 MB in memory


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset store_item_datasets."""

    @stage_asset(
        settings,
        partitions=STORE_ITEMS,
        deps=[
            dg.AssetDep("raw_sales", partition_mapping=dg.AllPartitionMapping()),
            dg.AssetDep("raw_covariates"),
        ],
        group="data",
        kinds={"deltalake", "table"},
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
        from many_models.tasks import PrepareTask

        keys = stage_state.begin_series(context, config, settings, lake)
        as_of = lake_tables.lake_as_of(lake)
        if as_of is None:
            raise InputError("raw_sales has no rows in the lake yet: materialize raw_sales first")
        wanted = stage_state.dataset_versions(settings, lake)
        by_hand = DUE_TAG not in context.run.tags  # a person asked: make it again whatever the lake holds
        task = PrepareTask(
            lake,
            spec_of(settings),
            as_of,
            tuple(settings.data.keys),
            by_hand,
            settings.data.start,
            settings.data.max_loss,
        )
        done, failures, rows, written = dict[str, SeriesResult](), list[SeriesFailure](), 0, 0
        histories = Histories(lake)
        for pack, results in follow(context, compute, task, chunks_of(settings, keys, compute)):
            failures += failures_of(results)
            if not (good := good_series(results)):
                continue
            series = with_as_of(concat_results(results, "series"), as_of)
            added = concat_results(results, "rows")
            histories.add(pack, added, series, good)
            rows, written = rows + pc.sum(series["rows"]).as_py(), written + added.num_rows
            done |= {row["series_id"]: _done(row, wanted) for row in series.to_pylist()}
            if histories.rows >= ROWS_A_COMMIT:
                failures += histories.write()
        failures += histories.write()
        summary = {"as_of": str(as_of), "dagster/row_count": rows, "rows_written": written}
        finish(context, settings, lake, keys, done, failures, wanted, summary)
        yield from ()

    return store_item_datasets


@dataclass(slots=True)
class Histories:
    """Datasets on their way into the lake, each with its row in the table of series, which says what is held of it."""

    lake: Lake
    held: BufferedWriter = field(init=False)
    described: BufferedWriter = field(init=False)

    def __post_init__(self) -> None:
        self.held, self.described = (
            BufferedWriter(self.lake, lake_tables.DATASETS),
            BufferedWriter(self.lake, lake_tables.SERIES),
        )

    @property
    def rows(self) -> int:
        """How many rows wait to be written."""
        return self.held.rows

    def add(self, pack: str, rows: pa.Table, series: pa.Table, good: Sequence[str]) -> None:
        """Hold the results of one pack."""
        since = {row["series_id"]: row["since"] for row in series.select(["series_id", "since"]).to_pylist()}
        self.held.add(pack, rows, good, {name: time for name, time in since.items() if time is not None})
        self.described.add(pack, series.drop_columns(["since"]), good)

    def write(self) -> list[SeriesFailure]:
        """Write what is held; the series of packs that were not written. A crash in the middle never leaves a digest
        beside rows that it is not of.
        """
        replaced = [part for part in self.held.parts if not part.extends]
        if names := {name for part in replaced for name in set(part.series) - set(part.since)}:
            lake_tables.forget_histories(self.lake, [part.pack for part in replaced], names)
        failures = self.held.write()
        failed = {failure.series_id for failure in failures}
        self.described.parts = [part for part in self.described.parts if failed.isdisjoint(part.series)]
        return failures + self.described.write()


def with_as_of(series: pa.Table, as_of: datetime) -> pa.Table:
    """`series` with the as_of that their datasets reach to."""
    return series.append_column("as_of", pa.array([as_of] * series.num_rows, pa.timestamp("us")))


def _done(row: Mapping[str, object], wanted: Mapping[str, str]) -> SeriesResult:
    version = wanted.get(str(row["series_id"]), "")
    metadata: Metadata = {name: str(row[name]) for name in ("first", "last")}
    metadata |= {"observations": int(str(row["observations"])), "active": bool(row["active"])}
    return SeriesResult(version, version, metadata | ({"why": str(row["why"])} if row["why"] else {}))
