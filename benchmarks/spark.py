"""Spark 3.5 against Spark 4 on the same chunks, and rows that Spark brings against workers that read the lake.
`python -m benchmarks.spark [--small] [--json]`. Each run has its own process and its own session on this machine, warm.
Ratios are of the clock, and of CPU (the driver, its JVM and Spark's workers), which another load on the machine leaves
nearly as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks._report import Figure, flags, machine, show
from benchmarks.compute import FULL, SMALL, SPEC, Size, chunks_of, prepare, trained
from many_models.adapters.compute.spark import SparkCompute
from many_models.adapters.compute.spark_data import FilesOfSnapshots
from many_models.adapters.compute.spark_session import connect
from many_models.adapters.lake.delta import DeltaLake
from many_models.tasks import TrainTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[1]
RUNS = (("4", "workers"), ("4", "spark"), ("3.5", "workers"), ("3.5", "spark"))


@dataclass(frozen=True)
class Taken:
    """What training all series took: seconds of the clock, and of CPU in all processes of the session."""

    clock: float
    cpu: float


def one_run(lake: DeltaLake, series: int, as_of: datetime, reader: str) -> Taken:
    """Train all series in a session that is warm."""
    from dagster_pyspark.resources import spark_session_from_config

    session = connect(spark_session_from_config, f"local[{len(os.sched_getaffinity(0))}]", "", {})
    frames = FilesOfSnapshots(lake.snapshot) if reader == "spark" else None
    compute, task, chunks = (
        SparkCompute(lambda: session, frames=frames),
        TrainTask(lake, SPEC, as_of),
        chunks_of(series),
    )
    trained(compute, task, chunks[:4])
    before = cpu_seconds()
    taken = Taken(trained(compute, task, chunks).seconds, cpu_seconds() - before)
    session.stop()
    return taken


def cpu_seconds() -> float:
    """CPU that this process and all that it started have taken, with those that have ended."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(one.user + one.system + one.children_user + one.children_system for one in times)


def in_its_own_process(spark: str, reader: str, folder: Path, size: Size, as_of: datetime) -> Taken:
    """`one_run` with the pyspark that `spark` names."""
    from many_models_tests.stand_ins.spark35 import python_of_spark35

    python = sys.executable if spark == "4" else str(python_of_spark35())
    command = [python, "-W", "ignore", "-m", "benchmarks.spark", "--run", reader, str(folder), str(size.series),
               as_of.isoformat()]  # fmt: skip
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return Taken(**json.loads(told.splitlines()[-1]))


def measure(size: Size, folder: Path) -> list[Figure]:
    """All figures; the ratios are of runs that follow each other."""
    as_of = prepare(DeltaLake(folder / "lake"), chunks_of(size.series), size.days)
    taken = {run: in_its_own_process(*run, folder, size, as_of) for run in RUNS}
    told = f"{size.series:,} series × {size.days:,} days"
    return [
        *(Figure(f"Spark {v}, read by {who}, {told}", taken[v, who].clock, "s", "") for v, who in RUNS),
        *against("Spark 3.5 against Spark 4, workers read", taken[RUNS[2]], taken[RUNS[0]], 1.2),
        *against("Spark 3.5 against Spark 4, Spark reads", taken[RUNS[3]], taken[RUNS[1]], 1.2),
        *against("Spark brings the rows, against workers, 4", taken[RUNS[1]], taken[RUNS[0]], 1.5),
        *against("Spark brings the rows, against workers, 3.5", taken[RUNS[3]], taken[RUNS[2]], 1.5),
    ]


def against(what: str, one: Taken, other: Taken, most: float) -> Iterator[Figure]:
    """How many times `other` `one` took, by the clock and by CPU."""
    yield Figure(what, one.clock / other.clock, "times", f"at most {most}")
    yield Figure(f"{what}, CPU", one.cpu / other.cpu, "times", f"at most {most}")


def main(words: Sequence[str]) -> None:
    """Measures, and prints a table or JSON; or makes one run for it."""
    if words[:1] == ["--run"]:
        parser = argparse.ArgumentParser()
        for name, kind in (("reader", str), ("folder", Path), ("series", int), ("as_of", datetime.fromisoformat)):
            parser.add_argument(name, type=kind)
        run = parser.parse_args(words[1:])
        print(json.dumps(asdict(one_run(DeltaLake(run.folder / "lake"), run.series, run.as_of, run.reader))))
        return
    options = flags(__doc__ or "", "600 series instead of 10,000").parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(SMALL if options.small else FULL, Path(folder))
    show(figures, machine("pyspark"), as_json=options.json)


if __name__ == "__main__":
    main(sys.argv[1:])
