"""Two versions of the source beside each other: what the demo, the small reference day and serving take, as ratios.

`git worktree add --detach OLD db2e60c`, then `python -m benchmarks._two_trees OLD . [--rounds 3] [--only demo]`; with
`--tiny` in minutes on a busy machine. Both versions run with this interpreter, in turns, so that a machine that becomes
slower meets both. A ratio is the median of NEW's seconds over the median of OLD's: processor time with all children,
and time on the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

COMMAND = """
try:
    from many_models.cli.main import main
except ImportError:
    from many_models.cli import main
main()
"""
DEMO = ("demo", "--end", "2026-10-31", "--series")
SIZES = {
    "demo": (("50", "--days", "200", "--into"), ("10", "--days", "150", "--into")),  # as always, and tiny
    "reference_day": (("--small",), ("--small", "--stores", "3", "--items", "4", "--days", "400", "--no-reference")),
    "serving": (("--small",), ("--small",)),
}
WORK = tuple(SIZES)


def words(work: str, folder: str, *, tiny: bool) -> list[str]:
    """The command line of a piece of work; `folder` is an empty one."""
    size = SIZES[work][tiny]
    if work == "demo":
        return [sys.executable, "-c", COMMAND, *DEMO, *size, f"{folder}/demo"]
    return [sys.executable, "-m", f"benchmarks.{work}", *size, "--json"]


def seconds(tree: Path, work: str, *, tiny: bool) -> tuple[float, float]:
    """Processor time and time on the clock of `work` with the source below `tree`. Ends this process where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    with tempfile.TemporaryDirectory() as folder:
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment["PYTHONPATH"] = str(tree)  # and a folder without dagster.yaml, whose instance others would use
        ended = subprocess.run(
            words(work, folder, tiny=tiny), cwd=folder, env=environment, check=False, capture_output=True
        )
        if ended.returncode:
            sys.exit(f"{work} in {tree} failed:\n{ended.stderr.decode(errors='replace')[-3000:]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, time.monotonic() - begun


def main() -> None:
    """Print a line of JSON for each piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WORK)
    parser.add_argument("--tiny", action="store_true", help="smaller than the figures that are published")
    given = parser.parse_args()
    trees = [given.old.resolve(), given.new.resolve()]
    for work in [given.only] if given.only else WORK:
        took: list[list[tuple[float, float]]] = [[], []]
        for _ in range(given.rounds):
            for tree, found in zip(trees, took, strict=True):
                found.append(seconds(tree, work, tiny=given.tiny))
        (old_cpu, old_wall), (new_cpu, new_wall) = ([median(kind) for kind in zip(*one, strict=True)] for one in took)
        figures = {"old_cpu": old_cpu, "new_cpu": new_cpu, "cpu_ratio": new_cpu / old_cpu}
        figures |= {"old_wall": old_wall, "new_wall": new_wall, "wall_ratio": new_wall / old_wall}
        print(json.dumps({"work": work} | {name: round(value, 2) for name, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
