"""A run's chunks as jobs: their order, how one that ends badly is split, and what of a task a job needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from queue import Empty
from typing import TYPE_CHECKING, TypeVar

from many_models.adapters.compute.serial import halves
from many_models.errors import SeriesFailure
from many_models.ports import Chunk, ChunkResult, NarrowingTask, Task

if TYPE_CHECKING:
    from queue import Queue, SimpleQueue

T = TypeVar("T")
AWAKE_SECONDS = 1.0  # in which a thread that waits looks whether it was interrupted
SHORTEST = 0.25  # a part of a split chunk has its share of the timeout, but never less than this share


@dataclass(order=True, slots=True)
class Job:
    """A chunk or a part of one: its place in the order, its share of the chunk, and its result once it is there."""

    order: tuple[int, int]
    chunk: Chunk = field(compare=False)
    share: float = field(compare=False, default=1.0)
    result: ChunkResult | None = field(compare=False, default=None)

    def part(self, chunk: Chunk, after: int = 0) -> Job:
        """The job of a part of its chunk that begins `after` series."""
        place, at = self.order
        return Job((place, at + after), chunk, len(chunk.series) / len(self.chunk.series) * self.share)

    def seconds(self, timeout: float) -> float:
        """How long it may take: finding the one series that hangs takes about three timeouts, not one a halving."""
        return timeout * max(self.share, SHORTEST)


@dataclass(frozen=True, slots=True)
class WorkerFailure:
    """Why a chunk has no result: a task that raised, or a worker that was lost."""

    kind: str
    reason: str
    permanent: bool

    def of(self, series_id: str) -> ChunkResult:
        """The result of the one series that it befell."""
        return ChunkResult(failures=(SeriesFailure(series_id, self.kind, self.reason, self.permanent),))


def assign_result(in_flight: list[Job], job: Job, outcome: ChunkResult | WorkerFailure) -> list[Job]:
    """Give `job`, one of `in_flight`, its result; where it has none, its halves take its place and are to be done."""
    if isinstance(outcome, ChunkResult):
        job.result = outcome
    elif len(job.chunk.series) == 1:
        job.result = outcome.of(job.chunk.series[0])
    else:
        first, second = halves(job.chunk)
        parts = [job.part(first), job.part(second, len(first.series))]
        at = in_flight.index(job)
        in_flight[at : at + 1] = parts
        return parts
    return []


def for_chunk(task: Task, chunk: Chunk) -> Task:
    """What of `task` the chunk needs, where the task can tell."""
    return task.for_chunk(chunk) if isinstance(task, NarrowingTask) else task


def not_run(chunk: Chunk, kind: str, reason: str) -> ChunkResult:
    """The result of a chunk that no worker will do any more in this run: each of its series fails for this time."""
    return ChunkResult(failures=tuple(SeriesFailure(name, kind, reason, permanent=False) for name in chunk.series))


def next_of(queue: Queue[T] | SimpleQueue[T]) -> T:
    """What comes next from `queue`. An interruption is raised within AWAKE_SECONDS: the system may hand a signal to
    another thread, and then it does not end the wait of this one.
    """
    while True:
        try:
            return queue.get(timeout=AWAKE_SECONDS)
        except Empty:
            continue
