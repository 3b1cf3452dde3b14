"""What many_models uses of Dagster's private API: one table, checked against the Dagster that is installed."""

from __future__ import annotations

import importlib.util
import inspect
import pkgutil
import warnings
from functools import cache
from typing import TYPE_CHECKING

import dagster as dg

from many_models.errors import MissingDependencyError

if TYPE_CHECKING:
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage


_EVENTS = "dagster._core.events"
_EVENT_LOG = "dagster._core.storage.event_log"
_SQL = f"{_EVENT_LOG}.sql_event_log:SqlEventLogStorage"
_SQLITE = f"{_EVENT_LOG}.sqlite.sqlite_event_log:SqliteEventLogStorage"
_SQLITE_RUNS = "dagster._core.storage.runs.sqlite.sqlite_run_storage:SqliteRunStorage"
_SQLITE_SCHEDULES = "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage:SqliteScheduleStorage"
_TABLE = f"{_EVENT_LOG}.schema:SqlEventLogStorageTable.c"
_STORAGE = "dagster._core.storage.sqlite_storage:DagsterSqliteStorage"
_POSTGRES = "dagster_postgres.event_log:PostgresEventLogStorage"
_POSTGRES_STORAGE = "dagster_postgres.storage:DagsterPostgresStorage"
_POSTGRES_API = {  # of the extra `postgres`
    _POSTGRES: "postgres_url should_autocreate_tables inst_data token_provider",
    f"{_POSTGRES}.store_event": "self event",
    f"{_POSTGRES}.index_connection": "self",
    f"{_POSTGRES}.index_transaction": "self",
    f"{_POSTGRES}._store_asset_event_tags": "self conn events event_ids",
    f"{_POSTGRES}._store_asset_event": "self conn event event_id",
    _POSTGRES_STORAGE: "postgres_url should_autocreate_tables inst_data token_provider",
    "dagster_postgres.utils:pg_url_from_config": "config_value",
    "dagster_postgres.utils:get_token_provider_from_config": "config_value",
}
PRIVATE_API = {  # what is used → the parameters it is used with, or None for what is not a function
    f"{_EVENTS}:DagsterEvent": "event_type_value job_name step_handle node_handle step_kind_value logging_tags "
    "event_specific_data message pid",
    f"{_EVENTS}:DagsterEvent.build_asset_materialization_planned_event": "job_name step_key "
    "asset_materialization_planned_data",
    f"{_EVENTS}:AssetMaterializationPlannedData": "asset_key partition",
    f"{_EVENTS}:StepMaterializationData": "materialization",
    f"{_EVENTS}.log:EventLogEntry": "error_info level user_message run_id timestamp step_key job_name dagster_event",
    "dagster:AssetMaterialization._replace": None,
    f"{_EVENTS}:DagsterEvent._replace": None,
    f"{_EVENTS}:StepMaterializationData._replace": None,
    f"{_EVENTS}:AssetMaterializationPlannedData._replace": None,
    f"{_EVENTS}.log:EventLogEntry._replace": None,
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
    f"{_EVENT_LOG}.base:EventLogStorage.get_maximum_record_id": "self",
    f"{_EVENT_LOG}.base:EventLogStorage.set_concurrency_slots": "self concurrency_key num",
    f"{_SQL}._latest_event_ids_by_partition_subquery": "self asset_key event_types",
    f"{_SQL}.get_latest_asset_partition_materialization_attempts_without_materializations": "self asset_key",
    **{
        f"{_TABLE}.{column}": None
        for column in ("id", "run_id", "event", "dagster_event_type", "asset_key", "partition", "timestamp")
    },
    f"{_SQLITE}._connect": "self shard",
    f"{_SQLITE}._initdb": "self engine for_index_shard",
    f"{_SQLITE}.conn_string_for_shard": "self shard_name",
    "dagster._core.storage.sqlite:SQLITE_BUSY_TIMEOUT_SECONDS": None,
    _SQLITE_RUNS: "conn_string inst_data",
    f"{_SQLITE_RUNS}.connect": "self",
    "dagster._core.storage.runs.schema:RunsTable.c.id": None,
    "dagster._core.storage.runs.schema:RunsTable.c.run_id": None,
    _SQLITE_SCHEDULES: "conn_string inst_data",
    f"{_SQLITE_SCHEDULES}.connect": "self",
    f"{_SQLITE}.store_event": "self event",
    f"{_SQLITE}.run_connection": "self run_id",
    f"{_SQLITE}.index_connection": "self",
    f"{_SQLITE}.index_transaction": "self",
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
    """What this Dagster lacks of the private API that `event_log` uses; empty when it fits."""
    return tuple(problem for name, parameters in PRIVATE_API.items() if (problem := _problem(name, parameters)))


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


def private_api_fits() -> bool:
    """Whether this Dagster has the private API that `event_log` uses; warns once where it does not."""
    problems = private_api_problems()
    if problems:
        _warn_once(
            f"Dagster {dg.__version__} has changed what many_models records events with ({'; '.join(problems)}). "
            "Falling back to its public API: each series is stored by itself, about 60 ms each; series outside a run's "
            "own partition range do not show as in progress or failed; each contiguous range of a backfill takes its "
            "own run; old events are not pruned. Install the Dagster that pyproject.toml names."
        )
    return not problems


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def require_private_api(what: str) -> None:
    """Raise MissingDependencyError if this Dagster version does not support `what`."""
    if problems := private_api_problems():
        raise MissingDependencyError(
            f"{what} needs the Dagster that pyproject.toml names; of Dagster {dg.__version__}, {'; '.join(problems)}"
        )


def sql_event_log(instance: dg.DagsterInstance) -> SqlEventLogStorage:
    """The instance's event log as SQL. Raises MissingDependencyError when it is none, or no longer the one we know."""
    from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise _not_sql("event log", storage)
    return storage


def sql_runs(instance: dg.DagsterInstance) -> SqlRunStorage:
    """The instance's storage of runs as SQL. Raises MissingDependencyError when it is none."""
    from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

    storage = instance.run_storage
    if not isinstance(storage, SqlRunStorage):
        raise _not_sql("storage of runs", storage)
    return storage


def _not_sql(what: str, storage: object) -> MissingDependencyError:
    return MissingDependencyError(
        f"the {what} of this Dagster instance is a {type(storage).__name__}, not one of SQLite or PostgreSQL: "
        "what is due cannot be read from it; set `storage:` in dagster.yaml as many_models' own dagster.yaml does"
    )
