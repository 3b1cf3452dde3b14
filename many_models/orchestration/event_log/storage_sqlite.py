"""Dagster's SQLite storage with an event log that stores a batch of events in two transactions instead of thousands.

The stock event log takes two transactions (the run's file, then the index) and two engines for every single event:
60 ms each, ten minutes for a run over 10,000 series. Used from dagster.yaml:

    storage:
      custom:
        module: many_models.orchestration.event_log.storage_sqlite
        class: BatchedSqliteStorage
        config: {base_dir: var/dagster}
    compute_logs:
      module: many_models.orchestration.event_log.storage_sqlite
      class: ComputeLogs
      config: {base_dir: var/dagster/storage}

Uses Dagster's private API; `private_api.private_api_problems` checks it.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from filelock import FileLock
from sqlalchemy import func, select

from many_models.errors import SettingsError
from many_models.orchestration.event_log.event_rows import rows_of
from many_models.orchestration.event_log.private_api import private_api_problems
from many_models.orchestration.event_log.runs import BATCH_SIZE
from many_models.orchestration.event_log.sqlite_files import SqliteEvents, SqliteRuns, SqliteSchedules

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from dagster._core.events.log import EventLogEntry
    from dagster._serdes import ConfigurableClassData
    from sqlalchemy import Connection

_TABLE = SqlEventLogStorageTable
_HOME = ContextVar[Path | None]("home", default=None)
LOCK = ".storage.lock"
BATCH_SIZE_VARIABLE = "DAGSTER_EVENT_BATCH_SIZE"


def is_asset_event(entry: EventLogEntry) -> bool:
    """Whether the event is about an asset, so that the event log indexes it."""
    from dagster._core.events import ASSET_EVENTS

    return entry.is_dagster_event and entry.dagster_event_type in ASSET_EVENTS


class InBatches(EventLogStorage):
    """An event log that stores a batch's events about assets together."""

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store `events` in order; those about assets together, any other (a planned check) by itself."""
        if private_api_problems():
            for event in events:
                self.store_event(event)
            return
        for about_assets, group in groupby(events, is_asset_event):
            if about_assets:
                self._store_asset_events(list(group))
            else:
                for event in group:
                    self.store_event(event)

    @contextmanager
    def only_run(self) -> Generator[None]:
        """Held by one `many-models run` at a time, wherever it runs; here, where all runs share a folder and its file
        lock is enough, it does nothing. Raises UnavailableError where another run holds it.
        """
        yield

    @abstractmethod
    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        """Store events that are all about assets, whole or not at all."""


class BatchedSqliteEventLog(InBatches, SqliteEvents):
    """An event log whose batches leave exactly what the stock log's single events leave."""

    def _store_asset_check_evaluation_planned(self, event: EventLogEntry, event_id: int | None) -> None:
        """Store the stock rows, one a partition. Their common event is written once; no statement holds all values."""
        if private_api_problems():
            super()._store_asset_check_evaluation_planned(event, event_id)
            return
        from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

        with self.index_transaction() as index:
            index.execute(AssetCheckExecutionsTable.insert(), self._planned_check_rows(event, event_id))

    def _planned_check_rows(self, event: EventLogEntry, event_id: int | None) -> list[dict[str, object]]:
        from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
        from dagster_shared.serdes import serialize_value

        assert event.dagster_event is not None
        planned = event.dagster_event.asset_check_planned_data
        partitions = planned.partitions_subset.get_partition_keys() if planned.partitions_subset else [None]
        common = {
            "asset_key": planned.asset_key.to_string(),
            "check_name": planned.check_name,
            "run_id": event.run_id,
            "execution_status": AssetCheckExecutionRecordStatus.PLANNED.value,
            "evaluation_event": serialize_value(event),
            "evaluation_event_timestamp": self._event_insert_timestamp(event),
            "evaluation_event_storage_id": event_id,
        }
        return [{**common, "partition": partition} for partition in partitions]

    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        rows = rows_of(events)
        stored: dict[str, Sequence[int]] = {}
        try:
            for run_id in dict.fromkeys(event.run_id for event in events):
                with self.run_connection(run_id) as run_file:
                    stored[run_id] = _insert(run_file, [row for row in rows if row["run_id"] == run_id])
            with self.index_transaction() as index:
                ids = _insert(index, rows)
                self._store_asset_event_tags(index, events, ids)
                for at in newest_by_asset(rows):
                    self._store_asset_event(index, events[at], ids[at])
        except BaseException:
            # Dagster stores the events of a failed batch again, one by one: they must not be in a run twice
            for run_id, ids in stored.items():
                with self.run_connection(run_id) as run_file:
                    run_file.execute(_TABLE.delete().where(_TABLE.c.id.between(ids[0], ids[-1])))
            raise


