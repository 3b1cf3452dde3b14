"""Chunks one after the other in this process, and how a chunk that fails is split."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from many_models.errors import InputError, SeriesFailure
from many_models.ports import ChunkResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from many_models.ports import Chunk, Task


class SerialCompute:
    """Runs tasks here, one chunk at a time; what kills or hangs a task does so to this process."""

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """See `Compute.run`."""
        require_series(chunks)
        waiting = list(reversed(chunks))
        while waiting:
            chunk = waiting.pop()
            try:
                result = task(chunk)
            except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever a task raises is its series' failure
                if len(chunk.series) > 1:
                    waiting += reversed(halves(chunk))
                    continue
                result = ChunkResult(failures=tuple(SeriesFailure.of(name, error) for name in chunk.series))
            yield chunk, result

    def slots(self) -> int:
        """See `Compute.slots`."""
        return 1

    def check(self) -> str:
        """See `Compute.check`."""
        return "serial: one chunk at a time in this process"


def require_series(chunks: Sequence[Chunk]) -> None:
    """Raise InputError when a chunk is empty: a task that raises on it would fail no series."""
    if empty := [chunk.number for chunk in chunks if not chunk.series]:
        raise InputError(f"chunks without series: {', '.join(map(str, empty))}; leave them out")


def halves(chunk: Chunk) -> tuple[Chunk, Chunk]:
    """A chunk of several series as two, of the same number."""
    middle = len(chunk.series) // 2
    return replace(chunk, series=chunk.series[:middle]), replace(chunk, series=chunk.series[middle:])
