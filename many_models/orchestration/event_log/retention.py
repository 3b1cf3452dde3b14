"""Superseded events are deleted; the newest of every partition, and every run, stay.

Each series leaves two events a day at each stage (planned, materialized). What is due, partition health and the UI's
answers about assets are made of the newest of each kind of each partition; older ones are history. Deleting runs would
erase the state of their partitions, so events are deleted instead. Uses Dagster's private API; `private_api` checks it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._core.events import DagsterEventType
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy import and_, delete, func, select, text

from many_models.orchestration.event_log.history import runs_in_flight
from many_models.orchestration.event_log.private_api import require_private_api, sql_event_log

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
    from sqlalchemy import Select

_EVENTS_IN_MEMORY = 200_000  # events that are held in memory
_EVENTS_PER_STATEMENT = 5_000  # events that one statement names
WORTH_A_VACUUM = 0.3  # the share of a SQLite file that must be free
_KINDS = (DagsterEventType.ASSET_MATERIALIZATION.value, DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value)
_TABLE = SqlEventLogStorageTable


@dataclass(frozen=True, slots=True)
class PrunedEvents:
    """What pruning deleted: events, the runs they were of, and the bytes of disk that this freed."""

    events: int = 0
    runs: int = 0
    bytes: int = 0


def prune_events(instance: dg.DagsterInstance, before: datetime, own_run: str = "") -> PrunedEvents:
    """Delete the events of partitions that newer ones of the same kind have superseded, and plans of done checks.

    Only those recorded before `before` (with a zone), and none of a run in flight. While no run but `own_run`, which
    does the pruning, is in flight, the room that they leave in a SQLite file is given back. A crash leaves some of them
    for the next time. Raises MissingDependencyError when the event log is not SQL, or of a Dagster that we do not know.
    """
    require_private_api("pruning of events")
    storage = sql_event_log(instance)
    size = _size(storage)
    busy = [run.run_id for run in runs_in_flight(instance) if run.run_id != own_run]
    events, runs = 0, set[str]()
    while found := _superseded(storage, before.astimezone(UTC).replace(tzinfo=None), busy):
        of_run = defaultdict[str, list[int]](list)
        for event_id, run_id in found:
            of_run[run_id].append(event_id)
        for run_id, ids in of_run.items():
            if isinstance(storage, SqliteEventLogStorage):  # first: the index says what is left to do
                _prune_run_file(storage, run_id, ids)
            _delete(storage, ids)
        events += len(found)
        runs |= of_run.keys()
    checks = _delete_planned_checks(storage, before.astimezone(UTC).replace(tzinfo=None), busy)
    if events or checks:
        _give_back(storage, alone=not busy)
    return PrunedEvents(events, len(runs), max(0, size - _size(storage)))


def _superseded(storage: SqlEventLogStorage, before: datetime, busy: Sequence[str]) -> list[tuple[int, str]]:
    of_partitions = and_(
        _TABLE.c.dagster_event_type.in_(_KINDS), _TABLE.c.asset_key.is_not(None), _TABLE.c.partition.is_not(None)
    )
    newest = (
        select(_TABLE.c.asset_key, _TABLE.c.dagster_event_type, _TABLE.c.partition, func.max(_TABLE.c.id).label("id"))
        .where(of_partitions)
        .group_by(_TABLE.c.asset_key, _TABLE.c.dagster_event_type, _TABLE.c.partition)
        .subquery()
    )
    same = and_(
        _TABLE.c.asset_key == newest.c.asset_key,
        _TABLE.c.dagster_event_type == newest.c.dagster_event_type,
        _TABLE.c.partition == newest.c.partition,
        _TABLE.c.id < newest.c.id,
    )
    query = select(_TABLE.c.id, _TABLE.c.run_id).join(newest, same).where(of_partitions, _TABLE.c.timestamp < before)
    if busy:
        query = query.where(_TABLE.c.run_id.not_in(busy))
    with storage.index_connection() as index:
        return [(row.id, row.run_id) for row in index.execute(query.limit(_EVENTS_IN_MEMORY))]


def _delete_planned_checks(storage: SqlEventLogStorage, before: datetime, busy: Sequence[str]) -> int:
    """Delete what Dagster planned of a check for each partition of a run in which the check then said once, without a
    partition, what it found: 20,000 rows after a first copy of 4,000 days, planned for ever. Returns how many.
    """
    planned, said = AssetCheckExecutionsTable.alias(), AssetCheckExecutionsTable.alias()
    same = and_(*(planned.c[name] == said.c[name] for name in ("asset_key", "check_name", "run_id")))
    over = and_(
        planned.c.execution_status == AssetCheckExecutionRecordStatus.PLANNED.value,
        planned.c.partition.is_not(None),
        planned.c.evaluation_event_timestamp < before,
        said.c.execution_status != AssetCheckExecutionRecordStatus.PLANNED.value,
        said.c.partition.is_(None),
    )
    query = select(planned.c.id).join(said, same).where(over)
    query = query.where(planned.c.run_id.not_in(busy)) if busy else query
    with storage.index_transaction() as index:
        ids = index.execute(query).scalars().all()
        for start in range(0, len(ids), _EVENTS_PER_STATEMENT):
            some = ids[start : start + _EVENTS_PER_STATEMENT]
            index.execute(delete(AssetCheckExecutionsTable).where(AssetCheckExecutionsTable.c.id.in_(some)))
    return len(ids)


def _delete(storage: SqlEventLogStorage, ids: Sequence[int]) -> None:
    with storage.index_transaction() as index:
        for start in range(0, len(ids), _EVENTS_PER_STATEMENT):
            some = ids[start : start + _EVENTS_PER_STATEMENT]
            index.execute(delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(some)))
            index.execute(delete(_TABLE).where(_TABLE.c.id.in_(some)))


# --- SQLite: a run's own file, and the room that deleted rows leave -------------------------------------------------
def _prune_run_file(storage: SqliteEventLogStorage, run_id: str, superseded: Sequence[int]) -> None:
    """Delete from a run's own file what the index is about to lose of it: ids differ, order and content do not."""
    file = Path(storage.path_for_shard(run_id))
    if not file.exists():  # the run was deleted, and Dagster would make the file again
        return
    gone = set(superseded)
    with storage.index_connection() as index:
        stay = Counter(row[1:] for row in index.execute(_events_of(run_id)) if row.id not in gone)
    with storage.run_connection(run_id) as own:
        rows = own.execute(_events_of(run_id)).all()
        ids = list[int]()
        for row in reversed(rows):  # the newest of each partition stay
            if stay[row[1:]]:
                stay[row[1:]] -= 1
            else:
                ids.append(row.id)
        for start in range(0, len(ids), _EVENTS_PER_STATEMENT):
            own.execute(delete(_TABLE).where(_TABLE.c.id.in_(ids[start : start + _EVENTS_PER_STATEMENT])))
    _vacuum_file(storage, run_id)


