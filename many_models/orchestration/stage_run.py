"""What all stages over series share: the keys of a run, version tags, failures as data, and how a run ends."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from many_models.data import lake_tables
from many_models.errors import SeriesFailure
from many_models.orchestration import due, lake_marks, partitions
from many_models.orchestration.copied_settings import tried_with
from many_models.orchestration.event_log import dead_runs, history, runs
from many_models.setting_sections import item_page

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from many_models.orchestration.due import FailureRecord, Stage
    from many_models.ports import Lake
    from many_models.settings import Settings

Metadata = dict[str, dg.MetadataValue | str | int | float | bool]
DUE_TAG = ".dagster/many_models_due"  # not shown; on runs that were found due, not on one that someone starts by hand
VERSION_TAG = "many_models/version"
UPSTREAM_TAG = "many_models/upstream"
CUTOFFS = dg.DynamicPartitionsDefinition(name="cutoffs")
STORE_ITEMS = dg.DynamicPartitionsDefinition(name="store_items")
WORST = 10
PARTITIONS_A_RUN = 1_000_000  # more than any installation has; each stage has a multiple of it as its limit


class KeySet(dg.Config):
    """The scattered partitions that a run is to do; empty: the partition or the range that it was launched for."""

    keys: list[str] = Field(default=[], description="Partition keys, where they are not a contiguous range.")


def backfill_policy(stage: Stage) -> dg.BackfillPolicy:
    """One run for all partitions of a stage.

    Dagster puts neighbouring stages with equal policies into one run. So each stage has its own limit, which no stage
    reaches (docs/decisions/0008-sensors.md): a million for the first one, two for the second. The UI shows it.
    """
    return dg.BackfillPolicy.multi_run(PARTITIONS_A_RUN * (1 + due.ALL_STAGES.index(stage)))


@dataclass(frozen=True, slots=True)
class SeriesResult:
    """A key that a stage has done: the upstream version it consumed, the version it made, what the UI shows of it."""

    upstream: str
    version: str
    metadata: Metadata = field(default_factory=Metadata)


def stage_of(context: dg.AssetExecutionContext) -> Stage:
    """The stage whose asset is running."""
    asset = context.asset_key.to_user_string()
    return next(stage for stage in due.ALL_STAGES if stage == asset)


def refuse_shared_run(context: dg.AssetExecutionContext) -> None:
    """Fail before any work when a run selects more than one stage: a failed series would skip the later stages."""
    selected = {key.to_user_string() for key in context.job_def.asset_layer.executable_asset_keys} & set(due.ALL_STAGES)
    asked = context.run.asset_selection
    chosen = sorted(selected & {key.to_user_string() for key in asked} if asked else selected)
    if len(chosen) > 1:
        raise dg.Failure(
            f"this run selects {len(chosen)} stages ({', '.join(chosen)}), but a series that fails in one would skip "
            "the others for all series. Launch a backfill, which makes a run for each stage, or one stage at a time.",
            allow_retries=False,
        )


def begin(context: dg.AssetExecutionContext, config: KeySet) -> tuple[str, ...]:
    """The keys that this run does, planned with Dagster and claimed for this process; refuses shared runs.

    Those it was launched for, and those of the runs of the same backfill that still wait in the queue.
    """
    refuse_shared_run(context)
    dead_runs.claim_run(context)
    own = runs.keys_of_run(context, config.keys)
    keys = tuple(dict.fromkeys([*own, *runs.sibling_keys(context)]))
    runs.plan(context, keys)
    return keys


def status_rows(lake: Lake, stage: Stage) -> dict[str, FailureRecord]:
    """The current failures of one stage, by key."""
    from many_models.ports import Filter

    rows = lake_tables.records(lake, lake_tables.SERIES_STATUS, Filter(among={"stage": [stage]}))
    names = [part.name for part in fields(due.FailureRecord) if part.name != "tried_with"]
    return {
        row["series_id"]: due.FailureRecord(
            **{name: row[name] for name in names},
            tried_with=row.get("tried_with") or "",  # rows of earlier versions have none: they are tried once more
        )
        for row in rows
    }


def series_set_aside(lake: Lake, tried_with: str | None = None) -> frozenset[str]:
    """The series that are set aside at any stage; with `tried_with`, those that were tried with such settings."""
    return frozenset(
        row["series_id"]
        for row in lake_tables.records(lake, lake_tables.SERIES_STATUS)
        if row["set_aside"] and (tried_with is None or (row.get("tried_with") or "") == tried_with)
    )


def write_status(lake: Lake, stage: Stage, records: Mapping[str, FailureRecord]) -> None:
    """Make `records` the current failures of `stage`."""
    import pyarrow as pa

    from many_models.ports import Filter

    rows = [{"stage": stage, "series_id": key, **asdict(record)} for key, record in sorted(records.items())]
    where = Filter(among={"stage": [stage]})
    lake.replace(
        lake_tables.SERIES_STATUS.name,
        pa.Table.from_pylist(rows, lake_tables.SERIES_STATUS.schema),
        where,
        lake_tables.SERIES_STATUS.partition_by,
    )


def finish(  # noqa: PLR0913, PLR0917  (a run, what it was to do, and what came of it)
    context: dg.AssetExecutionContext,
    settings: Settings,
    lake: Lake,
    keys: Sequence[str],
    done: Mapping[str, SeriesResult],
    failures: Iterable[SeriesFailure],
    upstream: Mapping[str, str],
    summary: Metadata,
) -> None:
    """Record every series' own outcome: materialize the good ones, list the bad ones, and fail the run if any are bad.

    `keys` are the run's; one that is neither done nor failed counts as failed. `upstream` holds the version that each
    of them consumed. Raises dg.Failure, which marks exactly the bad ones FAILED, after everything else is recorded.
    """
    stage = stage_of(context)
    failed = {failure.series_id: failure for failure in failures}
    good = {key: result for key, result in done.items() if key not in failed}
    failed |= without_result(keys, good, failed)
    finished = _record(context, settings, good, failed)
    before = status_rows(lake, stage)
    standing, now_with = {key: record for key, record in before.items() if key not in good}, tried_with(settings)
    for key, failure in failed.items():
        standing[key] = due.after_failure(before.get(key), upstream.get(key, ""), failure, now_with)
    if standing != before:
        write_status(lake, stage, standing)
    lake_marks.record_marks(context.instance, lake)
    runs.settle_siblings(context, finished, {partitions.partition_of(settings, key) for key in failed} - finished)
    context.log_event(
        dg.AssetObservation(context.asset_key, metadata={**summary, "series": len(good), "failed": len(failed)})
    )
    if failed:
        raise dg.Failure(
            f"{_how_many(len(failed), len(good))} failed at {stage}{'; the others are done' if good else ''}. "
            f"First: {next(iter(failed))}: {next(iter(failed.values())).reason}",
            metadata={"failed": len(failed), "reasons": failure_table(list(failed.values()))},
            allow_retries=False,
        )


def without_result(keys: Iterable[str], good: Collection[str], failed: Collection[str]) -> dict[str, SeriesFailure]:
    """A failure for each of `keys` that is neither in `good` nor in `failed`."""
    nothing = "nothing came back for it: materialize the stages before this one for it first"
    return {
        key: SeriesFailure(key, "NothingDone", nothing, permanent=True)
        for key in keys
        if key not in good and key not in failed
    }


def _how_many(failed: int, good: int) -> str:
    return f"{failed} of {good + failed} series" if good else f"all {failed} series" if failed > 1 else "the one series"


def _record(
    context: dg.AssetExecutionContext, settings: Settings, good: Mapping[str, SeriesResult], failed: Collection[str]
) -> set[str]:
    """Materialize the partitions of the good series, and return them."""
    if not settings.partitions.by:
        runs.record(context, materializations(settings, context.asset_key, good))
        return set(good)
    before = history.latest_tags(context.instance, context.asset_key, [UPSTREAM_TAG, VERSION_TAG])
    after = before | {key: {UPSTREAM_TAG: it.upstream, VERSION_TAG: it.version} for key, it in good.items()}
    done = partitions.partitions_of(settings, good)
    bad = partitions.partitions_of(settings, failed)
    runs.record(context, [
        partitions.materialization(
            context, partition, {tag: {name: after[name][tag] for name in names if tag in after[name]}
                                 for tag in (UPSTREAM_TAG, VERSION_TAG)},
            len(bad.get(partition, ())), board_link(settings, partitions.board_page(settings, partition)),
        )
        for partition, names in partitions.partitions_of(settings, sorted(after)).items()
        if partition in done
    ])  # fmt: skip
    return set(done)


def materializations(
    settings: Settings, asset_key: dg.AssetKey, good: Mapping[str, SeriesResult]
) -> list[dg.AssetMaterialization]:
    """The event of each series, with a link to its page."""
    return runs.materializations(
        asset_key,
        (
            (key, {**result.metadata, **board_link(settings, item_page(key))}, tags_of(result))
            for key, result in good.items()
        ),
    )


def board_link(settings: Settings, page: str) -> dict[str, dg.UrlMetadataValue]:
    """Metadata of an event: the board's page about it, where the settings say at which address the board is."""
    return {"board": dg.MetadataValue.url(settings.board.page_url(page))} if settings.board.url else {}


def materialization(asset_key: dg.AssetKey, key: str, result: SeriesResult) -> dg.AssetMaterialization:
    """The event of one key."""
    return dg.AssetMaterialization(asset_key, partition=key, metadata=result.metadata, tags=tags_of(result))


def tags_of(result: SeriesResult) -> dict[str, str]:
    """The versions that what is due is derived from, as tags of an event."""
    return {UPSTREAM_TAG: result.upstream, VERSION_TAG: result.version}


def failure_table(failures: Sequence[SeriesFailure], most: int = 200) -> dg.TableMetadataValue:
    """The failed series with their reasons, for the UI."""
    return table(
        [{"series": f.series_id, "kind": f.kind, "reason": f.reason, "permanent": f.permanent} for f in failures[:most]]
    )


def table(rows: Sequence[Mapping[str, str | int | float | bool | None]]) -> dg.TableMetadataValue:
    """Rows of plain values as a table in the UI."""
    records = [
        dg.TableRecord({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}) for row in rows
    ]
    types: Mapping[type, str] = {str: "string", bool: "bool", int: "int", float: "float"}
    first = rows[0] if rows else {}
    columns = [dg.TableColumn(name, types.get(type(value), "string")) for name, value in first.items()]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))
