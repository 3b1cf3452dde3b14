"""The compute: runs tasks over chunks of series."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pyarrow as pa

    from many_models.errors import SeriesFailure
    from many_models.ports.lake import Filter, Lake


@dataclass(frozen=True, slots=True)
class Chunk:
    """The series sent to one worker at a time: `number` in the run's order, the `pack` they belong to."""

    number: int
    pack: str
    series: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a worker returns: named tables, named bytes, and the series that failed in it."""

    tables: Mapping[str, pa.Table] = field(default_factory=dict[str, "pa.Table"])
    files: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    failures: Sequence[SeriesFailure] = ()


Task = Callable[[Chunk], ChunkResult]


@runtime_checkable
class NarrowingTask(Protocol):
    """A task that knows what of it a chunk needs, so that no more than that travels to a far worker."""

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Do the chunk."""
        ...

    def for_chunk(self, chunk: Chunk) -> Task:
        """A task that does `chunk` as this one does, and reads no file of this machine."""
        ...


@runtime_checkable
class ReadingTask(Protocol):
    """A task that says what it reads of the lake, so that a compute can bring the rows in the lake's place."""

    @property
    def lake(self) -> Lake:
        """The lake that it reads."""
        ...

    def __call__(self, chunk: Chunk) -> ChunkResult:
        """Do the chunk."""
        ...

    def large(self) -> tuple[str, Filter]:
        """The table of many rows a series, with the columns `pack` and `series_id`, and from when on it reads them."""
        ...

    def small(self, chunk: Chunk) -> Sequence[tuple[str, Filter]]:
        """The other tables, and what of them it reads for `chunk`; one that is not there is left out."""
        ...

    def over(self, lake: Lake) -> ReadingTask:
        """The task with `lake` in place of its own."""
        ...


@runtime_checkable
class Compute(Protocol):
    """Runs a picklable task over chunks of series."""

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """Each chunk's result, in the chunks' order, as soon as it and those before it are there.

        A task that raises is not retried here: its chunk is split until the series that raise are alone, and those
        come as `SeriesFailure`s. A worker that dies or hangs is replaced, and its chunk split in the same way
        (kind `WorkerLost` or `WorkerTimeout`, not permanent); the rest of the chunk is done. A split chunk comes as
        several pairs, whose chunks carry the same number. Interrupting or closing the iterator stops the workers.
        """
        ...

    def slots(self) -> int:
        """How many chunks it does at a time, as far as it knows."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...