def _events_of(run_id: str) -> Select[Any, Any, Any, Any]:
    return (
        select(_TABLE.c.id, _TABLE.c.dagster_event_type, _TABLE.c.asset_key, _TABLE.c.partition)
        .where(_TABLE.c.run_id == run_id, _TABLE.c.dagster_event_type.in_(_KINDS), _TABLE.c.partition.is_not(None))
        .order_by(_TABLE.c.id)
    )


def _vacuum_file(storage: SqliteEventLogStorage, shard: str) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(storage.path_for_shard(shard), timeout=60, isolation_level=None)) as file:
        free, pages = (file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_count"))
        if free > WORTH_A_VACUUM * pages:
            file.execute("VACUUM")
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _give_back(storage: SqlEventLogStorage, *, alone: bool) -> None:
    if isinstance(storage, SqliteEventLogStorage):
        if alone:  # it blocks all writers
            _vacuum_file(storage, "index")
    else:
        with storage.index_connection() as connection:  # in autocommit, as VACUUM asks for
            for table in (_TABLE.name, AssetEventTagsTable.name):
                connection.execute(text(f"VACUUM (ANALYZE) {table}"))


def _size(storage: SqlEventLogStorage) -> int:
    if isinstance(storage, SqliteEventLogStorage):
        folder = Path(storage.path_for_shard("index")).parent
        return sum(_bytes(file) for file in folder.glob("*.db*"))
    with storage.index_connection() as connection:
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())


def _bytes(file: Path) -> int:
    """Its size; 0 where it has gone: SQLite deletes the files beside a database when its last reader leaves."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
