"""Many series with models, made by copying those of one store: what promotion and predictions need, and no more.

The sales of the copies are not in the source, and nothing is trained for them. The lake has their datasets and scores,
staging their packs, and Dagster's records say that both were made. So promoted_models and predictions are due for all
of them, as in a night that refits every series.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from many_models.data import lake_tables
from many_models.forecasting import PackModel
from many_models.keys import digest
from many_models.operations.day import open_instance
from many_models.orchestration import stage_state
from many_models.orchestration.event_log.history import MEMBERS
from many_models.orchestration.look import tag_of
from many_models.orchestration.refits import refit_spans
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG
from many_models.orchestration.upstream import Upstream
from many_models.ports import Filter, PackUpload
from many_models.settings import load_settings
from many_models.wiring import build_lake, build_staging

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from many_models.ports import Lake
    from many_models.settings import Settings

ORIGINAL = "store-000"
AT_ONCE = 50  # stores
COPIED = (
    lake_tables.RAW_VERSIONS, lake_tables.SERIES_KEYS, lake_tables.SERIES, lake_tables.DATASETS, lake_tables.TRAINED,
)  # fmt: skip


def multiply(folder: Path, stores: int) -> None:
    """Make `stores` of the one store of the project in `folder`: trained, not promoted, a partition for each store."""
    settings = load_settings(folder / "many_models.toml")
    lake, names = build_lake(settings), [f"copy-{number:05d}" for number in range(1, stores)]
    with open_instance(folder / "dagster") as instance:
        originals = {table.name: lake.read(table.name) for table in COPIED}
        for start in range(0, len(names), AT_ONCE):
            copy_stores(settings, lake, originals, names[start : start + AT_ONCE])
        instance.add_dynamic_partitions("store_items", names)
        record(settings, instance, lake, names)


def copy_stores(settings: Settings, lake: Lake, originals: Mapping[str, pa.Table], names: Sequence[str]) -> None:
    """Write the tables and packs of some copies."""
    staging = build_staging(settings)
    series = originals[lake_tables.SERIES.name]["series_id"].to_pylist()
    version = staging.newest(series)[series[0]]
    model = PackModel.from_files(staging.files(version))
    refs = {
        name: made.ref
        for name, made in zip(
            names, staging.register(f"copies from {names[0]}", [upload(model, version.tags, n) for n in names]),
            strict=True,
        )
    }  # fmt: skip
    for table in COPIED:
        rows = pa.concat_tables([renamed(originals[table.name], name, refs[name]) for name in names])
        where = Filter()
        if "pack" in table.partition_by:
            where = Filter(among={"pack": list(names)})
        else:  # few and small tables
            rows = pa.concat_tables([lake.read(table.name), rows])
        lake.replace(table.name, rows, where, table.partition_by)


def upload(model: PackModel, tags: Mapping[str, str], name: str) -> PackUpload:
    """The original's pack under the names of a copy."""
    series = [one.replace(ORIGINAL, name) for one in model.series]
    index = {**model.index, "series": series}
    return PackUpload(name, replace(model, index=index).files(), tuple(series), tags)


def renamed(rows: pa.Table, name: str, ref: str) -> pa.Table:
    """The original's rows under the names of a copy, whose models are `ref`."""
    for at, column in enumerate(rows.column_names):
        if column in {"series_id", "pack", "store"}:
            rows = rows.set_column(at, column, pc.replace_substring(rows[column], ORIGINAL, name))
        elif column == "staging":
            rows = rows.set_column(at, column, pa.array([ref] * rows.num_rows, pa.string()))
    return rows


def record(settings: Settings, instance: dg.DagsterInstance, lake: Lake, names: Sequence[str]) -> None:
    """Tell Dagster that the datasets and models of the copies were made."""
    datasets = stage_state.dataset_versions(settings, lake)
    spans = refit_spans(settings, lake, datasets)
    of, pooled = Upstream(settings), tag_of(instance, "pooled_models", VERSION_TAG)
    refs = {row["series_id"]: row["staging"] for row in lake_tables.records(lake, lake_tables.TRAINED)}
    held: dict[str, list[str]] = {}
    for series in datasets:
        held.setdefault(series.partition("__")[0], []).append(series)
    for name in names:
        consumed = {series: of.trained(spans.get(series, datasets[series]), pooled, "") for series in held[name]}
        report(instance, "store_item_datasets", name, {s: datasets[s] for s in consumed}, datasets)
        report(instance, "trained_models", name, consumed, {s: digest(consumed[s], refs[s]) for s in consumed})


def report(
    instance: dg.DagsterInstance, stage: str, name: str, consumed: Mapping[str, str], made: Mapping[str, str]
) -> None:
    """Record a partition of several series."""
    members = {UPSTREAM_TAG: dict(consumed), VERSION_TAG: {series: made[series] for series in consumed}}
    metadata = {"series": len(consumed), "failed": 0, MEMBERS: dg.MetadataValue.json(members)}
    tags = {tag: digest(sorted(values.items())) for tag, values in members.items()}
    event = dg.AssetMaterialization(stage, partition=name, metadata=metadata, tags=tags)
    instance.report_runless_asset_event(event)
