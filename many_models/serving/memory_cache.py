"""Loaded packs within a budget of bytes: one load however many ask, the least used leave one by one.

All of it happens on the event loop's thread; only the loading itself does not.
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.errors import InputError, ManyModelsError, TransientError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from concurrent.futures import Executor

    from many_models.data.release_index import PackId
    from many_models.serving.loaded_pack import LoadedPack

REMEMBERED = 1_000  # packs whose failure is remembered
TRANSIENT_SECONDS, PERMANENT_SECONDS = 1.0, 30.0  # for so long


@dataclass(slots=True)
class _Entry:
    pack: LoadedPack
    cost: int
    used: bool = False


@dataclass(slots=True)
class Counts:
    """What the cache has done so far."""

    hits: int = 0
    loads: int = 0
    waits: int = 0
    evictions: int = 0
    failures: int = 0


class PackCache:
    """At most `budget` bytes of packs. `size` says how many bytes a pack needs and may fetch it; `load` opens it, on
    `threads`.

    The second-chance rule chooses who leaves: oldest first, but one that was used since the hand last passed stays.
    """

    def __init__(
        self,
        budget: int,
        size: Callable[[PackId], Awaitable[int]],
        load: Callable[[PackId], LoadedPack],
        threads: Executor,
    ) -> None:
        self.budget, self.counts = budget, Counts()
        self._size, self._load, self._threads = size, load, threads
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._loading: dict[str, asyncio.Task[LoadedPack]] = {}
        self._failed: OrderedDict[str, tuple[float, ManyModelsError]] = OrderedDict()
        self._held = 0  # loaded and being loaded
        self._leaving = 0  # left, and still answering
        self._leaves = threading.RLock()

    @property
    def bytes(self) -> int:
        """What is loaded, being loaded, and left but still in use."""
        return self._held + self._leaving

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[LoadedPack]:
        return iter([entry.pack for entry in self._entries.values()])

    def ready(self, pack: PackId) -> LoadedPack | None:
        """The pack when it is loaded."""
        entry = self._entries.get(pack.sha256)
        if entry is None:
            return None
        entry.used = True
        self.counts.hits += 1
        return entry.pack

    def holds(self, pack: PackId) -> bool:
        """Whether the pack is loaded; asking does not count as use."""
        return pack.sha256 in self._entries

    async def get(self, pack: PackId) -> LoadedPack:
        """The pack, loaded now if need be. Raises what loading it raises, for a while without trying again."""
        if (found := self.ready(pack)) is not None:
            return found
        if pack.sha256 in self._failed:
            until, error = self._failed[pack.sha256]
            if time.monotonic() < until:
                raise copy.copy(error)  # the same one would collect tracebacks
            del self._failed[pack.sha256]
        task = self._loading.get(pack.sha256)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._loaded(pack))
            task.add_done_callback(_seen)
            self._loading[pack.sha256] = task
        else:
            self.counts.waits += 1
        return await asyncio.shield(task)

    async def _loaded(self, pack: PackId) -> LoadedPack:
        loop, reserved = asyncio.get_running_loop(), 0
        try:
            size = await self._size(pack)
            if size > self.budget:
                raise InputError(
                    f"pack {pack.ref} needs {size / 1e6:.0f} MB, the cache may hold {self.budget / 1e6:.0f} MB: "
                    "raise serve.memory_mb, or make smaller packs (packs.by)"
                )
            self._make_room(size)
            self._held, reserved = self._held + size, size
            loaded = await loop.run_in_executor(self._threads, self._load, pack)
            self._entries[pack.sha256] = _Entry(loaded, loaded.cost)
            self._held += loaded.cost
            self.counts.loads += 1
        except ManyModelsError as error:
            self._remember(pack, error)
            raise
        else:
            return loaded
        finally:
            self._held -= reserved
            del self._loading[pack.sha256]
            self._make_room(0)

    def grown(self, pack: LoadedPack) -> None:
        """Record that the pack costs more than before."""
        if (entry := self._entries.get(pack.id.sha256)) is not None and entry.pack is pack:
            self._held += pack.cost - entry.cost
            entry.cost = pack.cost
            self._make_room(0)

    def _make_room(self, size: int) -> None:
        while self._entries and self._held + size > self.budget:
            sha256, entry = self._entries.popitem(last=False)
            if entry.used:
                entry.used = False
                self._entries[sha256] = entry
                continue
            self.counts.evictions += 1
            self._held -= entry.cost
            with self._leaves:
                self._leaving += entry.cost
            # it counts until the last request that uses it has been answered, by whatever thread
            weakref.finalize(entry.pack, self._left, entry.cost).atexit = False

    def _left(self, cost: int) -> None:
        with self._leaves:
            self._leaving -= cost

    def _remember(self, pack: PackId, error: ManyModelsError) -> None:
        self.counts.failures += 1
        seconds = TRANSIENT_SECONDS if isinstance(error, TransientError) else PERMANENT_SECONDS
        self._failed[pack.sha256] = (time.monotonic() + seconds, error.with_traceback(None))
        while len(self._failed) > REMEMBERED:
            self._failed.popitem(last=False)


def _seen(task: asyncio.Task[LoadedPack]) -> None:
    """No request may be waiting any more: without this asyncio would complain about an error that was never read."""
    if not task.cancelled():
        task.exception()
