"""Resources of a day that go wrong: workers whose series raise, hang, exhaust memory or take the process down; a lake
whose disk is full. At the top of a module, so that workers find them.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from many_models.tasks import TrainTask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from many_models.ports import Chunk, ChunkResult, Compute, Lake, Task

SPARE_BYTES = 2**28


def exhaust_memory() -> None:
    """Allocate without end, in a process that may have 256 MiB more."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, before[1]))
    held = []
    try:
        while True:
            held.append(np.ones(2**22))
    finally:
        held.clear()
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True)
class Faulty:
    """What `task` does, but for chunks that hold one of the series of `faults`."""

    task: Task
    faults: Mapping[str, str]

    def __call__(self, chunk: Chunk) -> ChunkResult:
        for name in chunk.series:
            fault = self.faults.get(name)
            if fault == "raises":
                raise ValueError(f"{name} is too odd")
            if fault == "hangs":
                time.sleep(3600)
            if fault == "exhausts":
                exhaust_memory()
            if fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
        return self.task(chunk)


@dataclass
class FaultyTraining:
    """A compute on which the training of some series goes wrong, the first time with `faults`, then with `later`."""

    compute: Compute
    faults: Mapping[str, str]
    later: Mapping[str, str]

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        if not isinstance(task, TrainTask):
            return self.compute.run(task, chunks)
        faults, self.faults = self.faults, self.later
        return self.compute.run(Faulty(task, faults), chunks)

    def slots(self) -> int:
        return self.compute.slots()

    def check(self) -> str:
        return self.compute.check()


class FullDisk:
    """A lake whose disk is full when `table` is written; `refused` counts how often."""

    def __init__(self, lake: Lake, table: str) -> None:
        self._lake, self._table = lake, table
        self.refused = 0

    def __getattr__(self, name: str) -> object:
        found = getattr(self._lake, name)
        if name != "replace":
            return found

        def replace(table: str, *args: object, **kwargs: object) -> object:
            if table != self._table:
                return found(table, *args, **kwargs)
            self.refused += 1
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            try:
                return found(table, *args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)

        return replace

    def __reduce__(self) -> tuple[object, ...]:
        return FullDisk, (self._lake, self._table)
