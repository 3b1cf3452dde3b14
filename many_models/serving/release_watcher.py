"""Follows the registry's live release: sees a switch within seconds, takes it over when its packs are verified."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from many_models.data.release_index import ReleaseIndex
from many_models.errors import IntegrityError, ManyModelsError, TransientError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Executor

    from many_models.data.release_cache import ReleaseCache
    from many_models.data.release_index import PackId

log = logging.getLogger(__name__)
_T = TypeVar("_T")

PATIENCE = 15.0  # seconds that the registry may take to say which release is live
REFUSED_SECONDS = 30.0  # a release whose packs are damaged is looked at again after so long


@dataclass(slots=True)
class RegistryStatus:
    """Whether the registry answers: `since` is the monotonic time of the last answer, or of the start."""

    reachable: bool = False
    since: float = 0.0
    problem: str = "not asked yet"
    refused: str = ""
    switches: int = 0
    asked: int = 0


class Follower:
    """`current` is the release that answers, None before the first. It is replaced whole, never changed."""

    def __init__(
        self,
        releases: ReleaseCache,
        hot: Callable[[], Collection[tuple[str, ...]]],
        threads: Executor,
        every: float,
    ) -> None:
        self.current: ReleaseIndex | None = None
        self.contact = RegistryStatus(since=time.monotonic())
        self._releases, self._hot = releases, hot
        self._threads, self._every = threads, every
        self._task: asyncio.Task[None] | None = None
        self._again_at = 0.0

    async def start(self) -> None:
        """Ask once; where the registry does not answer, take the release that was served last. Then follow."""
        await self.look()
        if self.current is None:
            await self._recall()
        self._task = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        """Follow no more; does not wait for a registry that hangs."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self.look()

    async def look(self) -> None:
        """Ask which release is live, and take it over when it is another one."""
        contact = self.contact
        contact.asked += 1
        try:
            live = await self._off_loop(self._releases.production.live_id, PATIENCE)
            _require(live)
            contact.reachable, contact.since, contact.problem = True, time.monotonic(), ""
            if self.current is not None and live == self.current.release_id:
                contact.refused = ""
            elif live != contact.refused or time.monotonic() >= self._again_at:
                await self._switch(live)
        except TransientError as error:
            contact.reachable, contact.problem = False, type(error).__name__
            log.warning("registry: %s", error)
        except Exception as error:  # whatever a registry's driver raises: what is cached must go on being served
            contact.reachable, contact.problem = False, type(error).__name__
            log.exception("the registry cannot be followed")

    async def _off_loop(self, work: Callable[[], _T], seconds: float | None = None) -> _T:
        found = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout(seconds):  # Python 3.11's wait_for may swallow being cancelled
                return await asyncio.shield(found)
        except TimeoutError as error:
            found.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise UnavailableError(f"the registry has not answered for {seconds:.0f} s") from error

    async def _switch(self, live: str) -> None:
        try:
            found = await self._off_loop(self._read)
            await self._off_loop(lambda: self._verify(found))
        except IntegrityError as error:
            if self.current is None:
                raise
            self.contact.refused, self._again_at = live, time.monotonic() + REFUSED_SECONDS
            log.error("release %s is refused, %s goes on: %s", live, self.current.release_id, error)  # noqa: TRY400  the text says it all
            return
        before, self.current = self.current, found
        self.contact.refused = ""
        self.contact.switches += 1
        log.info("release %s is live, after %s", found.release_id, before.release_id if before else "none")
        await self._off_loop(lambda: self._remember(found, before))

    def _read(self) -> ReleaseIndex:
        release = self._releases.production.live()
        _require(release.release_id if release else "")
        assert release is not None
        return ReleaseIndex.of(release)

    def _verify(self, found: ReleaseIndex) -> None:
        """Fetch and verify the packs that will serve what is loaded now; at the start nothing is."""
        wanted: dict[PackId, None] = {}
        hot = [series for series in self._hot() if series]
        for series in hot:
            for number in found.find(series):
                if number >= 0:
                    wanted[found.pack(number)] = None
        if not hot and self.current is not None and len(found):
            wanted[found.pack(0)] = None
        for pack in wanted:
            self._releases.packs.open(pack)

    def _remember(self, found: ReleaseIndex, before: ReleaseIndex | None) -> None:
        """For a start without the registry; packs of older releases are not needed any more."""
        try:
            self._releases.keep(found, [before] if before is not None else None)
        except OSError as error:
            log.warning("release %s cannot be kept on the local disk: %s", found.release_id, error.strerror)

    async def _recall(self) -> None:
        try:
            self.current = await self._off_loop(self._releases.kept)
        except FileNotFoundError:
            return
        except ManyModelsError as error:
            log.warning("%s", error)
            return
        log.warning("the registry is away: release %s is served from the local disk", self.current.release_id)


def _require(live: str) -> None:
    """Raise UnavailableError without a release: the registry is not ready yet, or has lost it."""
    if not live:
        raise UnavailableError("the registry says that there is no release")
