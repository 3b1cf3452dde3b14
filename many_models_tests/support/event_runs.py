"""What tests of Dagster's event log share: an instance, runs of the small stage, and the rows that they leave."""

import json
import logging
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dagster._core.events import (
    AssetMaterializationPlannedData,
    AssetObservationData,
    DagsterEvent,
    DagsterEventType,
    EngineEventData,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import strategies as st

from many_models.orchestration.event_log import dead_runs, runs
from many_models_tests.support.event_assets import STORE_ITEMS, defs, materialization

STAGE = dg.AssetKey("stage")


def open_instance(home: Path, *, batched: bool = True) -> dg.DagsterInstance:
    home.mkdir(exist_ok=True)
    storage = {
        "module": "many_models.orchestration.event_log.storage_sqlite",
        "class": "BatchedSqliteStorage",
        "config": {"base_dir": str(home / "data")},
    }
    overrides = {
        "telemetry": {"enabled": False},
        "python_logs": {"python_log_level": "CRITICAL"},
        "storage": {"custom": storage} if batched else {"sqlite": {"base_dir": str(home / "data")}},
    }
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=overrides))


def add(instance, count):
    keys = [f"s{at:05d}" for at in range(count)]
    instance.add_dynamic_partitions("store_items", keys)
    return keys


def launch(instance, keys, all_keys, *, job_name="stage_job", **config):
    """One run in this process over `keys`, as a sensor would ask for it."""
    request = runs.stage_request(
        job_name=job_name, asset_key=STAGE, keys=keys, all_keys=all_keys, op_name="stage", run_key=None, tags={}
    )
    ops = request.run_config.get("ops", {"stage": {"config": {}}})
    ops["stage"]["config"].update(config)
    return defs.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        run_config={"ops": ops},
        tags={**request.tags, **dead_runs.process_tag()},
        raise_on_error=False,
    )


@dataclass
class States:
    """What Dagster's own partition health says, as sets of keys."""

    materialized: set[str]
    failed: set[str]
    in_progress: set[str]


def states(instance):
    cached = get_and_update_asset_status_cache_value(instance, STAGE, STORE_ITEMS)
    if cached is None:
        return States(set(), set(), set())
    return States(
        set(cached.deserialize_materialized_partition_subsets(STORE_ITEMS).get_partition_keys()),
        set(cached.deserialize_failed_partition_subsets(STORE_ITEMS).get_partition_keys()),
        set(cached.deserialize_in_progress_partition_subsets(STORE_ITEMS).get_partition_keys()),
    )


def rows_left_behind(home: Path, run_ids) -> dict:
    """Every row of every table of the event log, the index and the runs' own files, without ids of runs and times."""
    names = {run_id: f"run {at}" for at, run_id in enumerate(run_ids)}
    return {
        names.get(file.stem, file.stem): tables_of(file, names)
        for file in sorted((home / "data/history/runs").glob("*.db"))
    }


def tables_of(file: Path, names) -> dict:
    with closing(sqlite3.connect(file)) as database:
        tables = [
            name for (name,) in database.execute("select name from sqlite_master where type = 'table' order by 1")
        ]
        return {
            table: [plain(row, names) for row in rows_of(database, table)]
            for table in tables
            if table != "secondary_indexes"
        }


def rows_of(database, table):
    cursor = database.execute(f"select * from {table} order by 1")
    columns = [column for column, *_ in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def plain(row, names) -> str:
    text = json.dumps(
        {column: value for column, value in row.items() if not column.endswith("timestamp")}, sort_keys=True
    )
    for run_id, name in names.items():
        text = text.replace(run_id, name)
    text = re.sub(r'(\\*)"(pid|timestamp|duration_ms|marker_start|marker_end)\1": [-+e.0-9]+', r'"\2": 0', text)
    return re.sub(r"\d+(\.\d+)?m?s\b|pid: \d+|\b[a-z]{8}\b(?=\\*\")|/tmp/[^\" ]*", "_", text)


def entry(kind, asset, partition, tag, run_id):
    asset_key = dg.AssetKey(asset)
    message, step = None, "step"
    match kind:
        case DagsterEventType.ASSET_MATERIALIZATION:
            data = StepMaterializationData(materialization(asset_key, partition, tag))
        case DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
            data = AssetMaterializationPlannedData(asset_key, partition=partition)
        case DagsterEventType.ASSET_OBSERVATION:
            data = AssetObservationData(
                dg.AssetObservation(asset_key, partition=partition, tags={"dagster/data_version": tag, "other": tag})
            )
        case _:
            data, message, step = EngineEventData(), "an event about no asset", None
    event = DagsterEvent(kind.value, "job", event_specific_data=data, message=message, step_key=step)
    return EventLogEntry(None, logging.DEBUG, "", run_id, 1_700_000_000.0 + len(tag), event.step_key, "job", event)


ENTRIES = st.lists(
    st.builds(
        entry,
        st.sampled_from(
            [
                DagsterEventType.ASSET_MATERIALIZATION,
                DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
                DagsterEventType.ASSET_OBSERVATION,
                DagsterEventType.ENGINE_EVENT,
            ]
        ),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["p", "q", "ü"]),
        st.sampled_from(["v", "vv", "vvv"]),
        st.sampled_from(["run-1", "run-2"]),
    ),
    min_size=1,
    max_size=12,
)


def runs_of_a_day(instance):
    """A day of runs: a range with failures, one key, scattered keys, a check. Returns their ids."""
    keys = add(instance, 12)
    return [
        launch(instance, keys[:8], keys, fail=keys[2:4]).run_id,
        launch(instance, keys[2:3], keys, version="v2").run_id,
        launch(instance, [keys[1], keys[5], keys[9]], keys, version="v3", fail=keys[9:10]).run_id,
        launch(instance, keys[10:11], keys, job_name="stage_and_check_job").run_id,
    ]


QUESTIONS = (
    """{ assetNodeOrError(assetKey: {path: ["stage"]}) { ... on AssetNode {
      partitionStats { numMaterialized numPartitions numFailed numMaterializing }
      assetPartitionStatuses { __typename ... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } }
      latestMaterializationByPartition { runId partition tags { key value }
        metadataEntries { __typename label ... on FloatMetadataEntry { floatValue } ... on IntMetadataEntry { intValue }
          ... on MarkdownMetadataEntry { mdStr } } }
      latestRunForPartition(partition: "s00009") { runId status }
      hasMaterializePermission
      assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status runId } } } }
    } } }""",
    """{ assetOrError(assetKey: {path: ["stage"]}) { ... on Asset {
      assetMaterializations(partitions: ["s00002"], limit: 5) {
        runId partition message level stepKey tags { key value } }
      assetEventHistory(eventTypeSelectors: [MATERIALIZATION], limit: 50) { results { __typename
        ... on MaterializationEvent { runId partition message } } } } } }""",
)


def ask(instance, *questions, **variables):
    from dagster._core.test_utils import in_process_test_workspace
    from dagster_graphql.test.utils import execute_dagster_graphql

    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name="many_models_tests.support.event_assets")
    with in_process_test_workspace(instance, origin) as workspace:
        asked = questions or QUESTIONS
        return [execute_dagster_graphql(workspace, question, variables).data for question in asked]
