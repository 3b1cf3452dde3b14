"""How the keys of a run become chunks, and how chunks are followed to their end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from many_models.data.packs import packs_of
from many_models.ports import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import dagster as dg
    import pyarrow as pa

    from many_models.errors import SeriesFailure
    from many_models.ports import ChunkResult, Compute, Task
    from many_models.settings import Settings

PROGRESS_SECONDS = 5.0
CHUNKS_PER_SLOT, SMALLEST, LARGEST = 4, 25, 200


def chunks_of(settings: Settings, series: Sequence[str], compute: Compute) -> list[Chunk]:
    """`series` in chunks of one pack and at most `compute.chunk` series each, else of what fills the slots evenly."""
    size = settings.compute.chunk or chunk_size(len(series), compute.slots())
    parts = [
        (pack, tuple(names[start : start + size]))
        for pack, names in packs_of(settings, series).items()
        for start in range(0, len(names), size)
    ]
    return [Chunk(number, pack, names) for number, (pack, names) in enumerate(parts)]


def chunk_size(series: int, slots: int) -> int:
    """Return the series of a chunk: each slot gets `CHUNKS_PER_SLOT` chunks, so that all slots end together.

    At least SMALLEST, so that reading costs less than fitting; at most LARGEST, which a worker can hold or lose.
    """
    return min(LARGEST, max(SMALLEST, -(-series // (slots * CHUNKS_PER_SLOT))))


Results = list[tuple[Chunk, "ChunkResult"]]


def concat_results(results: Results, name: str) -> pa.Table:
    """The tables called `name` of all results, as one."""
    import pyarrow as pa

    return pa.concat_tables([r.tables[name] for _, r in results if name in r.tables], promote_options="permissive")


def failures_of(results: Results) -> list[SeriesFailure]:
    """The failures of all results."""
    return [failure for _, result in results for failure in result.failures]


def good_series(results: Results) -> list[str]:
    """The series of all results but those that failed."""
    bad = {failure.series_id for failure in failures_of(results)}
    return [name for chunk, _ in results for name in chunk.series if name not in bad]


def follow(
    context: dg.AssetExecutionContext, compute: Compute, task: Task, chunks: Sequence[Chunk]
) -> Iterator[tuple[str, Results]]:
    """Run `task` over `chunks` and yield, pack by pack, the results of all chunks of that pack; says how far it is."""
    began = said = time.monotonic()
    total = sum(len(chunk.series) for chunk in chunks)
    finished, failed = 0, 0
    current: str | None = None
    held: Results = []
    for chunk, result in compute.run(task, chunks):
        if current is not None and chunk.pack != current:
            yield current, held
            held = []
        current = chunk.pack
        held.append((chunk, result))
        finished += len(chunk.series)
        failed += len(result.failures)
        if time.monotonic() - said >= PROGRESS_SECONDS or finished == total:
            said = time.monotonic()
            context.log.info(f"{finished} of {total} series, {failed} failed, {said - began:.1f} s")
    if current is not None:
        yield current, held
