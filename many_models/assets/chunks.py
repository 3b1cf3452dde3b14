"""How the keys of a run become chunks, and how chunks are followed to their end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from many_models.keys import SeriesKey, pack_of
from many_models.ports import Chunk

if TYPE_CHECKING:
    import dagster as dg

    from many_models.ports import ChunkResult, Compute, Task
    from many_models.settings import Settings

PROGRESS_SECONDS = 5.0


def packs_of(settings: Settings, series: Sequence[str]) -> dict[str, list[str]]:
    """Pack → its series among `series`, both in order of first appearance."""
    packs = defaultdict[str, list[str]](list)
    keys = settings.data.keys
    for name in series:
        pack = pack_of(SeriesKey.parse(name, len(keys)), keys, settings.packs.by, settings.packs.buckets)
        packs[pack].append(name)
    return dict(packs)


def chunks_of(settings: Settings, series: Sequence[str]) -> list[Chunk]:
    """`series` in chunks of one pack and at most `compute.chunk` series each."""
    size = settings.compute.chunk
    parts = [
        (pack, tuple(names[start : start + size]))
        for pack, names in packs_of(settings, series).items()
        for start in range(0, len(names), size)
    ]
    return [Chunk(number, pack, names) for number, (pack, names) in enumerate(parts)]


def follow(
    context: dg.AssetExecutionContext, compute: Compute, task: Task, chunks: Sequence[Chunk]
) -> Iterator[tuple[str, list[tuple[Chunk, ChunkResult]]]]:
    """Run `task` over `chunks` and yield, pack by pack, the results of all chunks of that pack; says how far it is."""
    began = said = time.monotonic()
    total = sum(len(chunk.series) for chunk in chunks)
    finished, failed = 0, 0
    current: str | None = None
    held = list[tuple["Chunk", "ChunkResult"]]()
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
