"""Delta tables at reader version 1 and writer version 2, which every reader of Delta knows.

A time without a zone makes a table reader version 3 (the feature `timestampNtz`), which Synapse's serverless pool and
other readers refuse. So the times are kept as UTC `timestamp`, and the lake drops the zone when it reads them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

import pyarrow as pa

from many_models.errors import ConflictError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

READER, WRITER = 1, 2
LOG = "_delta_log/00000000000000000000.json"


def zoned(schema: pa.Schema) -> pa.Schema:
    """`schema` with its times, also those in lists, in UTC."""
    return pa.schema([(field.name, _zoned(field.type)) for field in schema])


def _zoned(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    return pa.list_(_zoned(kind.value_type)) if pa.types.is_list(kind) else kind


def needs_migration(table: DeltaTable) -> bool:
    """Whether `table` has times without a zone."""
    return "timestampNtz" in (table.protocol().reader_features or [])


def migrate(table: DeltaTable, uri: str, options: dict[str, str]) -> DeltaTable:
    """`table`, at `uri`, after one commit that replaces its files by copies with UTC times, and its protocol.

    A copy of the data is needed: a Parquet file says in its footer whether its times are UTC, and a serverless pool
    reads those that are not as integers. Killed before the commit, it leaves files that `prune` deletes. Raises
    ConflictError, with nothing changed, when another commit came during the copy.
    """
    from deltalake import DeltaTable

    after = table.version()
    source = table
    while True:
        before, folder = after, f"utc-{uuid4().hex[:12]}"
        copy = _copied(source, f"{uri}/{folder}", table.metadata().partition_columns, options)
        if source is table and DeltaTable(uri, storage_options=options or None).version() != before:
            raise ConflictError(f"{uri}: another commit came while the table was copied")
        _replace(table, copy, uri, folder, options)
        migrated = DeltaTable(uri, storage_options=options or None)
        after = migrated.version()
        if after == before + 1:
            return migrated
        # Delta-rs replaces whatever is newest at its commit. A commit came since the check: copy its rows instead.
        source = DeltaTable(uri, version=after - 1, storage_options=options or None)


def _replace(table: DeltaTable, copy: DeltaTable, uri: str, folder: str, options: dict[str, str]) -> None:
    """One commit at `uri`: the files of `copy`, which is in `folder`, in place of all others, and its protocol."""
    from deltalake.fs import DeltaStorageHandler
    from deltalake.transaction import create_table_with_add_actions

    files, about = DeltaStorageHandler(uri, options), table.metadata()
    create_table_with_add_actions(
        uri,
        copy.schema(),
        _adds(files, folder),
        mode="overwrite",
        partition_by=about.partition_columns,
        name=about.name,
        configuration=dict(about.configuration),
        storage_options=options or None,
    )
    files.delete_file(f"{folder}/{LOG}")


def _copied(table: DeltaTable, uri: str, columns: list[str], options: dict[str, str]) -> DeltaTable:
    """A new table at `uri` of the rows of `table`, read and written piece by piece."""
    from deltalake import DeltaTable, write_deltalake

    kept = pa.schema(table.schema().to_arrow())
    wanted = zoned(kept)
    batches = pa.RecordBatchReader.from_stream(table.scan(columns=kept.names))
    rows = pa.RecordBatchReader.from_batches(wanted, (_cast(batch, wanted) for batch in batches))
    write_deltalake(uri, rows, partition_by=columns or None, storage_options=options or None)
    return DeltaTable(uri, storage_options=options or None)


def _cast(batch: pa.RecordBatch, wanted: pa.Schema) -> pa.RecordBatch:
    return batch.select(wanted.names).cast(wanted)


def _adds(files: object, folder: str) -> list[AddAction]:
    """What the log of the new table in `folder` adds, seen from the folder above."""
    from deltalake.transaction import AddAction
    from pyarrow.fs import PyFileSystem

    with PyFileSystem(files).open_input_stream(f"{folder}/{LOG}") as log:
        lines = [json.loads(line) for line in log.read().decode().splitlines()]
    return [
        AddAction(
            f"{folder}/{unquote(add['path'])}",
            add["size"],
            add["partitionValues"],
            add["modificationTime"],
            add["dataChange"],
            add["stats"],
        )
        for add in (line["add"] for line in lines if "add" in line)
    ]
