"""What `history` asks of an instance, by Dagster's public API alone: event after event, hence slow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_A_PAGE = 1000
_FAILED_RUNS = 50  # this many of the newest are read


def newest_materializations(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> dict[str, dg.EventLogEntry]:
    """Every materialized partition → its newest materialization, in the order in which they were recorded."""
    there = instance.get_materialized_partitions(asset_key)
    newest: dict[str, dg.EventLogEntry] = {}
    for record in _materializations(instance, asset_key):
        if record.partition_key in there and record.partition_key not in newest:
            newest[record.partition_key] = record.event_log_entry
            if len(newest) == len(there):
                break
    return dict(reversed(newest.items()))


def _materializations(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> Iterator[dg.EventLogRecord]:
    cursor, more = None, True
    while more:
        page = instance.fetch_materializations(asset_key, limit=_A_PAGE, cursor=cursor)
        yield from page.records
        cursor, more = page.cursor, page.has_more


def planned(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, run_ids: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Run → the partitions of `asset_key` that Dagster planned for it, and when."""
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
    found: dict[str, dict[str, float]] = {}
    for run_id in run_ids:
        cursor, more = None, True
        while more:
            page = instance.get_records_for_run(run_id, cursor=cursor, of_type=kind, limit=_A_PAGE)
            cursor, more = page.cursor, page.has_more
            for entry in (record.event_log_entry for record in page.records):
                event = entry.dagster_event
                if event is not None and event.asset_key == asset_key and event.partition is not None:
                    found.setdefault(run_id, {})[event.partition] = entry.timestamp
    return found


def failed(instance: dg.DagsterInstance, asset_key: dg.AssetKey) -> dict[str, str]:
    """Partition → the run that failed it, for those that Dagster planned and nothing has materialized since."""
    made = newest_materializations(instance, asset_key)
    runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=_FAILED_RUNS)
    result: dict[str, str] = {}
    for run_id, times in planned(instance, asset_key, [run.run_id for run in runs]).items():
        for partition, at in times.items():
            entry = made.get(partition)
            if entry is None or (entry.timestamp < at and entry.run_id != run_id):
                result.setdefault(partition, run_id)
    return result
