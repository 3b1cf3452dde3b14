"""kill -9 at random moments of a day: resumed, does it end in the tables of an undisturbed one? The moments come from a
seed, which is printed with each. `python -m benchmarks.killed_days [--times 100] [--seed N] [--small] [--json]`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._report import Figure, flags, machine, show
from many_models.keys import digest
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

YESTERDAY = END - timedelta(days=1)
PATIENCE = 900  # seconds for a day that is not killed
_FORK = multiprocessing.get_context("fork")  # a child has every module loaded: what is killed is the day, not imports


def run_day(root: Path) -> None:
    """Everything that is due on the project's last day."""
    Project(root).run(END)


def first_day(root: Path) -> None:
    """A project and its first day."""
    make_project(root, sales(stores=2, items=2, days=90)).run(YESTERDAY)


def write_tables(root: Path) -> None:
    """A digest of each table, and whether nothing is due any more, into a file beside the project."""
    project = Project(root)
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


def killed(root: Path, seconds: float) -> bool:
    """Whether the day was still at work when it was killed after `seconds`."""
    process = child(run_day, root)
    process.join(seconds)
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL


def measure(times: int, seed: int, say: Callable[[str], None]) -> list[Figure]:
    """How many of `times` days, each killed once and resumed, end as the undisturbed one does."""
    import_module("many_models.definitions")  # before the first child is made
    equal, struck = 0, 0
    with tempfile.TemporaryDirectory(prefix="many_models_killed_") as folder:
        begun, clean = Path(folder, "begun"), Path(folder, "clean")
        finish(first_day, begun)
        shutil.copytree(begun, clean)
        whole = finish(run_day, clean)
        finish(write_tables, clean)
        expected = clean.with_suffix(".tables").read_text()
        for number in range(times):
            after = random.Random(seed + number).uniform(0, whole)
            root = Path(folder, f"day{number}")
            shutil.copytree(begun, root)
            hit = killed(root, after)
            finish(run_day, root)
            finish(write_tables, root)
            same = root.with_suffix(".tables").read_text() == expected
            equal, struck = equal + same, struck + hit
            say(f"{number + 1}: seed {seed + number}, after {after:.2f} of {whole:.2f} s, "
                f"{'killed' if hit else 'it had ended'}, tables {'equal' if same else 'DIFFER'}")  # fmt: skip
            if same:
                shutil.rmtree(root)
            else:
                kept = Path(tempfile.mkdtemp(prefix="many_models_differs_"))
                shutil.copytree(root, kept / root.name)
                say(f"   kept in {kept}")
    return [
        Figure(
            "days killed at a random moment and resumed", times, "days", f"{struck} while at work, seeds from {seed}"
        ),
        Figure("of them with tables equal to the undisturbed day's", equal, "days", f"must be {times}"),
    ]


def main() -> None:
    """Measure and print."""
    parser = flags(__doc__ or "", "3 days")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=16)
    given = parser.parse_args()
    times = 3 if given.small else given.times
    figures = measure(times, given.seed, lambda line: print(line, file=sys.stderr, flush=True))
    show(figures, machine("dagster", "deltalake"), as_json=given.json)
    sys.exit(0 if figures[1].value == times else 1)


if __name__ == "__main__":
    main()
