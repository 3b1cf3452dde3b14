"""Rows of the lake as Spark DataFrames, grouped by chunk and handed to the tasks: workers read no storage themselves.

The large table of a task comes from Spark, by the files of the table's snapshot or by its name in a catalog. Small
tables are read here and travel with the task. On the worker both are a lake in memory, so that a task does not know.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.lake.memory import MemoryLake
from many_models.ports import Filter, ReadingTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyspark.sql import DataFrame, SparkSession

    from many_models.adapters.lake.delta import Snapshot
    from many_models.ports import Chunk

AT, PACK, SERIES = "at__", "pack", "series_id"
PLACES = pa.schema([(AT, pa.int64()), (PACK, pa.string()), (SERIES, pa.string())])


def has_arrow() -> bool:
    """Whether this client takes and gives Arrow tables, as 4.0 and newer do."""
    import pyspark

    return int(pyspark.__version__.split(".")[0]) >= 4


def local(session: SparkSession, schema: pa.Schema, columns: Sequence[Sequence[Any]]) -> DataFrame:
    """Columns of this process as a DataFrame."""
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )
    if has_arrow():
        return session.createDataFrame(table)
    names = {pa.int64(): "long", pa.string(): "string", pa.binary(): "binary"}
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return session.createDataFrame(rows, ", ".join(f"{field.name} {names[field.type]}" for field in schema))


class Frames(Protocol):
    """Where a table's rows come from."""

    def __call__(self, session: SparkSession, table: str, packs: Sequence[str]) -> DataFrame:
        """The rows of `table`, at least those of `packs`."""
        ...


@dataclass(frozen=True)
class FilesOfSnapshots:
    """A table by the files of its newest snapshot, under the lake's own path or `root`: where the cluster finds it."""

    snapshot: Callable[[str, Sequence[str]], Snapshot]
    root: str = ""

    def __call__(self, session: SparkSession, table: str, packs: Sequence[str]) -> DataFrame:
        """See `Frames`. Columns that older files lack are null; names of partitions stay texts."""
        from pyspark.sql.functions import expr
        from pyspark.sql.types import StructType

        found = self.snapshot(table, packs)
        root = f"{self.root.rstrip('/')}/{table}" if self.root else found.root
        files = [f"{root}/{file}" for file in found.files]
        schema = StructType.fromJson(json.loads(found.schema))
        if not files:
            return session.createDataFrame([], schema)
        rows = session.read.schema(schema).option("basePath", root).parquet(*files)
        if not found.by_pack:
            return rows
        # of a folder's name Spark takes each escaped byte for a character
        return rows.withColumn(PACK, expr(f"decode(encode({PACK}, 'ISO-8859-1'), 'UTF-8')"))


@dataclass(frozen=True)
class TablesOfCatalog:
    """A table by its name in a catalog, such as `main.forecasting` of Unity Catalog."""

    within: str

    def __call__(self, session: SparkSession, table: str, packs: Sequence[str]) -> DataFrame:  # noqa: ARG002
        """See `Frames`."""
        return session.table(f"{self.within}.{table}")


def with_small_tables(task: ReadingTask, chunk: Chunk) -> ReadingTask:
    """`task` over a lake in memory that holds the small tables of `chunk`."""
    lake, there = MemoryLake(), task.lake
    for table, where in task.small(chunk):
        if there.version(table) is not None:
            lake.replace(table, there.read(table, where), Filter())
    return task.over(lake)


def grouped(
    session: SparkSession, frames: Frames, task: ReadingTask, chunks: Mapping[int, Chunk], partitions: int
) -> DataFrame:
    """The rows that `task` reads of each of `chunks`, in the column AT the chunk's number; by it in `partitions`.

    Each chunk has one more row, without a series: a chunk without rows is done, too.
    """
    table, where = task.large()
    packs = sorted({chunk.pack for chunk in chunks.values()})
    places = zip(*((at, chunk.pack, name) for at, chunk in chunks.items() for name in chunk.series), strict=True)
    rows = frames(session, table, packs)
    for term in _terms(where):
        rows = rows.where(term)
    placed = rows.join(local(session, PLACES, list(places)).hint("broadcast"), [PACK, SERIES])
    empty = local(session, PLACES, [list(chunks), [None] * len(chunks), [None] * len(chunks)])
    ordered = placed.select(AT, *rows.columns).unionByName(empty, allowMissingColumns=True)
    return ordered.repartition(partitions, AT)


def _terms(where: Filter) -> Iterator[str]:
    if where.since is not None:
        yield f"{where.column} >= TIMESTAMP '{where.since.isoformat()}Z'"
    if where.before is not None:
        yield f"{where.column} < TIMESTAMP '{where.before.isoformat()}Z'"


def over_rows(task: Any, rows: pa.Table) -> Any:
    """On the worker: `task` over its small tables and `rows`, one chunk's of `grouped`."""
    table, _ = task.large()
    own = rows.filter(pc.is_valid(rows[SERIES])).drop_columns([AT])
    task.lake.replace(table, own, Filter())
    return task


def tables_of(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[int, pa.Table]]:
    """On the worker: a partition that is sorted by AT, chunk by chunk."""
    held, at = list[pa.RecordBatch](), None
    for batch in batches:
        start = 0
        numbers = batch[AT].to_pylist()
        for end in range(1, len(numbers) + 1):
            if end < len(numbers) and numbers[end] == numbers[start]:
                continue
            if held and at != numbers[start]:
                yield at or 0, pa.Table.from_batches(held)
                held = []
            at = numbers[start]
            held.append(batch.slice(start, end - start))
            start = end
    if held:
        yield at or 0, pa.Table.from_batches(held)


def spread(session: SparkSession, partitions: int, most: int) -> list[int]:
    """Numbers for `most` chunks whose hashes fall evenly into `partitions`: Spark partitions by hash, and two chunks in
    one partition would leave a slot without work.
    """
    told = session.range(most * 8).selectExpr("id", f"pmod(hash(id), {partitions}) as slot").collect()
    by_slot: dict[int, list[int]] = {}
    for row in told:
        by_slot.setdefault(int(row["slot"]), []).append(int(row["id"]))
    rounds = zip(*by_slot.values(), strict=False)
    return [number for numbers in rounds for number in numbers]
