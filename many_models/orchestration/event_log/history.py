"""What an instance has recorded, and what is in flight: materializations, failures, planned partitions, pools."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from many_models.orchestration.event_log import public_api
from many_models.orchestration.event_log.private_api import private_api_fits, sql_event_log, sql_runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage


KEYS_FIELD = "keys"
MEMBERS = "many_models/members"  # of a partition of several series: tag → series → its value, as JSON metadata
_TAGS = '"tags": {'  # in the text of an event; within a text of it, the quotes would be escaped
_DECODER = json.JSONDecoder()
_RUNS_PER_QUERY = 500
_FINISHED = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})


def latest_tags(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, tag_keys: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Every materialized partition → those of `tag_keys` that its newest materialization carries. One query.

    A partition of several series (its metadata has MEMBERS) comes as these.
    """
    found: dict[str, dict[str, str]] = {}
    if not private_api_fits():
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
        if MEMBERS not in event and event.count(_TAGS) == 1:  # all of an event is ten times as much text
            tags, _ = _DECODER.raw_decode(event, event.index(_TAGS) + len(_TAGS) - 1)
            found[partition] = {key: tags[key] for key in tag_keys if key in tags}
            continue
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
    if not private_api_fits():
        return public_api.failed(instance, asset_key)
    attempts = sql_event_log(instance).get_latest_asset_partition_materialization_attempts_without_materializations(
        asset_key
    )
    runs = {run_id for run_id, _ in attempts.values()}
    failed = {run.run_id for run in _runs(instance, sorted(runs)) if run.status is dg.DagsterRunStatus.FAILURE}
    return {partition: run_id for partition, (run_id, _) in attempts.items() if run_id in failed}


def _runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> Iterable[dg.DagsterRun]:
    for start in range(0, len(run_ids), _RUNS_PER_QUERY):
        yield from instance.get_runs(dg.RunsFilter(run_ids=run_ids[start : start + _RUNS_PER_QUERY]))


def runs_in_flight(instance: dg.DagsterInstance, job_names: Sequence[str] = ()) -> tuple[dg.DagsterRun, ...]:
    """The runs that are queued, starting, running or being cancelled; only those of `job_names` if there are any.

    A backfill from the UI runs assets under a job name of Dagster's own: ask `keys_in_flight` about those.
    """
    unfinished = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
    runs = instance.get_runs(dg.RunsFilter(statuses=unfinished))
    return tuple(run for run in runs if not job_names or run.job_name in job_names)


def keys_in_flight(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, in_flight: Sequence[dg.DagsterRun] | None = None
) -> frozenset[str]:
    """The partitions of `asset_key` that runs in flight own, whoever started them, whether or not they began.

    `in_flight`: those runs, where they have been asked for already.
    """
    runs = runs_in_flight(instance) if in_flight is None else in_flight
    if not runs:
        return frozenset()
    op_name = asset_key.to_python_identifier()
    configured = {key for run in runs for key in _configured_keys(run, op_name)}
    run_ids = [run.run_id for run in runs]
    if not private_api_fits():
        planned = public_api.planned(instance, asset_key, run_ids).values()
        return frozenset({key for keys in planned for key in keys} | configured)
    return frozenset(planned_partitions(sql_event_log(instance), asset_key, run_ids) | configured)


def _configured_keys(run: dg.DagsterRun, op_name: str) -> Sequence[str]:
    config: object = run.run_config
    for name in ("ops", op_name, "config", KEYS_FIELD):
        config = config.get(name) if isinstance(config, dict) else None
    return config if isinstance(config, list) else ()


@dataclass(frozen=True, slots=True)
class RunsMark:
    """Which runs are stored: the newest one (its row and its id), and how many there are."""

    row: int = 0
    run_id: str = ""
    count: int = 0


def runs_mark(instance: dg.DagsterInstance) -> RunsMark:
    """The runs that are stored now. It reads one row and an index, not the runs: there are thousands after a year."""
    from dagster._core.storage.runs.schema import RunsTable

    newest = select(RunsTable.c.id, RunsTable.c.run_id).order_by(RunsTable.c.id.desc()).limit(1)
    with sql_runs(instance).connect() as connection:
        row = connection.execute(newest).first()
        count = connection.execute(select(func.count()).select_from(RunsTable)).scalar_one()
    return RunsMark(row.id, row.run_id, count) if row else RunsMark()


def lost_runs(instance: dg.DagsterInstance, before: RunsMark, now: RunsMark) -> bool:
    """Whether a run that was stored at `before` has been deleted. SQLite gives the row of a deleted newest run to the
    next one, so the run of that row is compared, too.
    """
    from dagster._core.storage.runs.schema import RunsTable

    if now == before:
        return False
    of_row = select(RunsTable.c.run_id).where(RunsTable.c.id == before.row)
    later = select(func.count()).select_from(RunsTable).where(RunsTable.c.id > before.row)
    with sql_runs(instance).connect() as connection:
        if before.count and connection.execute(of_row).scalar() != before.run_id:
            return True
        return now.count - connection.execute(later).scalar_one() < before.count


def newest_events(instance: dg.DagsterInstance, asset_keys: Sequence[dg.AssetKey]) -> list[object] | None:
    """Values that change whenever an event of an asset is stored, a run is deleted, or one of `asset_keys` is wiped;
    three small queries. None where this Dagster does not tell.
    """
    if not private_api_fits():
        return None
    newest = newest_materializations(instance, asset_keys) or {}
    return [instance.event_log_storage.get_maximum_record_id(), runs_mark(instance), sorted(newest.items())]


def newest_materializations(
    instance: dg.DagsterInstance, asset_keys: Sequence[dg.AssetKey]
) -> dict[str, int | None] | None:
    """Asset → the id of its newest materialization, in one small query; None where this Dagster does not tell."""
    if not private_api_fits():
        return None
    return {
        record.asset_entry.asset_key.to_user_string(): entry.storage_id if entry else None
        for record in instance.get_asset_records(asset_keys)
        for entry in [record.asset_entry.last_materialization_record]
    }


def planned_partitions(storage: SqlEventLogStorage, asset_key: dg.AssetKey, run_ids: Sequence[str]) -> set[str]:
    """The partitions of `asset_key` that these runs planned to materialize."""
    return {key for keys in planned_by_run(storage, asset_key, run_ids).values() for key in keys}


def planned_by_run(storage: SqlEventLogStorage, asset_key: dg.AssetKey, run_ids: Sequence[str]) -> dict[str, list[str]]:
    """Run → the partitions of `asset_key` that it planned to materialize, in the order of their events."""
    from dagster._core.events import DagsterEventType
    from dagster._core.storage.event_log.schema import SqlEventLogStorageTable

    table = SqlEventLogStorageTable
    planned: dict[str, list[str]] = {}
    with storage.index_connection() as index:
        for start in range(0, len(run_ids), _RUNS_PER_QUERY):
            query = select(table.c.run_id, table.c.partition).where(
                table.c.asset_key == asset_key.to_string(),
                table.c.dagster_event_type == DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value,
                table.c.run_id.in_(run_ids[start : start + _RUNS_PER_QUERY]),
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
        private_api_fits()  # says what is gone
        return
    known = {pool.name for pool in log.get_pool_limits()}
    for pool in sorted(set(pools) - known):
        try:
            log.set_concurrency_slots(pool, limit)
        except IntegrityError:  # another process has just given it one
            if pool not in {there.name for there in log.get_pool_limits()}:
                raise
