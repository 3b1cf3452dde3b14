"""kill -9 at random moments of a day: resumed, does it end in the tables of an undisturbed one? The moments come from a
seed, which is printed with each. `python -m benchmarks.killed_days [--times 100] [--seed N] [--log FILE] [--json]`.

With --log each day is noted in FILE when it is over, and days that are noted there are not done again: a hundred days
can be measured in several sittings.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._report import Figure, flags, machine, show
from many_models.keys import digest
from many_models_tests.support.killed import PRELOADED
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

YESTERDAY = END - timedelta(days=1)
EARLIER = 0.7  # a kill that came after the day's end is tried again after this part of the time
PATIENCE = 900  # seconds for a day that is not killed
_FORK = multiprocessing.get_context("fork")  # a child has every module loaded: what is killed is the day, not imports


def run_day(root: Path) -> None:
    """Everything that is due on the project's last day."""
    Project(root).run(END)


def first_day(root: Path) -> None:
    """A project and its first day."""
    make_project(root, sales(stores=1, items=2, days=60), forecast={"horizon": 3, "windows": 1}).run(YESTERDAY)


def write_tables(root: Path) -> None:
    """Run the day to its end; a digest of each table, and how much is due after it, into a file beside the project."""
    project = Project(root)
    project.run(END)
    left = project.run(END)
    lines = [f"{name} {digest(frame.to_csv(index=False))}" for name, frame in project.contents().items()]
    root.with_suffix(".tables").write_text("\n".join([*lines, f"due {len(left)}"]))


def child(work: Callable[[Path], None], root: Path) -> BaseProcess:
    """`work` in a process of its own, begun."""
    process = _FORK.Process(target=_quietly, args=(work, root))
    process.start()
    return process


def _quietly(work: Callable[[Path], None], root: Path) -> None:
    log = os.open(root.with_suffix(".log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    work(root)


def finish(work: Callable[[Path], None], root: Path) -> float:
    """Seconds of `work` to its end. Raises RuntimeError with the log where it failed."""
    began = time.monotonic()
    process = child(work, root)
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise RuntimeError(
            f"{work.__name__}: exit code {process.exitcode}\n{root.with_suffix('.log').read_text()[-2000:]}"
        )
    return time.monotonic() - began


def killed(begun: Path, root: Path, seconds: float) -> float:
    """Copy the project `begun` to `root` and kill its day after `seconds`, or sooner where it has ended by then.

    Returns the seconds after which it was killed.
    """
    while True:
        shutil.copytree(begun, root)
        process = child(run_day, root)
        process.join(seconds)
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return seconds
        shutil.rmtree(root)
        seconds *= EARLIER


@dataclass(frozen=True, slots=True)
class Beaten:
    """A day that was killed and resumed: `part` is where in an undisturbed day's time; `tables` what it ended with."""

    seed: int
    part: float
    equal: bool
    tables: str


def read_log(log: Path | None) -> dict[int, Beaten]:
    """Seed → the day that an earlier sitting noted; a line that was cut off is left out."""
    found = dict[int, Beaten]()
    for line in log.read_text().splitlines() if log is not None and log.exists() else []:
        with suppress(ValueError, TypeError):
            day = Beaten(**json.loads(line))
            found[day.seed] = day
    return found


def measure(times: int, seed: int, log: Path | None, say: Callable[[str], None]) -> list[Figure]:
    """How many of `times` days, each killed once and resumed, end as the undisturbed one does."""
    for module in PRELOADED:  # before the first child is made
        import_module(module)
    noted = read_log(log)
    with tempfile.TemporaryDirectory(prefix="many_models_killed_") as folder:
        begun, clean = Path(folder, "begun"), Path(folder, "clean")
        finish(first_day, begun)
        shutil.copytree(begun, clean)
        whole = finish(run_day, clean)
        finish(write_tables, clean)
        expected = clean.with_suffix(".tables").read_text()
        for number in range(seed, seed + times):
            if number in noted:
                continue
            root = Path(folder, f"day{number}")
            after = killed(begun, root, random.Random(number).uniform(0, whole))
            finish(write_tables, root)
            tables = root.with_suffix(".tables").read_text()
            noted[number] = Beaten(number, round(after / whole, 3), tables == expected, digest(tables))
            if log is not None:
                with log.open("a") as file:
                    file.write(json.dumps(asdict(noted[number])) + "\n")
            say(f"seed {number}: killed after {after:.2f} of {whole:.2f} s, "
                f"tables {'equal' if tables == expected else 'DIFFER'}")  # fmt: skip
            if tables != expected:
                kept = Path(tempfile.mkdtemp(prefix="many_models_differs_"))
                shutil.copytree(root, kept / root.name)
                (kept / "expected").write_text(expected)
                (kept / "found").write_text(tables)
                say(f"   kept in {kept}")
            shutil.rmtree(root)
    days = [noted[number] for number in range(seed, seed + times)]
    equal = sum(day.equal and day.tables == digest(expected) for day in days)
    where = f"seeds {seed} to {seed + times - 1}, at {min(d.part for d in days):.0%} to {max(d.part for d in days):.0%}"
    return [
        Figure("days killed at a random moment and resumed", times, "days", f"{where} of the day"),
        Figure("of them with tables equal to the undisturbed day's", equal, "days", f"must be {times}"),
    ]


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "3 days")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=16)
    parser.add_argument("--log", type=Path, help="note each day here; days that are noted are not done again")
    given = parser.parse_args()
    times = 3 if given.small else given.times
    figures = measure(times, given.seed, given.log, lambda line: print(line, file=sys.stderr, flush=True))
    show(figures, machine("dagster", "deltalake"), as_json=given.json)
    sys.exit(0 if figures[1].value == times else 1)


if __name__ == "__main__":
    main()
