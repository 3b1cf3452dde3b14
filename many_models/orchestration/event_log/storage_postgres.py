"""Dagster's PostgreSQL storage with an event log that stores a batch of events, planned ones too, in one transaction.

The stock event log batches materializations but stores planned events one by one: 43 s for 2,000 series. Used from
dagster.yaml (the URL is in the environment, never in a file):

    storage:
      custom:
        module: many_models.orchestration.event_log.storage_postgres
        class: BatchedPostgresStorage
        config: {postgres_url: {env: DAGSTER_POSTGRES_URL}}

or with dagster-postgres' own `postgres_db` (and `auth_provider`, for a managed identity). Needs the extra `postgres`.
Uses Dagster's private API; `private_api.private_api_problems` checks it.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from sqlalchemy import NullPool, func, make_url, select
from sqlalchemy.exc import DBAPIError

from many_models.errors import MissingDependencyError, UnavailableError
from many_models.orchestration.event_log.event_rows import rows_of
from many_models.orchestration.event_log.runs import BATCH_SIZE
from many_models.orchestration.event_log.storage_sqlite import BATCH_SIZE_VARIABLE, InBatches, newest_by_asset

try:
    from dagster_postgres.event_log import PostgresEventLogStorage
    from dagster_postgres.storage import DagsterPostgresStorage
    from dagster_postgres.utils import (
        DagsterPostgresException,
        create_pg_connection,
        create_pg_engine,
        get_token_provider_from_config,
        pg_url_from_config,
    )
except ImportError as error:
    raise MissingDependencyError(
        "Dagster's storage on PostgreSQL needs dagster-postgres and psycopg2: pip install 'many_models[postgres]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from dagster._core.events.log import EventLogEntry
    from dagster._serdes import ConfigurableClassData
    from dagster_postgres.auth import PgTokenProvider
    from sqlalchemy import Connection

_TABLE = SqlEventLogStorageTable
SETUP_LOCK, RUN_LOCK = 0x6D6D5F01, 0x6D6D5F02  # of this database: one process makes its tables, one `run` works on it


class BatchedPostgresEventLog(InBatches, PostgresEventLogStorage):
    """An event log whose batches leave exactly what the stock log's single events leave, or nothing."""

    @contextmanager
    def only_run(self) -> Generator[None]:
        """See `InBatches.only_run`. The lock ends with its connection, so that a killed run leaves none."""
        with _transaction(self.postgres_url, self._token_provider) as connection:
            if not connection.execute(select(func.pg_try_advisory_xact_lock(RUN_LOCK))).scalar_one():
                raise UnavailableError(
                    f"another `many-models run` is at work on {_shown(self.postgres_url)}: wait for it, then run again"
                )
            yield

    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        rows = rows_of(events)
        with self.index_transaction() as connection:
            ids = _insert(connection, rows)
            self._store_asset_event_tags(connection, events, ids)
            # runs that write the same assets at the same time lock them in the same order
            for at in sorted(newest_by_asset(rows), key=lambda at: str(rows[at]["asset_key"])):
                self._store_asset_event(connection, events[at], ids[at])


def _insert(connection: Connection, rows: Sequence[Mapping[str, object]]) -> Sequence[int]:
    """Insert `rows` of the event log in order; their ids, ascending."""
    statement = _TABLE.insert().returning(_TABLE.c.id, sort_by_parameter_order=True)
    return connection.execute(statement, rows).scalars().all()


class BatchedPostgresStorage(DagsterPostgresStorage):
    """Dagster's PostgreSQL storage with batches of events.

    A URL that begins with `postgresql://` means psycopg2, which dagster-postgres is written for. The first use in a
    process turns Dagster's batching of planned events on, unless DAGSTER_EVENT_BATCH_SIZE is set (0 turns it off).
    """

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,  # noqa: FBT001, FBT002  the signature is dagster-postgres'
        inst_data: ConfigurableClassData | None = None,
        token_provider: PgTokenProvider | None = None,
    ) -> None:
        url = _for_psycopg2(postgres_url)
        try:
            with _transaction(url, token_provider) as connection:
                # processes that make the tables at once would leave some out, and others twice
                connection.execute(select(func.pg_advisory_xact_lock(SETUP_LOCK)))
                super().__init__(url, should_autocreate_tables, inst_data, token_provider)
        except DagsterPostgresException as error:
            raise UnavailableError(f"Dagster's storage {_shown(url)} does not answer: {error.__cause__}") from error
        self._event_log_storage = BatchedPostgresEventLog(
            url, should_autocreate_tables=False, token_provider=token_provider
        )
        os.environ.setdefault(BATCH_SIZE_VARIABLE, str(BATCH_SIZE))

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:  # type: ignore[override]
        """The storage that dagster.yaml describes."""
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )


@contextmanager
def _transaction(url: str, token_provider: PgTokenProvider | None) -> Generator[Connection]:
    """A transaction on its own connection: what it locks is locked behind a pooler of transactions, too."""
    engine = create_pg_engine(url, token_provider, poolclass=NullPool)
    with create_pg_connection(engine) as connection:
        transaction = connection.begin()
        try:
            yield connection
        finally:
            with suppress(DBAPIError):  # a connection that has broken holds no lock
                transaction.rollback()


def _shown(url: str) -> str:
    return str(make_url(url).set(username=None, password=None))


def _for_psycopg2(url: str) -> str:
    head, separator, rest = url.partition("://")
    return f"postgresql+psycopg2://{rest}" if separator and head in {"postgres", "postgresql"} else url
