"""Tasks that computes are shown: at the top of a module that is quick to import, so that workers find them."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa

from many_models.errors import SeriesError, SeriesFailure, UnavailableError
from many_models.ports import Chunk, ChunkResult
from many_models.system import THREAD_VARIABLES

if TYPE_CHECKING:
    from collections.abc import Callable


def chunked(*sizes: int) -> list[Chunk]:
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [
        Chunk(number, f"pack{number}", tuple(f"s{at}" for at in range(start, start + size)))
        for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
    ]


def wait_for(there: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    """Until `there` says so; an AssertionError that names `what` when it never does."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


def names(chunk: Chunk) -> dict[str, bytes]:
    return {"names": " ".join(chunk.series).encode()}


def describe(chunk: Chunk) -> ChunkResult:
    table = pa.table({"series_id": list(chunk.series), "pack": [chunk.pack] * len(chunk.series)})
    return ChunkResult({"rows": table, "none": table.slice(0, 0)}, {**names(chunk), "empty": b""})


def own_failures(chunk: Chunk) -> ChunkResult:
    return ChunkResult(failures=[SeriesFailure(name, "Odd", "by itself", permanent=True) for name in chunk.series])


class UnlikelyError(Exception):
    """Neither it nor its argument can be pickled."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = lambda: what


@dataclass(frozen=True)
class Raises:
    """Describes chunks, but for those that hold one of these series."""

    bad: tuple[str, ...]
    how: str = "value"

    def __call__(self, chunk: Chunk) -> ChunkResult:
        for name in set(self.bad) & set(chunk.series):
            if self.how == "exit":
                raise SystemExit(3)
            raise {
                "value": ValueError("no good"),
                "series": SeriesError(name, "too short"),
                "transient": UnavailableError("the lake is away"),
                "memory": MemoryError(),
                "unlikely": UnlikelyError("no pickle"),
                "file": FileNotFoundError("gone"),
            }[self.how]
        return describe(chunk)


@dataclass(frozen=True)
class Leaves:
    """Leaves a file for each chunk that was begun."""

    folder: str
    seconds: float = 0.0

    def __call__(self, chunk: Chunk) -> ChunkResult:
        (Path(self.folder) / f"{chunk.number}-{os.getpid()}").touch()
        time.sleep(self.seconds)
        return describe(chunk)


class AsksWhoItIs:
    """Its result's file `client_id` says which managed identity it asked for, where its driver's settings name one."""

    def __call__(self, chunk: Chunk) -> ChunkResult:
        import azure.identity

        from many_models.adapters.azure.identity import credential

        asked: list[str | None] = []
        azure.identity.ManagedIdentityCredential = lambda client_id=None: asked.append(client_id)
        credential.cache_clear()
        credential("managed_identity", "the driver's")
        return replace(describe(chunk), files={"client_id": str(asked[0]).encode()})


@dataclass(frozen=True)
class SlowFrom:
    """Is quick until a chunk holds this series, and slow from then on; leaves a file named as each slow series."""

    series: str
    seconds: float
    folder: str

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if min(int(name[1:]) for name in chunk.series) >= int(self.series[1:]):
            for name in chunk.series:
                (Path(self.folder) / name).touch()
            time.sleep(self.seconds)
        return describe(chunk)


@dataclass(frozen=True)
class Harms:
    """Kills or hangs its worker when a chunk holds one of these series."""

    bad: tuple[str, ...]
    how: str

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if set(self.bad) & set(chunk.series):
            if self.how == "deaf":  # as compiled code is to Python's signals
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            if self.how in {"hang", "deaf"}:
                time.sleep(1000)
            if self.how == "leave":
                os._exit(7)
            os.kill(os.getpid(), signal.SIGKILL)
        return ChunkResult(files=names(chunk))


@dataclass(frozen=True)
class KilledOnce:
    """A worker is killed from outside, once, whatever it does at the time."""

    mark: str

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if "s4" in chunk.series and not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ChunkResult(files=names(chunk))


@dataclass(frozen=True)
class KillsItsExecutor:
    """Kills the JVM that its worker belongs to, once, when it has been given this series."""

    mark: str
    series: str

    def __call__(self, chunk: Chunk) -> ChunkResult:
        if self.series in chunk.series and not Path(self.mark).exists():
            Path(self.mark).touch()
            executor = psutil.Process().parents()[1]  # a worker is a child of pyspark's daemon, that of the executor
            assert executor.name() == "java"
            executor.kill()
            time.sleep(600)
        return ChunkResult(files=names(chunk))


@dataclass(frozen=True)
class UsesMine:
    """Takes a module that is no part of any package."""

    def __call__(self, chunk: Chunk) -> ChunkResult:
        import mine_for_azureml

        return ChunkResult(files={**names(chunk), "said": mine_for_azureml.SAID})


@dataclass(frozen=True)
class KillsItsNode:
    """Kills the entry script's process, which is the parent of the one that it runs in: `times` times, and not before
    the `earlier` file is there.
    """

    folder: str
    bad: str
    times: int
    earlier: str

    def __call__(self, chunk: Chunk) -> ChunkResult:
        marks = [Path(self.folder) / f"mark{at}" for at in range(self.times)]
        if self.bad in chunk.series and (unused := [mark for mark in marks if not mark.exists()]):
            unused[0].touch()
            folder, _, pattern = self.earlier.partition("|")
            wait_for(lambda: list(Path(folder).glob(pattern)), "an earlier chunk's result", 300.0)
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        (Path(self.folder) / f"{chunk.number}-{time.time_ns()}").touch()
        return ChunkResult(files=names(chunk))


def about_me(chunk: Chunk) -> ChunkResult:
    threads = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    return ChunkResult(files={"pid": str(os.getpid()).encode(), "threads": repr(threads).encode()})


def chatters(chunk: Chunk) -> ChunkResult:
    sys.stdout.write("a task that prints" * 1000)
    os.write(1, b"even past Python")
    assert not sys.stdin.read()
    return describe(chunk)


def slices(chunk: Chunk) -> ChunkResult:
    return ChunkResult({"rows": pa.table({"n": np.arange(1_000_000)}).slice(17, 3)}, {"model": bytes(3_000_000)})


@dataclass(frozen=True)
class Unloadable:
    def __call__(self, chunk: Chunk) -> ChunkResult:
        return describe(chunk)

    def __reduce__(self):
        return (missing_in_a_worker, (os.getpid(),))


def missing_in_a_worker(pid: int):
    if os.getpid() != pid:
        raise ImportError("no package of that name")
    return Unloadable()
