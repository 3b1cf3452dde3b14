"""Files of Delta tables that cannot be read: which they are, and a table without them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deltalake import DeltaTable
    from pyarrow.fs import FileSystem

LOG = "_delta_log"
ASIDE = "_damaged"  # readers of Delta, and its vacuum, leave folders alone that begin so
OF_THE_LOG = ("Json error", "No table metadata or protocol", "Parquet")  # what delta-rs says of a log it cannot read
OF_A_FILE = ("Parquet", "not found", "Arrow error")
FAR = "Generic Micro"  # object_store's name for Azure in an error of the network


def tells_of_log(text: str) -> bool:
    """Whether delta-rs says with `text` that a table's log is damaged."""
    return FAR not in text and any(sign in text for sign in OF_THE_LOG)


def may_tell_of_file(text: str) -> bool:
    """Whether delta-rs may say with `text` that a file of a table is damaged, or gone."""
    return any(sign in text for sign in OF_A_FILE)


def damaged_files(table: DeltaTable, files: FileSystem, predicate: str | None = None) -> Iterator[tuple[str, str]]:
    """The files of `table`, of those that may hold what `predicate` asks for, that cannot be read whole, each with the
    reason. `files` is the table's folder. Reads them all. Raises OSError where the store does not answer.
    """
    for path in _paths(table, files, predicate):
        if why := _damage_of(path, files):
            yield path, why


def put_aside(table: DeltaTable, files: FileSystem, paths: list[str]) -> None:
    """Take the files at `paths` out of `table`, in one commit, and keep them in its folder ASIDE."""
    from pyarrow.fs import FileType

    for path in paths:
        if files.get_file_info(path).type != FileType.NotFound:
            files.move(path, f"{ASIDE}/{path.replace('/', ' ')}")
    table.repair(dry_run=False)


def _paths(table: DeltaTable, files: FileSystem, predicate: str | None) -> Iterator[str]:
    from pyarrow.fs import FileType

    root = table.table_uri.rstrip("/").removeprefix("file://") + "/"
    for uri in table.file_uris(file_pruning_predicate=predicate):
        path = uri.removeprefix("file://").removeprefix(unquote(root)).removeprefix(root)
        there = files.get_file_info(path).type != FileType.NotFound
        yield path if there else unquote(path)


def _damage_of(path: str, files: FileSystem) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.fs import FileType

    if files.get_file_info(path).type == FileType.NotFound:
        return "it is not there"
    with files.open_input_file(path) as file:
        content = file.read()
    try:
        rows = pq.ParquetFile(pa.BufferReader(content))
        for group in range(rows.num_row_groups):
            rows.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        return " ".join("".join(filter(str.isprintable, str(error))).split())[:100]
    return ""
