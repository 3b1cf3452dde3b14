"""The files of Dagster's SQLite storage, opened for less: one engine a file, and a run's file copied from a ready one.

The stock storage makes a new engine for each statement, which compiles each statement again, and makes the tables of
each run's file one by one and asks Alembic for their revision. Both were a fifth of a small day's processor time.

Uses Dagster's private API; `private_api.private_api_problems` checks it.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from uuid import uuid4

from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.schedules.sqlite.sqlite_schedule_storage import SqliteScheduleStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from many_models.orchestration.event_log.private_api import private_api_problems

if TYPE_CHECKING:
    from collections.abc import Generator

    from sqlalchemy import Connection, Engine

ENGINES_KEPT = 64  # a run's file is asked for while the run lasts; the others are asked for all the time


@lru_cache(maxsize=ENGINES_KEPT)
def engine_of(url: str, timeout_seconds: float | None = None) -> Engine:
    """The engine of a SQLite file; it keeps no connection, so that forked processes may share it.

    `timeout_seconds`: how long a statement waits for others' locks (None: SQLite's own default).
    """
    waits = {} if timeout_seconds is None else {"timeout": timeout_seconds}
    return create_engine(url, poolclass=NullPool, connect_args=waits)


class SqliteRuns(SqliteRunStorage):
    """Dagster's file of runs with one engine."""

    @contextmanager
    def connect(self) -> Generator[Connection]:
        """A connection within a transaction."""
        with engine_of(self._conn_string).connect() as connection, connection.begin():
            yield connection


class SqliteSchedules(SqliteScheduleStorage):
    """Dagster's file of schedules and sensors with one engine."""

    @contextmanager
    def connect(self) -> Generator[Connection]:
        """A connection within a transaction."""
        with engine_of(self._conn_string).connect() as connection, connection.begin():
            yield connection


class SqliteEvents(SqliteEventLogStorage):
    """Dagster's event log, a file for each run beside the index, with one engine for each file."""

    _made = b""
    """A run's file as the stock storage makes it, the same for every instance: the first one that this process made."""

    def __init__(self, base_dir: str) -> None:
        self._one_at_a_time = threading.Lock()
        super().__init__(base_dir)

    @contextmanager
    def _connect(self, shard: str) -> Generator[Connection]:
        """A connection to the file of `shard` within a transaction; one at a time, as the stock storage has it."""
        if private_api_problems():
            with super()._connect(shard) as connection:
                yield connection
            return
        with self._one_at_a_time:
            engine = engine_of(self.conn_string_for_shard(shard), SQLITE_BUSY_TIMEOUT_SECONDS)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:  # noqa: FBT001, FBT002  Dagster's signature
        """Make the tables of a file that has none."""
        path = Path(engine.url.database or "")
        if for_index_shard or path.exists() or private_api_problems():
            super()._initdb(engine, for_index_shard)
            return
        if not SqliteEvents._made:
            with TemporaryDirectory(prefix="many_models_events_") as folder:
                super()._initdb(create_engine(f"sqlite:///{folder}/made.db", poolclass=NullPool))
                SqliteEvents._made = Path(folder, "made.db").read_bytes()
        if not _placed(path, SqliteEvents._made):
            super()._initdb(engine, for_index_shard)


def _placed(path: Path, content: bytes) -> bool:
    """Write a file whole where there is none; False where another process was quicker, or where links are refused."""
    whole = path.with_name(f".{uuid4().hex}.part")
    try:
        with whole.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(whole, path)
    except OSError:
        return False
    finally:
        whole.unlink(missing_ok=True)
    return True
