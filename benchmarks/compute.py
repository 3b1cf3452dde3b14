"""What training costs on each compute: Spark against the pool of processes, Spark Connect against Spark, and the
reference's way. `python -m benchmarks.compute [--small] [--json]`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

from benchmarks import _reference_way
from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.compute.processes import ProcessCompute
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_session import connect
from many_models.adapters.lake.delta import DeltaLake
from many_models.data.lake_tables import DATASETS, RAW_SALES
from many_models.forecasting.spec import Spec
from many_models.ports import Chunk, Filter
from many_models.tasks import PrepareTask, TrainTask
from many_models_tests.stand_ins.spark_connect import connect_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from many_models.ports import Compute, Lake, Task

CHUNK = 100
START = datetime(2020, 1, 1)
SPEC = Spec(frequency="D", horizon=28, windows=3)


@dataclass(frozen=True)
class Size:
    """How much is measured: series, days, and the reference's sample."""

    series: int
    days: int
    sample: int


FULL, SMALL = Size(10_000, 1_000, 40), Size(600, 500, 6)


def chunks_of(series: int) -> list[Chunk]:
    """Packs of `CHUNK` series, a chunk each."""
    return [
        Chunk(number, f"store{number}", tuple(f"store{number}__{item}" for item in range(CHUNK)))
        for number in range(series // CHUNK)
    ]


def sales(chunk: Chunk, days: int) -> pa.Table:
    """Raw rows of a chunk: a weekly shape times a level, with noise."""
    chance = np.random.default_rng(chunk.number)
    level = chance.gamma(2.0, 10.0, (CHUNK, 1))
    shape = 1 + 0.4 * np.sin(2 * np.pi * np.arange(days) / 7) + 0.3 * np.sin(2 * np.pi * np.arange(days) / 365)
    y = chance.poisson(level * shape).astype(float)
    stamps = np.array([START + timedelta(days=day) for day in range(days)], "datetime64[us]")
    names = np.repeat(np.array(chunk.series, object), days)
    frame = pd.DataFrame({"series_id": names, "ds": np.tile(stamps, CHUNK), "y": y.ravel()})
    return pa.Table.from_pandas(frame.assign(pack=chunk.pack, year=frame["ds"].dt.year), preserve_index=False)


def prepare(lake: Lake, chunks: list[Chunk], days: int) -> datetime:
    """Fill the lake with raw rows and datasets; the newest day."""
    as_of = START + timedelta(days=days - 1)
    for at in range(0, len(chunks), 20):
        part = chunks[at : at + 20]
        raw = pa.concat_tables([sales(chunk, days) for chunk in part])
        lake.replace(RAW_SALES.name, raw, Filter(among={"pack": [c.pack for c in part]}), ("pack",))
    task = PrepareTask(lake, SPEC, as_of, ("store", "item"))
    with ProcessCompute() as pool:
        for chunk, result in pool.run(task, chunks):
            rows = result.tables["rows"]
            lake.replace(DATASETS.name, rows, Filter(among={"pack": [chunk.pack]}), DATASETS.partition_by)
    return as_of


@dataclass(frozen=True)
class Run:
    """One training of all chunks: seconds, and the most memory that the driver and its JVM held, in MiB."""

    seconds: float
    driver: float
    jvm: float


def trained(compute: Compute, task: Task, chunks: list[Chunk]) -> Run:
    """Train every chunk; results are dropped as they come, as a stage writes them away."""
    with driver_memory() as seen:
        began = time.perf_counter()
        for _, result in compute.run(task, chunks):
            if result.failures:
                raise SystemExit(f"{result.failures[0]}")
        return Run(time.perf_counter() - began, *(max(held) for held in zip(*seen, strict=True)))


@contextmanager
def driver_memory() -> Generator[list[tuple[float, float]]]:
    """MiB held by this process and by its JVM, sampled while the block runs; workers do not count."""
    own = psutil.Process()
    jvms = [child for child in own.children() if child.name() == "java"]
    seen, over = [(0.0, 0.0)], threading.Event()

    def held(processes: Sequence[psutil.Process]) -> float:
        return sum(process.memory_info().rss for process in processes) / 2**20

    def sample() -> None:
        while not over.wait(0.2):
            seen.append((held([own]), held(jvms)))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def in_a_process_of_its_own(work: Callable[[Path, Size, datetime], list[Run]], *about: object) -> list[Run]:
    """What `work` measures: a process can have Spark or Spark Connect, not one after the other."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(work, *about).result()  # type: ignore[arg-type]


def on_processes(folder: Path, size: Size, as_of: datetime) -> list[Run]:
    """The local pool, warm."""
    with ProcessCompute() as pool:
        return runs_of(pool, folder, size, as_of)


def on_spark(folder: Path, size: Size, as_of: datetime) -> list[Run]:
    """Spark on this machine, warm."""
    from dagster_pyspark.resources import spark_session_from_config

    session = connect(spark_session_from_config, f"local[{len(os.sched_getaffinity(0))}]", "", {})
    try:
        return runs_of(SparkCompute(lambda: session), folder, size, as_of)
    finally:
        session.stop()


def over_connect(folder: Path, size: Size, as_of: datetime) -> list[Run]:
    """A Spark Connect server on this machine, warm."""
    from dagster_pyspark.resources import spark_session_from_config

    with connect_server(folder) as remote:
        session = connect(spark_session_from_config, "", remote, {})
        found = runs_of(SparkCompute(lambda: session), folder, size, as_of)
        session.stop()
        return found


def runs_of(compute: Compute, folder: Path, size: Size, as_of: datetime) -> list[Run]:
    """Warm up, then train all series, and all of them twice: does a driver hold more for twice as many?"""
    task, chunks = TrainTask(DeltaLake(folder / "lake"), SPEC, as_of), chunks_of(size.series)
    trained(compute, task, chunks[:4])
    return [trained(compute, task, some) for some in (chunks, chunks + chunks)]


def measure(size: Size, folder: Path) -> list[Figure]:
    """All figures."""
    as_of = prepare(DeltaLake(folder / "lake"), chunks_of(size.series), size.days)
    (processes, twice_pool), (local, twice), (connected, twice_connected) = (
        in_a_process_of_its_own(work, folder, size, as_of) for work in (on_processes, on_spark, over_connect)
    )
    return [
        Figure(f"processes, {size.series:,} series × {size.days:,} days", processes.seconds, "s", ""),
        Figure("Spark on this machine, warm", local.seconds, "s", ""),
        Figure("Spark against processes", local.seconds / processes.seconds, "times", "at most 1.5"),
        Figure("Spark Connect against Spark", connected.seconds / local.seconds, "times", "at most 1.3"),
        *memory("processes", size, processes, twice_pool),
        *memory("Spark", size, local, twice),
        *memory("Spark Connect", size, connected, twice_connected),
        *reference(size, local.seconds / size.series),
    ]


def memory(compute: str, size: Size, once: Run, twice: Run) -> Iterator[Figure]:
    """The driver's memory for all series and for twice as many; a JVM takes what its heap's limit lets it."""
    for series, run, against in ((size.series, once, ""), (2 * size.series, twice, "flat")):
        yield Figure(f"{compute}, driver's memory, {series:,} series", run.driver, "MiB", against)
        if run.jvm:
            yield Figure(
                f"{compute}, its JVM's memory, {series:,} series",
                run.jvm,
                "MiB",
                "spark.driver.memory, and what is not heap",
            )


def reference(size: Size, own: float) -> list[Figure]:
    """The same four fits per series as the reference does them, on a sample; `own` seconds per series are ours."""
    rows = sales(chunks_of(CHUNK)[0], size.days).to_pandas()
    rows = rows[rows["series_id"].isin(rows["series_id"].unique()[: size.sample])]
    keys = rows["series_id"].str.split("__", expand=True)
    table = pd.DataFrame({"store": keys[0], "item": keys[1], "date": rows["ds"], "sales": rows["y"]})
    seconds, _ = _reference_way.train(table)
    usual = seconds / size.sample
    return [
        Figure(f"applyInPandas with HistGradientBoosting, {size.sample} series", usual, "s a series", ""),
        Figure("Spark against applyInPandas with HistGradientBoosting", usual / own, "times faster", "at least 20"),
    ]


def main() -> None:
    """Measures, and prints a table or JSON."""
    options = flags(__doc__ or "", "600 series instead of 10,000").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(SMALL if options.small else FULL, Path(folder))
    show(figures, machine("pyspark"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
