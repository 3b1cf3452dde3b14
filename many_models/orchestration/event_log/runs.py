"""Per-series events of a run, in batches: which keys a run owns, what it records, how a run is requested.

Uses Dagster's private API (see `private_api`). Where a new Dagster no longer fits, everything here falls back to the
public API (`public_api`): slow, and with one warning.

The life of a run over many series, in the body of an asset with `output_required=False`:

    keys = keys_of_run(context, config.keys)   # exactly the series this run was asked for
    plan(context, keys)                        # now Dagster knows it too: they are in progress, or failed, or done
    record(context, materializations)          # the good ones
    raise dg.Failure(..., allow_retries=False) # the rest, and only those, are FAILED
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import dagster as dg

from many_models.errors import InputError
from many_models.orchestration.event_log.history import KEYS_FIELD, planned_by_run, planned_partitions
from many_models.orchestration.event_log.private_api import private_api_fits, sql_event_log

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from dagster._core.events import DagsterEvent

BATCH_SIZE = 1000
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
BACKFILL_TAG = "dagster/backfill"
_EVENT_SPACING_SECONDS = 0.001
_PLAIN_TAG = re.compile("[a-z0-9]{1,63}")
_PLAIN: Mapping[type, Callable[[Any], dg.MetadataValue]] = {
    str: dg.TextMetadataValue,
    float: dg.FloatMetadataValue,
    int: dg.IntMetadataValue,
    bool: dg.BoolMetadataValue,
}


# --- What a run owns ------------------------------------------------------------------------------------------------
def keys_of_run(context: dg.AssetExecutionContext, configured: Sequence[str] = ()) -> tuple[str, ...]:
    """The keys this run was asked for, each once, in the run's order.

    `configured` (scattered keys in the run's config) if there are any, else the run's partition or range. Raises
    InputError when the run's partition is not among the configured keys: Dagster would then count it as the run's.
    """
    own = tuple(context.partition_keys) if context.has_partition_key or context.has_partition_key_range else ()
    if not configured:
        if not own:
            asset = context.asset_key.to_user_string()
            raise InputError(f"run {context.run.run_id} of {asset} has no partition and no keys: choose some")
        return own
    keys = tuple(dict.fromkeys(configured))
    if strangers := sorted(set(own) - set(keys)):
        raise InputError(
            f"run {context.run.run_id} has partition {strangers[0]!r} (one of {len(strangers)}), which is not among "
            f"the {len(keys)} keys of its config: start it on one of these, for instance {keys[0]!r}"
        )
    return keys


def plan(context: dg.AssetExecutionContext, keys: Sequence[str]) -> int:
    """Tell Dagster that this run is to materialize `keys`; those it knows of already are left out. Returns how many.

    Dagster plans the partition or the range in a run's tags when it creates the run. Without planned events for the
    others a key that fails would not show as failed, and one in progress not as in progress.
    """
    if not private_api_fits():
        return 0
    from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

    planned = planned_partitions(sql_event_log(context.instance), context.asset_key, [context.run.run_id])
    missing = [key for key in dict.fromkeys(keys) if key not in planned]
    step_key = context.get_step_execution_context().step.key
    _store(
        context,
        (
            DagsterEvent.build_asset_materialization_planned_event(
                context.job_name, step_key, AssetMaterializationPlannedData(context.asset_key, partition=key)
            )
            for key in missing
        ),
    )
    return len(missing)


def materializations(
    asset_key: dg.AssetKey, made: Iterable[tuple[str, Mapping[str, object], Mapping[str, str]]]
) -> list[dg.AssetMaterialization]:
    """What Dagster's constructor makes of each partition with its metadata and tags.

    The constructor takes 25 µs to check an event. Of events that differ in plain values only, it checks the first.
    """
    found, first = list[dg.AssetMaterialization](), None
    quick = private_api_fits()
    for partition, metadata, tags in made:
        values = _plain_metadata(metadata)
        if quick and first is not None and values is not None and _are_alike(tags, first.tags):
            found.append(first._replace(partition=partition, metadata=values, tags=tags))
            continue
        raw = cast("Mapping[str, dg.RawMetadataValue]", metadata)
        first = dg.AssetMaterialization(asset_key, partition=partition, metadata=raw, tags=tags)
        found.append(first)
    return found


def _are_alike(tags: Mapping[str, str], checked: Mapping[str, str] | None) -> bool:
    """Whether Dagster, which takes the tags `checked`, takes `tags`, too: at most 63 letters and digits for a value."""
    return checked is not None and tags.keys() == checked.keys() and all(map(_PLAIN_TAG.fullmatch, tags.values()))


def _plain_metadata(metadata: Mapping[str, object]) -> dict[str, dg.MetadataValue] | None:
    """Metadata as Dagster normalizes it; None where a value is not plain."""
    values = dict[str, dg.MetadataValue]()
    for label, value in metadata.items():
        if (make := _PLAIN.get(type(value))) is not None:
            values[label] = make(value)
        elif isinstance(value, dg.MetadataValue):
            values[label] = value
        else:
            return None
    return values


def record(context: dg.AssetExecutionContext, materializations: Sequence[dg.AssetMaterialization]) -> None:
    """Record the running step's materializations, thousands in a second or two.

    They are what `context.log_event` would record one by one, less a line each in the run's console. Their times are a
    millisecond apart, up to now: the UI pages through an asset's events by the millisecond, and would skip others.
    """
    if not private_api_fits():
        for materialization in materializations:
            context.log_event(materialization)
        return
    if not materializations:
        return
    from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData

    step = context.get_step_execution_context()
    data = StepMaterializationData(materializations[0])
    event = DagsterEvent(
        event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
        job_name=step.job_name,
        step_handle=step.step.handle,
        node_handle=step.step.node_handle,
        step_kind_value=step.step.kind.value,
        logging_tags=step.event_tags,
        event_specific_data=data,
        message="",
        pid=os.getpid(),
    )
    _store(
        context,
        (
            event._replace(
                event_specific_data=data._replace(materialization=materialization),
                message=materialization.description or f"Materialized value {materialization.label}.",
            )
            for materialization in materializations
        ),
        len(materializations) * _EVENT_SPACING_SECONDS,
    )


def _store(context: dg.AssetExecutionContext, events: Iterable[DagsterEvent], seconds: float = 0.0) -> None:
    """Store `events` of the running step in batches, whether or not Dagster's own batching is on in this process.

    `seconds`: over how many, up to now, their times are spread.
    """
    from dagster._core.events.log import EventLogEntry

    run_id = context.run.run_id
    first = (
        math.floor((time.time() - seconds) / _EVENT_SPACING_SECONDS) * _EVENT_SPACING_SECONDS
        + _EVENT_SPACING_SECONDS / 2
    )  # in the middle of its millisecond
    entry = EventLogEntry(
        error_info=None,
        level=logging.DEBUG,
        user_message="",
        run_id=run_id,
        timestamp=first,
        step_key=None,
        job_name=context.job_name,
        dagster_event=None,
    )
    entries = (
        entry._replace(
            user_message="" if event.pid is None else event.message or "",  # as Dagster, outside and inside a step
            timestamp=first + at * _EVENT_SPACING_SECONDS if seconds else time.time(),
            step_key=event.step_key,
            job_name=event.job_name,
            dagster_event=event,
        )
        for at, event in enumerate(events, 1)
    )
    while batch := list(islice(entries, BATCH_SIZE)):
        context.instance.event_log_storage.store_event_batch(batch)


# --- Runs of one backfill -------------------------------------------------------------------------------------------
def sibling_keys(context: dg.AssetExecutionContext) -> tuple[str, ...]:
    """The keys of the runs that wait in the queue for the same asset and the same backfill as this run.

    Dagster makes a run of each contiguous range: 50 scattered series from the UI would be 50 runs, each with a process
    of its own. The first one to start does the others' keys too (after `plan`), and ends them by `settle_siblings`.
    Empty outside a backfill.
    """
    if not private_api_fits():
        return ()
    runs = _waiting_siblings(context)
    keys = planned_by_run(sql_event_log(context.instance), context.asset_key, [run.run_id for run in runs])
    return tuple(dict.fromkeys(key for run in runs for key in keys.get(run.run_id, ())))


def settle_siblings(context: dg.AssetExecutionContext, done: Collection[str], failed: Collection[str]) -> int:
    """End the waiting runs of this backfill whose keys this run has done or seen fail. Returns how many.

    They end as their keys did: SUCCESS, or FAILURE where one of them failed, with a message that names this run. What
    is not settled (this run died before) stays in the queue and is done by the next run. To be called when everything
    is recorded.
    """
    if not private_api_fits():
        return 0
    from dagster._core.events import DagsterEvent, DagsterEventType

    runs = _waiting_siblings(context)
    keys_of = planned_by_run(sql_event_log(context.instance), context.asset_key, [run.run_id for run in runs])
    good, bad, settled = set(done), set(failed), 0
    for run in runs:
        keys = set(keys_of.get(run.run_id, ()))
        if not keys or not keys <= good | bad:
            continue
        message = f"The {len(keys)} series of this run were done by run {context.run.run_id} of the same backfill."
        if keys & bad:
            context.instance.report_run_failed(run, f"{message} {len(keys & bad)} failed.")
        else:
            for kind in (DagsterEventType.PIPELINE_START, DagsterEventType.PIPELINE_SUCCESS):
                context.instance.report_dagster_event(
                    DagsterEvent(kind.value, run.job_name, message=message), run.run_id
                )
        settled += 1
    return settled


def _waiting_siblings(context: dg.AssetExecutionContext) -> Sequence[dg.DagsterRun]:
    run = context.run
    backfill = run.tags.get(BACKFILL_TAG)
    if backfill is None or run.asset_selection != {context.asset_key}:
        return ()
    waiting = dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED], tags={BACKFILL_TAG: backfill})
    return [
        other
        for other in context.instance.get_runs(waiting)
        if other.asset_selection == run.asset_selection and other.run_config == run.run_config
    ]


# --- Asking for a run -----------------------------------------------------------------------------------------------
def stage_request(  # noqa: PLR0913 - all by name
    *,
    job_name: str,
    asset_key: dg.AssetKey,
    keys: Sequence[str],
    all_keys: Sequence[str],
    op_name: str,
    run_key: str | None,
    tags: Mapping[str, str],
) -> dg.RunRequest:
    """One run over exactly `keys`, all of it in the request's tags and config (no `partition_key` to be resolved).

    `all_keys` are the partitions in Dagster's order (insertion). Neighbours in it travel as a range in the run's tags,
    one key as its partition; scattered keys in the run's config, anchored on the first of them, where `keys_of_run`
    finds them. Raises InputError for no keys, and for keys that are not partitions.
    """
    place = {key: at for at, key in enumerate(all_keys)}
    if unknown := [key for key in keys if key not in place]:
        raise InputError(
            f"{len(unknown)} of {len(keys)} keys are not partitions of {asset_key.to_user_string()}, the first "
            f"{unknown[0]!r}: add them to the dynamic partitions first"
        )
    if not keys:
        raise InputError(f"a run of {asset_key.to_user_string()} needs at least one key")
    ordered = sorted(set(keys), key=place.__getitem__)
    first, last = ordered[0], ordered[-1]
    config: dict[str, object] = {}
    partition = {PARTITION_TAG: first}
    if len(ordered) > 1 and place[last] - place[first] == len(ordered) - 1:
        partition = {RANGE_START_TAG: first, RANGE_END_TAG: last}
    elif len(ordered) > 1:
        config = {"ops": {op_name: {"config": {KEYS_FIELD: ordered}}}}
    return dg.RunRequest(
        run_key=run_key,
        job_name=job_name,
        asset_selection=[asset_key],
        run_config=config,
        tags={**tags, **partition},
    )
