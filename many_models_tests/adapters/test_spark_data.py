"""Rows that Spark brings: the same bytes as from tasks that read the lake, from workers that cannot reach it.

`test_spark35.py` runs this file with pyspark 3.5, too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from dagster_pyspark.resources import spark_session_from_config

from many_models.adapters.compute.serial import SerialCompute
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_data import AT, FilesOfSnapshots, TablesOfCatalog, spread, tables_of
from many_models.adapters.compute.spark_session import CONNECT_MODE, connect
from many_models.adapters.lake.delta import DeltaLake
from many_models.data.lake_tables import DATASETS, RAW_SALES, SERIES
from many_models.errors import AccessError, MissingTableError
from many_models.forecasting.spec import Spec
from many_models.ports import Chunk, ChunkResult, Filter, ReadingTask
from many_models.tasks import PrepareTask, ScoreTask, TrainTask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
AS_OF = datetime(2024, 6, 30)
SPEC = Spec("D", 7, windows=2, candidates=("seasonal_naive", "ridge_raw"))
PACKS = {"007": 3, "a/b [c]*": 2, "é{x}'": 1}  # names that a path or a guess at types would change
CHUNKS = [
    Chunk(number, pack, tuple(f"{pack}__i{item}" for item in range(items)))
    for number, (pack, items) in enumerate(PACKS.items())
] + [Chunk(3, "007", ("007__gone",))]


KEY = "AZURE_STORAGE_KEY"


def with_key() -> dict[str, str]:
    """The lake's options: whoever opens it needs the credential in its environment."""
    if not os.environ.get(KEY):
        raise AccessError(f"no {KEY} in this process")
    return {}


@pytest.fixture(scope="module")
def session():
    """Its workers have the environment that this process has now: without a credential of storage."""
    assert KEY not in os.environ
    os.environ[CONNECT_MODE] = "1"  # as pyspark leaves it where a Spark Connect server did not answer
    session = connect(spark_session_from_config, "local[2]", "", {})
    yield session
    session.stop()


@pytest.fixture(scope="module")
def lake(tmp_path_factory, session) -> Iterator[DeltaLake]:
    """Raw rows of all packs with missing numbers, numbers that are none, and a column that older files lack."""
    lake, rng = DeltaLake(tmp_path_factory.mktemp("a lake"), with_key), np.random.default_rng(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, "secret")
        fill(lake, rng)
        yield lake


def fill(lake: DeltaLake, rng: np.random.Generator) -> None:
    for year in (2023, 2024):
        rows = []
        for chunk in CHUNKS[:-1]:
            for name in chunk.series:
                days = [datetime(year, 1, 1) + timedelta(days=day) for day in range(182)]
                sales = rng.poisson(20, len(days)).astype(float)
                rows += [
                    {"series_id": name, "pack": chunk.pack, "ds": day, "y": float(y) if at % 50 else None, "year": year}
                    | ({"promotion": float("nan") if at % 40 == 1 else 1.0} if year == 2024 else {})
                    for at, (day, y) in enumerate(zip(days, sales, strict=True))
                ]
        table = pa.Table.from_pylist(rows)
        table = table.set_column(2, "ds", table["ds"].cast(pa.timestamp("us")))
        lake.replace(RAW_SALES.name, table, Filter(among={"year": [year]}), RAW_SALES.partition_by)


def serial(task, chunks: Iterable[Chunk]) -> list[tuple[Chunk, ChunkResult]]:
    return list(SerialCompute().run(task, list(chunks)))


def same(found: list[tuple[Chunk, ChunkResult]], expected: list[tuple[Chunk, ChunkResult]]) -> None:
    assert [chunk for chunk, _ in found] == [chunk for chunk, _ in expected]
    for (chunk, one), (_, other) in zip(found, expected, strict=True):
        assert one.tables.keys() == other.tables.keys()
        for name, table in one.tables.items():
            assert table.schema == other.tables[name].schema, (chunk, name)
            assert [*map(repr, table.to_pylist())] == [*map(repr, other.tables[name].to_pylist())], (chunk, name)
        assert dict(one.files) == dict(other.files), chunk
        assert list(one.failures) == list(other.failures), chunk


