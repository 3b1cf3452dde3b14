"""What a far worker answers for a chunk: rows that say which parts it was split into, and each part's result.

No pickle: tables travel as Arrow streams and failures as JSON, so that a driver runs nothing that a worker wrote.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.errors import SeriesFailure
from many_models.ports import Chunk, ChunkResult

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[int, str, str, bytes]  # number of the part, what it is (part, table, file, failures), its name, its content
ChunkOutcomes = list[tuple[Chunk, ChunkResult]]
COLUMNS = pa.schema([("part", pa.int32()), ("what", pa.string()), ("name", pa.string()), ("content", pa.binary())])


def rows_of(number: int, part: Chunk, result: ChunkResult) -> list[Row]:
    """The rows of one part of a chunk."""
    failed = [(f.series_id, f.kind, f.reason, f.permanent) for f in result.failures]
    return [
        (number, "part", "", json.dumps(part.series).encode()),
        *((number, "table", name, stream(table)) for name, table in result.tables.items()),
        *((number, "file", name, content) for name, content in result.files.items()),
        (number, "failures", "", json.dumps(failed).encode()),
    ]


def done_of(chunk: Chunk, rows: Iterable[Row]) -> ChunkOutcomes:
    """The parts of `chunk` in order, each with its result."""
    done: dict[int, tuple[Chunk, dict[str, pa.Table], dict[str, bytes], list[SeriesFailure]]] = {}
    for number, what, name, content in sorted(rows, key=lambda row: row[0]):
        if what == "part":
            done[number] = (Chunk(chunk.number, chunk.pack, tuple(json.loads(content))), {}, {}, [])
            continue
        _, tables, files, failures = done[number]
        if what == "table":
            tables[name] = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
        elif what == "file":
            files[name] = content
        else:
            failures += [SeriesFailure(*values) for values in json.loads(content)]
    return [(part, ChunkResult(tables, files, tuple(failed))) for part, tables, files, failed in done.values()]


def packed(rows: Iterable[Row]) -> bytes:
    """`rows` as one Arrow stream."""
    columns = list(zip(*rows, strict=True)) or [[]] * len(COLUMNS)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, COLUMNS, strict=True)]
    return stream(pa.table(arrays, schema=COLUMNS))


def unpacked(content: bytes) -> list[Row]:
    """The inverse of `packed`."""
    table = pa.ipc.open_stream(pa.py_buffer(content)).read_all()
    return list(zip(*(table[name].to_pylist() for name in COLUMNS.names), strict=True))


def stream(table: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    return sink.getvalue().to_pybytes()
