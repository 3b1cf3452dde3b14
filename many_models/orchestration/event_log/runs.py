"""Per-series events of a run, in batches: what a run owns, what it recorded, what is due, and which runs died.

With `storage_sqlite` and `storage_postgres` the only user of Dagster's private API, checked by
`private_api_problems`. Where a new Dagster no longer fits, everything here falls back to its public API
(`public_api`): slow, and with one warning.

The life of a run over many series, in the body of an asset with `output_required=False`:

    keys = keys_of_run(context, config.keys)   # exactly the series this run was asked for
    plan(context, keys)                        # now Dagster knows it too: they are in progress, or failed, or done
    record(context, materializations)          # the good ones
    raise dg.Failure(..., allow_retries=False) # the rest, and only those, are FAILED
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import math
import os
import pkgutil
import platform
import re
import time
import warnings
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy import select

from many_models.errors import InputError, MissingDependencyError
from many_models.orchestration.event_log import public_api

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from dagster._core.events import DagsterEvent
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

BATCH_SIZE = 1000
PROCESS_TAG = ".dagster/many_models_process"  # a prefix that the UI does not show
RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"
PARTITION_TAG = "dagster/partition"
BACKFILL_TAG = "dagster/backfill"
KEYS_FIELD = "keys"
MEMBERS = "many_models/members"  # of a partition of several series: tag → series → its value, as JSON metadata
_RUNS_A_QUERY = 500
_APART = 0.001  # seconds
_EXECUTORS_IN_PROCESS = frozenset({"in_process", "execute_in_process_executor"})
_FINISHED = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


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
    if not _fits():
        return 0
    from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent

    planned = _planned_partitions(sql_event_log(context.instance), context.asset_key, [context.run.run_id])
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


def record(context: dg.AssetExecutionContext, materializations: Sequence[dg.AssetMaterialization]) -> None:
    """Record the running step's materializations, thousands in a second or two.

    They are what `context.log_event` would record one by one, less a line each in the run's console. Their times are a
    millisecond apart, up to now: the UI pages through an asset's events by the millisecond, and would skip others.
    """
    if not _fits():
        for materialization in materializations:
            context.log_event(materialization)
        return
    from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData

    step = context.get_step_execution_context()
    _store(
        context,
        (
            DagsterEvent(
                event_type_value=DagsterEventType.ASSET_MATERIALIZATION.value,
                job_name=step.job_name,
                step_handle=step.step.handle,
                node_handle=step.step.node_handle,
                step_kind_value=step.step.kind.value,
                logging_tags=step.event_tags,
                event_specific_data=StepMaterializationData(materialization),
                message=materialization.description or f"Materialized value {materialization.label}.",
                pid=os.getpid(),
            )
            for materialization in materializations
        ),
        len(materializations) * _APART,
    )


def _store(context: dg.AssetExecutionContext, events: Iterable[DagsterEvent], seconds: float = 0.0) -> None:
    """Store `events` of the running step in batches, whether or not Dagster's own batching is on in this process.

    `seconds`: over how many, up to now, their times are spread.
    """
    from dagster._core.events.log import EventLogEntry

    run_id = context.run.run_id
    first = math.floor((time.time() - seconds) / _APART) * _APART + _APART / 2  # in the middle of its millisecond
    entries = (
        EventLogEntry(
            error_info=None,
            level=logging.DEBUG,
            user_message="" if event.pid is None else event.message or "",  # as Dagster, outside and inside a step
            run_id=run_id,
            timestamp=first + at * _APART if seconds else time.time(),
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
    if not _fits():
        return ()
    runs = _waiting_siblings(context)
    keys = _planned_by_run(sql_event_log(context.instance), context.asset_key, [run.run_id for run in runs])
    return tuple(dict.fromkeys(key for run in runs for key in keys.get(run.run_id, ())))


def settle_siblings(context: dg.AssetExecutionContext, done: Collection[str], failed: Collection[str]) -> int:
    """End the waiting runs of this backfill whose keys this run has done or seen fail. Returns how many.

    They end as their keys did: SUCCESS, or FAILURE where one of them failed, with a message that names this run. What
    is not settled (this run died before) stays in the queue and is done by the next run. To be called when everything
    is recorded.
    """
    if not _fits():
        return 0
    from dagster._core.events import DagsterEvent, DagsterEventType

    runs = _waiting_siblings(context)
    keys_of = _planned_by_run(sql_event_log(context.instance), context.asset_key, [run.run_id for run in runs])
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
    finds them. Raises InputError for no keys, and for keys that are no partitions.
    """
    place = {key: at for at, key in enumerate(all_keys)}
    if unknown := [key for key in keys if key not in place]:
        raise InputError(
            f"{len(unknown)} of {len(keys)} keys are no partitions of {asset_key.to_user_string()} ({unknown[0]!r} is "
            "one): add them to the dynamic partitions first"
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


# --- What was recorded ----------------------------------------------------------------------------------------------
def latest_tags(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, tag_keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Every materialized partition → those of `tag_keys` that its newest materialization carries. One query.

    A partition of several series (its metadata has MEMBERS) comes as these.
    """
    found: dict[str, dict[str, str]] = {}
    if not _fits():
        for partition, entry in public_api.newest_materializations(instance, asset_key).items():
            found |= _tags_of(partition, entry.asset_materialization, tag_keys)
        return found
    from dagster._core.events import DagsterEventType
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    storage = sql_event_log(instance)
    newest = storage._latest_event_ids_by_partition_subquery(  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        asset_key, [DagsterEventType.ASSET_MATERIALIZATION]
    )
    table = SqlEventLogStorageTable
    query = select(newest.c.partition, table.c.event).select_from(newest.join(table, table.c.id == newest.c.id))
    with storage.index_connection() as index:
        rows = index.execute(query.order_by(newest.c.id)).all()
    for partition, event in rows:
        made = json.loads(event)["dagster_event"]["event_specific_data"]["materialization"]
        members = [entry["entry_data"]["data"] for entry in made["metadata_entries"] if entry["label"] == MEMBERS]
        found |= _tags_in(partition, made.get("tags") or {}, members[0] if members else None, tag_keys)
    return found


def _tags_of(
    partition: str, made: dg.AssetMaterialization | None, tag_keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    members = made.metadata.get(MEMBERS) if made else None
    held = members.data if isinstance(members, dg.JsonMetadataValue) else None
    return _tags_in(partition, (made.tags if made else None) or {}, held if isinstance(held, dict) else None, tag_keys)


def _tags_in(
    partition: str, tags: Mapping[str, str], members: Mapping[str, Mapping[str, str]] | None, tag_keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    if not members:
        return {partition: {key: tags[key] for key in tag_keys if key in tags}}
    of_series: dict[str, dict[str, str]] = {}
    for key in tag_keys:
        for name, value in members.get(key, {}).items():
            of_series.setdefault(name, {})[key] = value
    return of_series


def failed_partitions(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> dict[str, str]:
    """Every partition that Dagster shows as failed → the run that failed it.

    That is: its newest planned event has no materialization after it or in the same run, and the run's status is
    FAILURE.
    """
    if not _fits():
        return public_api.failed(instance, asset_key)
    attempts = sql_event_log(instance).get_latest_asset_partition_materialization_attempts_without_materializations(
        asset_key
    )
    runs = {run_id for run_id, _ in attempts.values()}
    failed = {run.run_id for run in _runs(instance, sorted(runs)) if run.status is dg.DagsterRunStatus.FAILURE}
    return {partition: run_id for partition, (run_id, _) in attempts.items() if run_id in failed}


def _runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> Iterable[dg.DagsterRun]:
    for start in range(0, len(run_ids), _RUNS_A_QUERY):
        yield from instance.get_runs(dg.RunsFilter(run_ids=run_ids[start : start + _RUNS_A_QUERY]))


# --- What is running ------------------------------------------------------------------------------------------------
def runs_in_flight(instance: dg.DagsterInstance, job_names: Sequence[str] = ()) -> tuple[dg.DagsterRun, ...]:
    """The runs that are queued, starting, running or being cancelled; only those of `job_names` if there are any.

    A backfill from the UI runs assets under a job name of Dagster's own: ask `keys_in_flight` about those.
    """
    unfinished = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
    runs = instance.get_runs(dg.RunsFilter(statuses=unfinished))
    return tuple(run for run in runs if not job_names or run.job_name in job_names)


def keys_in_flight(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> frozenset[str]:
    """The partitions of `asset_key` that runs in flight own, whoever started them, whether or not they began."""
    runs = runs_in_flight(instance)
    if not runs:
        return frozenset()
    op_name = asset_key.to_python_identifier()
    configured = {key for run in runs for key in _configured_keys(run, op_name)}
    run_ids = [run.run_id for run in runs]
    if not _fits():
        planned = public_api.planned(instance, asset_key, run_ids).values()
        return frozenset({key for keys in planned for key in keys} | configured)
    return frozenset(_planned_partitions(sql_event_log(instance), asset_key, run_ids) | configured)


def _configured_keys(run: dg.DagsterRun, op_name: str) -> Sequence[str]:
    config: object = run.run_config
    for name in ("ops", op_name, "config", KEYS_FIELD):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, list) else ()


def _planned_partitions(storage: SqlEventLogStorage, asset_key: dg.AssetKey, run_ids: Sequence[str]) -> set[str]:
    return {key for keys in _planned_by_run(storage, asset_key, run_ids).values() for key in keys}


def _planned_by_run(
    storage: SqlEventLogStorage, asset_key: dg.AssetKey, run_ids: Sequence[str]
) -> dict[str, list[str]]:
    from dagster._core.events import DagsterEventType
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable
    planned: dict[str, list[str]] = {}
    with storage.index_connection() as index:
        for start in range(0, len(run_ids), _RUNS_A_QUERY):
            query = select(table.c.run_id, table.c.partition).where(
                table.c.asset_key == asset_key.to_string(),
                table.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
                table.c.run_id.in_(run_ids[start : start + _RUNS_A_QUERY]),
                table.c.partition.is_not(None),
            )
            for run_id, partition in index.execute(query.order_by(table.c.id)):
                planned.setdefault(run_id, []).append(partition)
    return planned


def ensure_pools(instance: dg.DagsterInstance, pools: Collection[str], limit: int = 1) -> None:
    """Give those of `pools` that have no limit yet one: `limit` runs at a time.

    The default limit of dagster.yaml alone comes too late: Dagster notices a new pool only after the first runs that
    name it have been launched, all at once.
    """
    log = instance.event_log_storage
    if not all(hasattr(log, name) for name in ("get_pool_limits", "set_concurrency_slots")):
        _fits()  # says what is gone
        return
    known = {pool.name for pool in log.get_pool_limits()}
    for pool in sorted(set(pools) - known):
        log.set_concurrency_slots(pool, limit)


# --- Runs whose process is gone -------------------------------------------------------------------------------------
def process_tag() -> dict[str, str]:
    """The run tag that names this process on this host, to be given to every run that happens inside it."""
    return {PROCESS_TAG: _this_process()}


def claim_run(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> None:
    """Name this process in the tags of a run that the daemon launched, so that `dead_runs` can tell when it is gone.

    Only under the in-process executor: under another one the step's process ends before its run does.
    """
    executor = context.job_def.executor_def.name
    if executor in _EXECUTORS_IN_PROCESS and PROCESS_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, process_tag())


def dead_runs(instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, ...]:
    """The unfinished runs whose process, named in their tags, is gone from this host.

    Processes of other hosts, and runs without the tag, are unknown, hence not dead.
    """
    return tuple(run for run in runs_in_flight(instance) if PROCESS_TAG in run.tags and _is_gone(run.tags[PROCESS_TAG]))


def mark_dead_runs_failed(instance: dg.DagsterInstance) -> tuple[str, ...]:
    """Mark the dead runs failed, so that their keys are no longer in flight. Returns their run ids."""
    marked: list[str] = []
    for run in dead_runs(instance):
        current = instance.get_run_by_id(run.run_id)  # it may have finished since the list was read
        if current is not None and not current.is_finished:
            process = run.tags[PROCESS_TAG]
            instance.report_run_failed(current, f"The process of this run is gone ({process}): killed.")
            marked.append(run.run_id)
    return tuple(marked)


HIDDEN = "hidden"


def _this_process() -> str:
    pid = os.getpid()
    return f"{platform.node()} {_boot()} {_pid_namespace()} {pid} {_started(pid)}"


def _is_gone(process: str) -> bool:
    host, boot, namespace, pid, started = (process.split(" ") + [""] * 5)[:5]
    if host != platform.node() or not pid.isdigit():
        return False
    if boot != _boot():
        return True
    return namespace == _pid_namespace() and _started(int(pid)) not in {started, HIDDEN}


def _boot() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip()[:8] if boot.exists() else "-"


def _pid_namespace() -> str:
    namespace = Path("/proc/self/ns/pid")
    return re.sub(r"\D", "", str(namespace.readlink())) if namespace.exists() else "-"


def _started(pid: int) -> str:
    """Seconds from the machine's start to that of process `pid`, which a change of the clock does not move.

    "gone" when there is no such process, or only its zombie; HIDDEN when its owner does not let us see it.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "gone"
        return f"{process.create_time() - psutil.boot_time():.2f}"
    except (psutil.NoSuchProcess, ValueError):
        return "gone"
    except psutil.AccessDenied:
        return HIDDEN


# --- Dagster's private API ------------------------------------------------------------------------------------------
_EVENTS = "dagster._core.events"
_EVENT_LOG = "dagster._core.storage.event_log"
_SQL = f"{_EVENT_LOG}.sql_event_log:SqlEventLogStorage"
_SQLITE = f"{_EVENT_LOG}.sqlite.sqlite_event_log:SqliteEventLogStorage"
_TABLE = f"{_EVENT_LOG}.schema:SqlEventLogStorageTable.c"
_STORAGE = "dagster._core.storage.sqlite_storage:DagsterSqliteStorage"
_POSTGRES = "dagster_postgres.event_log:PostgresEventLogStorage"
_POSTGRES_STORAGE = "dagster_postgres.storage:DagsterPostgresStorage"
_POSTGRES_API = {  # of the extra `postgres`
    _POSTGRES: "postgres_url should_autocreate_tables inst_data token_provider",
    f"{_POSTGRES}.store_event": "self event",
    f"{_POSTGRES}.index_connection": "self",
    f"{_POSTGRES}.index_transaction": "self",
    f"{_POSTGRES}._event_to_row": "self event",
    f"{_POSTGRES}._store_asset_event_tags": "self conn events event_ids",
    f"{_POSTGRES}._store_asset_event": "self conn event event_id",
    _POSTGRES_STORAGE: "postgres_url should_autocreate_tables inst_data token_provider",
    "dagster_postgres.utils:pg_url_from_config": "config_value",
    "dagster_postgres.utils:get_token_provider_from_config": "config_value",
}
_PRIVATE_API = {  # what is used → the parameters it is used with, or None for what is no function
    f"{_EVENTS}:DagsterEvent": "event_type_value job_name step_handle node_handle step_kind_value logging_tags "
    "event_specific_data message pid",
    f"{_EVENTS}:DagsterEvent.build_asset_materialization_planned_event": "job_name step_key "
    "asset_materialization_planned_data",
    f"{_EVENTS}:AssetMaterializationPlannedData": "asset_key partition",
    f"{_EVENTS}:StepMaterializationData": "materialization",
    f"{_EVENTS}.log:EventLogEntry": "error_info level user_message run_id timestamp step_key job_name dagster_event",
    f"{_EVENTS}:DagsterEventType.ASSET_MATERIALIZATION": None,
    f"{_EVENTS}:DagsterEventType.ASSET_MATERIALIZATION_PLANNED": None,
    f"{_EVENTS}:ASSET_EVENTS": None,
    "dagster:AssetExecutionContext.get_step_execution_context": "self",
    f"{_EVENTS}:DagsterEventType.PIPELINE_START": None,
    f"{_EVENTS}:DagsterEventType.PIPELINE_SUCCESS": None,
    "dagster:DagsterInstance.report_dagster_event": "self dagster_event run_id",
    "dagster:DagsterInstance.report_run_failed": "self dagster_run message",
    f"{_EVENT_LOG}.schema:AssetEventTagsTable.c.event_id": None,
    f"{_SQLITE}.path_for_shard": "self run_id",
    f"{_EVENT_LOG}.base:EventLogStorage.store_event_batch": "self events",
    f"{_EVENT_LOG}.base:EventLogStorage.get_pool_limits": "self",
    f"{_EVENT_LOG}.base:EventLogStorage.set_concurrency_slots": "self concurrency_key num",
    f"{_SQL}._latest_event_ids_by_partition_subquery": "self asset_key event_types",
    f"{_SQL}.get_latest_asset_partition_materialization_attempts_without_materializations": "self asset_key",
    **{
        f"{_TABLE}.{column}": None
        for column in ("id", "run_id", "event", "dagster_event_type", "asset_key", "partition", "timestamp")
    },
    f"{_SQLITE}.store_event": "self event",
    f"{_SQLITE}.run_connection": "self run_id",
    f"{_SQLITE}.index_connection": "self",
    f"{_SQLITE}.index_transaction": "self",
    f"{_SQLITE}._event_to_row": "self event",
    f"{_SQLITE}._store_asset_event_tags": "self conn events event_ids",
    f"{_SQLITE}._store_asset_event": "self conn event event_id",
    f"{_SQLITE}._store_asset_check_evaluation_planned": "self event event_id",
    **{
        f"{_EVENT_LOG}.schema:AssetCheckExecutionsTable.c.{column}": None
        for column in "id asset_key check_name partition run_id execution_status evaluation_event_timestamp".split()
    },
    "dagster._core.storage.asset_check_execution_record:AssetCheckExecutionRecordStatus.PLANNED": None,
    "dagster_shared.serdes:serialize_value": None,
    f"{_SQLITE}._event_insert_timestamp": "self event",
    **(_POSTGRES_API if importlib.util.find_spec("dagster_postgres") else {}),
    _STORAGE: "base_dir inst_data",
    f"{_STORAGE}.from_local": "base_dir inst_data",
    "dagster._core.storage.local_compute_log_manager:LocalComputeLogManager": "base_dir polling_timeout inst_data",
}


@cache
def private_api_problems() -> tuple[str, ...]:
    """What this Dagster lacks of the private API that this module and dagster_storage use; empty when it fits."""
    return tuple(problem for name, parameters in _PRIVATE_API.items() if (problem := _problem(name, parameters)))


def _problem(name: str, parameters: str | None) -> str:
    try:
        found = pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return f"{name} is gone"
    if parameters is None:
        return ""
    used = parameters.split()
    takes = inspect.signature(found).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in takes.values() if p.default is p.empty and p.kind not in variadic]
    if lacking := [*(p for p in used if p not in takes), *(p for p in required if p not in used)]:
        return f"{name} takes ({', '.join(takes)}), expected ({', '.join(used)}); differs in {', '.join(lacking)}"
    return ""


def _fits() -> bool:
    problems = private_api_problems()
    if problems:
        _warn_once(
            f"Dagster {dg.__version__} has changed what many_models records events with ({'; '.join(problems)}). "
            "Falling back to its public API: each series is stored by itself, about 60 ms each; series outside a run's "
            "own partition range do not show as in progress or failed; each contiguous range of a backfill takes a run "
            "of its own; old events are not pruned. Install the Dagster that pyproject.toml names."
        )
    return not problems


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def require_private_api(what: str) -> None:
    """Raises MissingDependencyError when this Dagster is one whose events `what` cannot be done to."""
    if problems := private_api_problems():
        raise MissingDependencyError(
            f"{what} needs the Dagster that pyproject.toml names; of Dagster {dg.__version__}, {'; '.join(problems)}"
        )


def sql_event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    """The instance's event log as SQL. Raises MissingDependencyError when it is none, or no longer the one we know."""
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise MissingDependencyError(
            f"the event log of this Dagster instance is a {type(storage).__name__}, not one of SQLite or PostgreSQL: "
            "what is due cannot be read from it; set `storage:` in dagster.yaml as many_models' own dagster.yaml does"
        )
    return storage
