"""The history of Delta tables: many small files become few, and what no recent version names is deleted for good."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from many_models.ports import VacuumResult

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import timedelta

    from deltalake import DeltaTable
    from pyarrow.fs import FileSystem

MANY_FILES = 16  # in one partition: a year of raw_sales gets a file a day
LOG_RETENTION = "delta.logRetentionDuration"


def prune(table: DeltaTable, files: FileSystem, older: timedelta) -> VacuumResult:
    """Compact `table` where it has many small files, then delete files and log entries that no version younger than
    `older` needs. `files` is the table's folder. A file that a writer has not committed yet is kept as long.
    """
    for partition in _partitions_of_many_files(table):
        table.optimize.compact(partition_filters=partition or None)
    hours = max(0, int(older.total_seconds() // 3600))
    doomed = table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
    infos = files.get_file_info(doomed)  # the log names files that are gone already for another week
    sizes = [info.size or 0 for info in infos if info.is_file]
    if not sizes:
        return VacuumResult()
    table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
    if table.metadata().configuration.get(LOG_RETENTION) != (wanted := f"interval {max(hours, 1)} hours"):
        table.alter.set_table_properties({LOG_RETENTION: wanted})
    table.create_checkpoint()
    table.cleanup_metadata()
    return VacuumResult(len(sizes), sum(sizes))


def _partitions_of_many_files(table: DeltaTable) -> Iterator[list[tuple[str, str, str]]]:
    import pyarrow as pa

    columns = table.metadata().partition_columns
    actions = pa.table(table.get_add_actions(flatten=True))
    values = [actions[f"partition.{name}"].to_pylist() for name in columns]
    counts = Counter(zip(*values, strict=True)) if columns else Counter({(): actions.num_rows})
    for partition, count in counts.items():
        if count >= MANY_FILES:
            yield [(name, "=", str(value)) for name, value in zip(columns, partition, strict=True)]


def files_of_newest(table: Path) -> list[Path]:
    """The files of a Delta table at its newest version, and its log up to that version: what is committed meanwhile is
    left out.
    """
    from deltalake import DeltaTable

    there = DeltaTable(str(table))
    data = [path if path.exists() else Path(unquote(str(path))) for path in map(_local, there.file_uris())]
    log = [
        path
        for path in sorted((table / "_delta_log").iterdir())
        if path.name[:20].isdigit() and int(path.name[:20]) <= there.version()
    ]
    return [*data, *log]


def _local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))
