"""Answers questions about many series from the live release: no HTTP here, so that other servers can use it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from many_models.data.release_cache import ReleaseCache
from many_models.errors import IntegrityError, ManyModelsError, SeriesError, TransientError, UnavailableError
from many_models.serving.loaded_pack import LoadedPack, Question
from many_models.serving.memory_cache import PackCache
from many_models.serving.release_watcher import Follower
from many_models.system import utc_now

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from many_models.data.release_index import PackId, ReleaseIndex
    from many_models.ports import Lake, ProductionRegistry
    from many_models.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 32  # series that are forecast before others get their turn
INLINE = 2  # quick questions of a request that cost less than handing them to a thread
FETCHERS, LOADERS = 8, 4


class NotReadyError(UnavailableError):
    """There is no release to answer from."""


@dataclass(slots=True)
class Outcome:
    """The answer to one request: JSON, and how many series failed, by kind."""

    body: bytes
    series: int
    failed: dict[str, int]


class Service:
    """Forecasts of the live release of `production`; `lake` has fresh observations, where it may be asked."""

    def __init__(
        self,
        settings: Settings,
        production: ProductionRegistry,
        lake: Lake | None = None,
        fetched: Callable[[str], None] = lambda _: None,
    ) -> None:
        serve = settings.serve
        folder = settings.path(serve.cache)
        self.settings, self.draining = settings, False
        self._lake = lake
        self._opened: dict[PackId, tuple[mmap.mmap, dict[str, memoryview]]] = {}
        self._fetching = ThreadPoolExecutor(FETCHERS, "fetch")
        self._loading = ThreadPoolExecutor(LOADERS, "load")  # a registry that hangs must not hold up what is here
        self._computing = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "compute")
        self._watching = ThreadPoolExecutor(2, "watch")
        self.reading = ThreadPoolExecutor(1, "read")
        releases = ReleaseCache(production, folder, int(serve.disk_mb * 1e6), fetched)
        self.packs = releases.packs
        self.cache = PackCache(int(serve.memory_mb * 1e6), self._size, self._load, self._loading)
        self.follower = Follower(releases, self._hot, self._watching, serve.poll_seconds)

    async def start(self) -> None:
        """Compile, find the live release, follow it."""
        await asyncio.get_running_loop().run_in_executor(self._computing, _warm)
        await self.follower.start()
        if (release := self.follower.current) is not None and len(release):
            warm = Question(release.name(0))
            await self.forecasts([warm, replace(warm, cutoff=utc_now())])

    async def stop(self) -> None:
        """Let everything go; does not wait for what hangs."""
        await self.follower.stop()
        for threads in (self._fetching, self._loading, self._computing, self._watching, self.reading):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def release(self) -> ReleaseIndex:
        """The release that answers now. Raises NotReadyError."""
        if (current := self.follower.current) is None:
            raise NotReadyError("there is no release yet: the registry is away or nothing has been promoted")
        return current

    # --- loading ------------------------------------------------------------------------------------------------
    async def _size(self, pack: PackId) -> int:
        if (size := self.packs.size(pack)) is not None:
            return size
        return await asyncio.get_running_loop().run_in_executor(self._fetching, self._fetched_size, pack)

    def _fetched_size(self, pack: PackId) -> int:
        opened = self.packs.open(pack)
        if (size := self.packs.size(pack)) is None:  # the disk is full: it must not be fetched twice
            self._opened[pack] = opened
            return len(opened[0])
        return size

    def _load(self, pack: PackId) -> LoadedPack:
        opened = self._opened.pop(pack, None) or self.packs.open(pack)
        try:
            return LoadedPack(pack, *opened, self.settings.serve.language)
        except ManyModelsError:
            raise
        except Exception as error:  # whatever is odd in it
            raise IntegrityError(f"pack {pack.ref} cannot be served: {error!r}; train and promote it again") from error

    def _hot(self) -> list[tuple[str, ...]]:
        return [pack.series for pack in self.cache]

    # --- answering ----------------------------------------------------------------------------------------------
    async def forecasts(self, questions: Sequence[Question], *, from_lake: bool = False) -> Outcome:
        """The forecasts in the order of `questions` (their rows are looked up here), errors in their place.

        Answers within serve.max_seconds: what is not there by then is an error of its series. Raises NotReadyError.
        """
        release = self.release
        deadline = time.monotonic() + self.settings.serve.max_seconds
        numbers = release.find([question.series_id for question in questions])
        asked = _Asked(questions, release.rows(numbers), [_UNANSWERED] * len(questions))
        pending = list[asyncio.Task[None]]()
        for pack, places in self._by_pack(release, numbers, asked).items():
            loaded = self.cache.ready(pack)
            left = places
            if loaded is not None and not from_lake:
                left = asked.fill_in(loaded, places)
                if left and asked.are_quick(loaded, left):
                    self._take(loaded, asked, left, _answers(loaded, *asked.of(left), self._has_room))
                    continue
            if left:
                work = self._group(pack, loaded, asked, left, from_lake=from_lake)
                pending.append(asyncio.get_running_loop().create_task(work))
        if pending:
            await self._finish(pending, deadline)
        return _outcome(release, release.cutoffs(numbers), asked)

    def _by_pack(self, release: ReleaseIndex, numbers: Sequence[int], asked: _Asked) -> dict[PackId, list[int]]:
        """The places of the questions about each pack; series that the release does not serve get their error."""
        groups: dict[int, list[int]] = {}
        for place, code in enumerate(release.codes(numbers)):
            if code < 0:
                name = asked.questions[place].series_id
                asked.answers[place] = UnknownSeriesError(name, "the live release does not serve it")
            else:
                groups.setdefault(code, []).append(place)
        return {release.packs[code]: places for code, places in groups.items()}

    @property
    def _has_room(self) -> bool:
        return self.cache.bytes < self.cache.budget

    def _take(
        self, model: LoadedPack, asked: _Asked, places: Sequence[int], found: Sequence[bytes | ManyModelsError]
    ) -> None:
        for place, answer in zip(places, found, strict=True):
            asked.answers[place] = answer
        self.cache.grown(model)

    async def _finish(self, pending: Sequence[asyncio.Task[None]], deadline: float) -> None:
        try:
            _, late = await asyncio.wait(pending, timeout=max(deadline - time.monotonic(), 0.0))
        except asyncio.CancelledError:
            for task in pending:
                task.cancel()
            raise
        for task in late:
            task.cancel()
        for task in pending:
            if task not in late and (error := task.exception()) is not None:
                raise error

    async def _group(
        self, pack: PackId, loaded: LoadedPack | None, asked: _Asked, places: Sequence[int], *, from_lake: bool
    ) -> None:
        """Fill in the answers of the series of one pack."""
        loop = asyncio.get_running_loop()
        try:
            model = loaded
            if model is None:
                model = await self.cache.get(pack)
                if not from_lake:  # a thousand may have waited for the same one
                    places = asked.fill_in(model, places)
            if not from_lake and asked.are_quick(model, places):
                self._take(model, asked, places, _answers(model, *asked.of(places), self._has_room))
                return
            questions, rows = asked.of(places)
            if from_lake:
                questions = await loop.run_in_executor(self._fetching, self._fresh, model, questions, rows)
        except Exception as error:  # one pack, or the lake, must not end the request of all the others
            if not isinstance(error, ManyModelsError):
                log.exception("pack %s cannot be asked", pack.ref)
                error = UnavailableError(f"its pack cannot be asked: {type(error).__name__}, see the server's log")
            for place in places:
                asked.answers[place] = error
            return
        for start in range(0, len(places), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            found = await loop.run_in_executor(
                self._computing, _answers, model, questions[part], rows[part], self._has_room
            )
            self._take(model, asked, places[part], found)

    def _fresh(self, model: LoadedPack, questions: Sequence[Question], rows: Sequence[int]) -> list[Question]:
        from many_models.serving.observations import with_observations

        if self._lake is None:
            raise SeriesError(questions[0].series_id, "this server reads no lake: set serve.lake, or send observations")
        return with_observations(self._lake, self.settings, model, questions, rows)


@dataclass(slots=True)
class _Asked:
    """The questions of one request, and their answers as they come: forecasts as JSON, or errors."""

    questions: Sequence[Question]
    rows: Sequence[int]
    answers: list[bytes | ManyModelsError]

    def of(self, places: Sequence[int]) -> tuple[list[Question], list[int]]:
        """The questions at `places` and their rows."""
        return [self.questions[i] for i in places], [self.rows[i] for i in places]

    def are_quick(self, loaded: LoadedPack, places: Sequence[int]) -> bool:
        """Whether answering them here and now delays no other request."""
        if len(self.questions) > INLINE or loaded.busy:
            return False
        return all(self.questions[i].is_quick(loaded.horizon) for i in places)

    def fill_in(self, loaded: LoadedPack, places: Sequence[int]) -> list[int]:
        """Fill in what has been answered before; the places that are left."""
        left: list[int] = []
        for place in places:
            found = loaded.kept(self.questions[place], self.rows[place])
            if found is None:
                left.append(place)
            else:
                self.answers[place] = found
        return left


def _outcome(release: ReleaseIndex, cutoffs: Sequence[str], asked: _Asked) -> Outcome:
    parts: list[bytes] = []
    failed: dict[str, int] = {}
    ends = {cutoff: b',"age_days":%d}' % age_days(cutoff) for cutoff in set(cutoffs)}
    for question, cutoff, answer in zip(asked.questions, cutoffs, asked.answers, strict=True):
        if isinstance(answer, bytes):
            parts += (b",", answer, ends[cutoff])
        else:
            kind = type(answer).__name__.removesuffix("Error")
            failed[kind] = failed.get(kind, 0) + 1
            error = {"series_id": question.series_id, "error": _described(answer, kind)}
            parts += (b",", json.dumps(error).encode())
    head = json.dumps({"release": release.release_id, "released_at": f"{release.created_at.isoformat()}Z"})
    parts[:1] = [b'%b,"forecasts":[' % head[:-1].encode()]  # instead of the first comma
    return Outcome(b"".join([*parts, b"]}"]), len(asked.questions), failed)


class UnknownSeriesError(SeriesError):
    """A series that the live release does not serve."""


class TimeLimitError(TransientError):
    """What was not there in time."""


_UNANSWERED = TimeLimitError("not ready within the time limit: ask again, it is being loaded")


def _described(error: ManyModelsError, kind: str) -> dict[str, object]:
    reason = error.reason if isinstance(error, SeriesError) else str(error)
    return {"kind": kind, "reason": reason, "permanent": not isinstance(error, TransientError)}


def _answers(
    model: LoadedPack,
    questions: Sequence[Question],
    rows: Sequence[int],
    keep: bool,  # noqa: FBT001  called through an executor
) -> list[bytes | ManyModelsError]:
    found: list[bytes | ManyModelsError] = []
    for question, row in zip(questions, rows, strict=True):
        try:
            found.append(model.answer(question, row, keep=keep))
        except ManyModelsError as error:
            found.append(error.with_traceback(None))
        except (ValueError, TypeError, OverflowError) as error:  # a covariate that is not a number, a time beyond all
            found.append(SeriesError(question.series_id, f"its covariates or times cannot be used: {str(error)[:200]}"))
        except Exception as error:  # one odd model must not end the request of all the others
            log.exception("a forecast cannot be computed")
            reason = f"its model cannot be computed: {type(error).__name__}; train and promote it again"
            found.append(SeriesError(question.series_id, reason))
    return found


async def answer_json(service: Service, text: str | bytes) -> bytes:
    """The answer to a request as JSON, for servers that are not ours; what is wrong with it comes back as `error`."""
    from many_models.serving.bodies import BodyError, parse

    try:
        asked = parse(text, service.settings.serve)
        outcome = await service.forecasts([one.question() for one in asked.series], from_lake=asked.from_lake)
    except (BodyError, NotReadyError) as error:
        kind = error.kind if isinstance(error, BodyError) else "NotReady"
        return json.dumps({"error": {"kind": kind, "reason": str(error)}}).encode()
    return outcome.body


def age_days(cutoff: str) -> int:
    """Whole days from a cutoff, as a manifest has it, until now; -1 where it is not a time."""
    try:
        return (utc_now() - datetime.fromisoformat(cutoff).replace(tzinfo=None)).days
    except ValueError:
        return -1


def _warm() -> None:
    """Import the compiled loops: seconds that the first request would wait."""
    from many_models.forecasting import kernels

    assert kernels.pack is not None