def newest_by_asset(rows: Sequence[Mapping[str, object]]) -> Sequence[int]:
    """The place of the newest event of each kind for each asset, in the order of the assets."""
    newest: dict[object, dict[object, int]] = {}
    for at, row in enumerate(rows):
        newest.setdefault(row["asset_key"], {})[row["dagster_event_type"]] = at
    return [at for kinds in newest.values() for at in sorted(kinds.values())]


def _insert(connection: Connection, rows: Sequence[Mapping[str, object]]) -> Sequence[int]:
    """Insert `rows` of the event log in order; their ids, ascending.

    The ids follow each other: the first row locks the file for this transaction, and SQLite then counts up from the
    highest id. Without RETURNING, which costs as much as the rows.
    """
    connection.execute(_TABLE.insert(), rows)
    last = connection.execute(select(func.last_insert_rowid())).scalar_one()
    return range(last - len(rows) + 1, last + 1)


class BatchedSqliteStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage (runs, events, schedules under `base_dir`) with batches of events.

    A relative `base_dir` counts from DAGSTER_HOME, so that the webserver, the daemon, code servers and run workers
    mean the same folder whatever their working directory; without it, from the working directory, which must then be
    the folder of dagster.yaml. The first use in a process turns Dagster's batching of
    planned events on, unless DAGSTER_EVENT_BATCH_SIZE is set (0 turns it off): no variable has to be exported.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        folder = Path(base_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):  # two processes that make the tables at once would leave them damaged
            super().__init__(base_dir, inst_data=inst_data)
            if not private_api_problems():
                self._run_storage = SqliteRuns(self._run_storage._conn_string)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
                self._schedule_storage = SqliteSchedules(self._schedule_storage._conn_string)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            self._event_log_storage = BatchedSqliteEventLog(self._event_log_storage._base_dir)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        os.environ.setdefault(BATCH_SIZE_VARIABLE, str(BATCH_SIZE))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # type: ignore[override]
        """The storage that dagster.yaml describes. Raises SettingsError for a relative folder without DAGSTER_HOME."""
        return cls.from_local(**_at_home(config_value), inst_data=inst_data)


class ComputeLogs(LocalComputeLogManager):
    """Dagster's files of what runs print, its `base_dir` counted as `BatchedSqliteStorage` counts its own."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # type: ignore[override]
        """The files that dagster.yaml describes. Raises SettingsError for a relative folder without DAGSTER_HOME."""
        return cls(**_at_home(config_value), inst_data=inst_data)


@contextmanager
def counting_from(home: Path) -> Generator[None]:
    """Within it relative folders count from `home`, which is the folder of the dagster.yaml that is read."""
    before = _HOME.set(home)
    try:
        yield
    finally:
        _HOME.reset(before)


def _at_home(config: Mapping[str, Any]) -> dict[str, Any]:
    folder = Path(config["base_dir"])
    if not folder.is_absolute():
        folder = _home(folder) / folder
    return {**config, "base_dir": str(folder)}


def _home(folder: Path) -> Path:
    if (given := _HOME.get()) is not None:
        return given
    if named := os.environ.get("DAGSTER_HOME"):
        return Path(named)
    here = Path.cwd()
    if not (here / "dagster.yaml").is_file():
        raise SettingsError(
            f"base_dir {str(folder)!r} in dagster.yaml counts from DAGSTER_HOME, which is not set, and there is no "
            f"dagster.yaml in {here}: export DAGSTER_HOME=<the folder of dagster.yaml>, or write an absolute base_dir"
        )
    return here
