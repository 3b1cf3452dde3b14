"""How long after the end of a stage the next one starts under Dagster's daemon, with the intervals that we ship.
`python -m benchmarks.stage_hop [--nights 3] [--small] [--json]`.

A small project's daemon runs for some nights, each with one more day of sales. From the records of its runs: the time
from the end of a stage's run to the request of the next (a sensor's tick), to its launch (the run queue), and to its
start (a new process has imported the code location). raw_sales is started by the schedule, so it begins no hop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import dagster as dg

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import END, Size, project
from many_models.operations.day import open_instance
from many_models.orchestration.automation import JOBS
from many_models.orchestration.event_log import history

if TYPE_CHECKING:
    from benchmarks.reference_day import Sales

SIZE = Size(1, 20, 90, 0, 0, 0)
SETTINGS = '\n[dagster]\ncron = "* * * * *"\n\n[forecast]\ntrees = false\nwindows = 1\nhorizon = 7\n'
PATIENCE = 1800
GOALS = {"asked for": "", "launched": "at most 5", "started": ""}


def night(instance: dg.DagsterInstance, loads: int) -> None:
    """Wait until the warehouse was loaded `loads` times and nothing runs."""
    until = time.monotonic() + PATIENCE
    key = dg.AssetKey("warehouse_predictions")
    while len(instance.fetch_materializations(key, limit=1000).records) < loads or history.runs_in_flight(instance):
        if time.monotonic() > until:
            raise RuntimeError(f"the daemon has not loaded the warehouse {loads} times within {PATIENCE} s")
        time.sleep(1)


def hops(instance: dg.DagsterInstance) -> list[dict[str, float]]:
    """For each run after raw_sales: the seconds from the end of the run before it to its request, launch and start."""
    records = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS]), ascending=True)
    ours = [record for record in records if record.dagster_run.job_name in JOBS.values()]
    found = list[dict[str, float]]()
    for before, after in pairwise(ours):
        if after.dagster_run.job_name == JOBS["raw_sales"] or before.end_time is None:
            continue
        stats = instance.get_run_stats(after.dagster_run.run_id)
        moments = {
            "asked for": after.create_timestamp.timestamp(),
            "launched": getattr(stats, "launch_time", None),
            "started": getattr(stats, "start_time", None),
        }
        found.append({name: at - before.end_time for name, at in moments.items() if at is not None})
    return found


def measured(folder: Path, nights: int) -> list[dict[str, float]]:
    """The hops of some nights."""
    sales: Sales = project(folder, SIZE.stores, SIZE)
    with (folder / "many_models.toml").open("a") as settings:
        settings.write(SETTINGS)
    home = folder / "dagster"
    environment = os.environ | {"DAGSTER_HOME": str(home), "MANY_MODELS_CONFIG": str(folder / "many_models.toml")}
    with open_instance(home) as instance, (folder / "daemon.log").open("w") as log:
        words = [sys.executable, "-m", "dagster._daemon", "run", "-m", "many_models.definitions"]
        daemon = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            for number in range(1, nights + 1):
                night(instance, number)
                if number < nights:
                    sales.add(END + timedelta(days=number), 1)
        finally:
            daemon.terminate()
            daemon.wait(120)
        return hops(instance)


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "one night")
    parser.add_argument("--nights", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name) / "day", 1 if args.small else args.nights)
    figures = [
        Figure(f"end of a stage until the next is {what}, median of {len(found)}", value, "s", goal)
        for what, goal in GOALS.items()
        for value in [median(hop[what] for hop in found if what in hop)]
    ]
    show(figures, machine("dagster"), as_json=args.json)


if __name__ == "__main__":
    main()
