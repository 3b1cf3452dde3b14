"""One day of a project in a process of its own, as a scheduler starts it, with what each port took written down.

`main` runs what is due in the folder that is the process's first argument, up to and with the stage that is its second
(if any), and prints one JSON object: a mark after each stage. Calls of ports, in workers too, are lines in the folder's
`ports`, a file for each process.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.operations.day import StageReport

_CALLING = threading.local()


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a day stands when a stage has ended: the moment, and the CPU seconds of the process tree so far."""

    stage: str
    series: int
    failed: int
    seconds: float
    at: float
    cpu: float
    driver_cpu: float


class Timed:
    """A port whose outermost calls are written down with their wall and CPU seconds."""

    def __init__(self, port: object, name: str, folder: str) -> None:
        self._port, self._name, self._folder = port, name, folder

    def __reduce__(self) -> tuple[type[Timed], tuple[object, str, str]]:
        return Timed, (self._port, self._name, self._folder)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found):
            return found

        def call(*args: object, **kwargs: object) -> object:
            result = self._timed(lambda: found(*args, **kwargs))
            return self._each(result) if isinstance(result, Iterator) else result

        return call

    def _each(self, items: Iterator[object]) -> Iterator[object]:
        end = object()
        while (item := self._timed(lambda: next(items, end))) is not end:
            yield item

    def _timed(self, work: Callable[[], object]) -> object:
        if getattr(_CALLING, "port", False):
            return work()
        _CALLING.port = True
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return work()
        finally:
            _CALLING.port = False
            line = f"{time.time()} {self._name} {time.perf_counter() - wall} {time.process_time() - cpu}\n"
            with (Path(self._folder) / f"{os.getpid()}").open("a") as file:
                file.write(line)


def tree_cpu() -> float:
    """CPU seconds of this process, of its children that have ended, and of those that run."""
    here = psutil.Process()
    own = here.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in here.children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


class Enough(Exception):  # noqa: N818 -- no error: the last stage that is asked for has run
    """What is asked for has been measured."""


def main() -> None:
    """Run the day and print its marks."""
    from many_models.definitions import BUILDERS
    from many_models.operations.day import Day, Progress, open_instance
    from many_models.settings import load_settings

    folder, through = Path(sys.argv[1]), sys.argv[2]
    ports = folder / "ports"
    ports.mkdir(exist_ok=True)
    settings = load_settings(folder / "many_models.toml")
    marks: list[Mark] = []

    def mark(report: StageReport) -> None:
        cpu, driver = tree_cpu(), time.process_time()
        marks.append(Mark(report.stage, report.done, report.failed, report.seconds, time.time(), cpu, driver))
        print(f"{report.stage}: {report.done} done, {report.failed} failed, {report.seconds:.1f} s", file=sys.stderr)
        if report.stage == through:
            raise Enough

    timed = {name: Timed(make(settings), name, str(ports)) for name, make in BUILDERS.items()}
    with open_instance(folder / "dagster") as instance, suppress(Enough):
        Day(settings, instance, Progress(report=mark), timed).run()
    print(json.dumps({"driver": os.getpid(), "marks": [asdict(found) for found in marks]}))