def test_prepared_trained_and_scored_over_rows_of_spark_are_the_same_bytes(session, lake: DeltaLake) -> None:
    """A chunk without rows fails for the same reason; the workers hold no credential of the lake."""
    spark = SparkCompute(lambda: session, timeout=300, frames=FilesOfSnapshots(lake.snapshot))
    prepare = PrepareTask(lake, SPEC, AS_OF, ("store", "item"))
    expected = serial(prepare, CHUNKS)
    same(list(spark.run(prepare, CHUNKS)), expected)
    for name, place in (("rows", DATASETS), ("series", SERIES)):
        made = pa.concat_tables([result.tables[name] for _, result in expected])
        lake.replace(place.name, made, Filter(), place.partition_by)
    train = TrainTask(lake, SPEC, AS_OF - timedelta(days=2), keys=("store", "item"))
    trained = serial(train, CHUNKS)
    assert any(result.files for _, result in trained)
    same(list(spark.run(train, CHUNKS)), trained)
    score = ScoreTask(lake, SPEC, AS_OF, ("store", "item"), {})
    same(list(spark.run(score, CHUNKS)), serial(score, CHUNKS))


def test_a_worker_without_a_credential_cannot_read_the_lake_itself(session, lake: DeltaLake) -> None:
    """The control of the test above: what it shows is not that the credential had reached the workers."""
    task = PrepareTask(lake, SPEC, AS_OF, ("store", "item"))
    found = [failure for _, result in SparkCompute(lambda: session).run(task, CHUNKS) for failure in result.failures]
    assert {failure.series_id for failure in found} == {name for chunk in CHUNKS for name in chunk.series}
    assert {failure.reason for failure in found} == {f"no {KEY} in this process"}


@pytest.mark.parametrize("where", ["mounted", "catalog"])
def test_spark_may_find_the_lake_at_another_place(session, lake: DeltaLake, tmp_path: Path, where: str) -> None:
    """A folder as the cluster names it, or a name in a catalog; a session's time zone changes no row."""
    task = PrepareTask(lake, SPEC, AS_OF, ("store", "item"))
    if where == "mounted":
        (tmp_path / "mount").symlink_to(lake._path)
        frames = FilesOfSnapshots(lambda *asked: replace(lake.snapshot(*asked), root="gone"), f"{tmp_path}/mount/")
    else:
        session.sql("create database if not exists forecasting")
        chunk = CHUNKS[0]
        read = FilesOfSnapshots(lake.snapshot)(session, RAW_SALES.name, [chunk.pack])
        read.write.mode("overwrite").option("path", str(tmp_path / "table")).saveAsTable("forecasting.raw_sales")
        frames = TablesOfCatalog("forecasting")
    zone = session.conf.get("spark.sql.session.timeZone")
    session.conf.set("spark.sql.session.timeZone", "America/New_York")
    try:
        same(list(SparkCompute(lambda: session, frames=frames).run(task, CHUNKS)), serial(task, CHUNKS))
    finally:
        session.conf.set("spark.sql.session.timeZone", zone)


def test_a_table_that_is_not_there_ends_the_run_and_is_named(session, tmp_path: Path) -> None:
    empty = DeltaLake(tmp_path)
    spark = SparkCompute(lambda: session, frames=FilesOfSnapshots(empty.snapshot))
    with pytest.raises(MissingTableError, match="raw_sales"):
        list(spark.run(PrepareTask(empty, SPEC, AS_OF, ("store", "item")), CHUNKS))


def test_numbers_of_chunks_fall_evenly_into_partitions(session) -> None:
    numbers = spread(session, 3, 12)[:12]
    assert len(set(numbers)) == 12
    frame = session.createDataFrame([(number,) for number in numbers], f"{AT} long").repartition(3, AT)
    sizes = frame.selectExpr("spark_partition_id() as p").groupBy("p").count().collect()
    assert sorted(row["count"] for row in sizes) == [4, 4, 4]


@pytest.mark.parametrize("sizes", [[1], [2, 1], [3, 3, 2]])
def test_a_sorted_partition_is_cut_where_the_chunk_changes(sizes: list[int]) -> None:
    numbers = [number for number, size in enumerate(sizes) for _ in range(size)]
    whole = pa.record_batch({AT: pa.array(numbers, pa.int64()), "y": pa.array(range(len(numbers)))})
    for step in (1, 2, 100):
        batches = [whole.slice(at, step) for at in range(0, len(numbers), step)]
        cut = list(tables_of(iter(batches)))
        assert [(at, table.num_rows) for at, table in cut] == list(enumerate(sizes))


@pytest.mark.parametrize("task", [PrepareTask, TrainTask, ScoreTask])
def test_every_task_of_series_says_what_it_reads(task: type) -> None:
    assert all(hasattr(task, name) for name in ("large", "small", "over"))
    assert "lake" in task.__dataclass_fields__
    assert ReadingTask is not None
