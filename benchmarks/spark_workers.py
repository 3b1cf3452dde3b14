"""Spark's part of a day with 1, 2 and 4 workers on this machine: what is spread, and what stays with the driver.
`python -m benchmarks.spark_workers [--small] [--json]`. Each number of workers has its own process and session, warm.

CPU is told apart: Spark's workers, which a cluster spreads over its cores; the JVM; and the driver's own Python, one
thread that hands out chunks and takes results, which no cluster shortens.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks._report import Figure, flags, machine, show
from benchmarks.compute import FULL, SMALL, SPEC, Size, chunks_of, prepare
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_session import connect
from many_models.adapters.lake.delta import DeltaLake
from many_models.tasks import PrepareTask, TrainTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.ports import Chunk, Task

ROOT = Path(__file__).parents[1]
WORKERS, CORES = (1, 2, 4), 16 * 8


@dataclass(frozen=True)
class Taken:
    """Seconds of the clock, and of CPU in the workers, in the JVM and in the driver's Python."""

    clock: float
    workers: float
    jvm: float
    driver: float

    def __sub__(self, other: Taken) -> Taken:
        return Taken(*(one - before for one, before in zip(vars(self).values(), vars(other).values(), strict=True)))


def so_far() -> Taken:
    """What this process and those below it have taken."""
    own, spent = psutil.Process(), {"java": 0.0, "python": 0.0}
    for child in own.children(recursive=True):
        times = child.cpu_times()
        java = child.name() == "java"
        spent["java" if java else "python"] += times.user + times.system
        spent["python"] += 0.0 if java else times.children_user + times.children_system  # workers that have ended
    mine = own.cpu_times()
    return Taken(time.perf_counter(), spent["python"], spent["java"], mine.user + mine.system)


def one_run(lake: DeltaLake, series: int, as_of: datetime, workers: int) -> Taken:
    """Prepare and train all series in a warm session of `workers`."""
    from dagster_pyspark.resources import spark_session_from_config

    session = connect(spark_session_from_config, f"local[{workers}]", "", {})
    compute, chunks = SparkCompute(lambda: session), chunks_of(series)
    tasks = [PrepareTask(lake, SPEC, as_of, ("store", "item")), TrainTask(lake, SPEC, as_of)]
    done(compute, tasks, chunks[: 2 * max(WORKERS)])
    before = so_far()
    done(compute, tasks, chunks)
    taken = so_far() - before
    session.stop()
    return taken


def done(compute: SparkCompute, tasks: Sequence[Task], chunks: list[Chunk]) -> None:
    """Carry out each task over `chunks`; results are dropped as they come."""
    for task in tasks:
        for _, result in compute.run(task, chunks):
            if result.failures:
                raise SystemExit(f"{result.failures[0]}")


def in_its_own_process(workers: int, folder: Path, size: Size, as_of: datetime) -> Taken:
    """`one_run` in a process that has had no session."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.spark_workers", "--run", str(workers), str(folder),
               str(size.series), as_of.isoformat()]  # fmt: skip
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Taken(**json.loads(told.splitlines()[-1]))


def measure(size: Size, folder: Path) -> list[Figure]:
    """All figures; the shares are of the run with one worker, in which nothing waits for a core."""
    as_of = prepare(DeltaLake(folder / "lake"), chunks_of(size.series), size.days)
    taken = {workers: in_its_own_process(workers, folder, size, as_of) for workers in WORKERS}
    figures: list[Figure] = []
    for workers, run in taken.items():
        told = f"{workers} worker{'s' if workers > 1 else ''}"
        figures += [
            Figure(f"{told}, {size.series:,} series × {size.days:,} days", run.clock, "s", ""),
            Figure(f"{told}: CPU of the workers", run.workers, "s", ""),
            Figure(f"{told}: CPU of the JVM", run.jvm, "s", ""),
            Figure(f"{told}: CPU of the driver's Python", run.driver, "s", ""),
        ]
    one = taken[1]
    spreads, a_million = one.workers + one.jvm, 1_000_000 / size.series
    return [
        *figures,
        Figure("2 workers against one, by the clock", one.clock / taken[2].clock, "times faster", "2 on 2 free cores"),
        Figure("share of CPU that a cluster spreads", 100 * spreads / (spreads + one.driver), "%", ""),
        Figure("cores that one driver keeps busy", spreads / one.driver, "cores", ""),
        Figure(f"a million series on {CORES} cores, on paper: spread", a_million * spreads / CORES, "s", ""),
        Figure(f"a million series on {CORES} cores, on paper: the driver", a_million * one.driver, "s", ""),
    ]  # fmt: skip


def main(words: Sequence[str]) -> None:
    """Measures, and prints a table or JSON; or makes one run for it."""
    if words[:1] == ["--run"]:
        parser = argparse.ArgumentParser()
        for name, kind in (("workers", int), ("folder", Path), ("series", int), ("as_of", datetime.fromisoformat)):
            parser.add_argument(name, type=kind)
        run = parser.parse_args(words[1:])
        print(json.dumps(asdict(one_run(DeltaLake(run.folder / "lake"), run.series, run.as_of, run.workers))))
        return
    options = flags(__doc__ or "", "600 series instead of 10,000").parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(SMALL if options.small else FULL, Path(folder))
    show(figures, machine("pyspark"), as_json=options.json)


if __name__ == "__main__":
    main(sys.argv[1:])
