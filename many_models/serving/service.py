"""Answers questions about many series from the live release: no HTTP here, so that other servers can use it."""

from __future__ import annotations

import asyncio
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from many_models.errors import InputError, ManyModelsError, SeriesError, TransientError, UnavailableError
from many_models.serving.cache import PackCache
from many_models.serving.follower import Follower
from many_models.serving.packs import LoadedPack, Question
from many_models.serving.shelf import Shelf

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence

    from many_models.ports import Lake, ProductionRegistry
    from many_models.serving.catalogue import Catalogue, PackId
    from many_models.serving.schemas import ForecastRequest
    from many_models.settings import ServeSettings, Settings

AT_ONCE = 32  # series that are forecast before others get their turn
FETCHERS = 8
_quoted = json.encoder.encode_basestring_ascii


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
        self, settings: Settings, production: ProductionRegistry, lake: Lake | None = None,
        fetched: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        serve = settings.serve
        folder = settings.path(serve.cache)
        self.settings, self.draining = settings, False
        self._lake = lake
        self._opened: dict[PackId, tuple[mmap.mmap, dict[str, memoryview]]] = {}
        self._fetching = ThreadPoolExecutor(FETCHERS, "fetch")
        self._computing = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "compute")
        self._watching = ThreadPoolExecutor(2, "watch")
        self.shelf = Shelf(folder / "packs", production, int(serve.disk_mb * 1e6), fetched)
        self.cache = PackCache(int(serve.memory_mb * 1e6), self._size, self._load, self._fetching)
        self.follower = Follower(
            production, self.shelf, folder / "release.npz", self._hot, self._watching, serve.poll_seconds
        )

    async def start(self) -> None:
        """Compile, find the live release, follow it."""
        await asyncio.get_running_loop().run_in_executor(self._computing, _warm)
        await self.follower.start()
        if (release := self.follower.current) is not None and len(release):
            warm = Question(release.name(0))
            await self.forecasts([warm, replace(warm, cutoff=datetime.now(UTC).replace(tzinfo=None))])

    async def stop(self) -> None:
        """Let everything go; does not wait for what hangs."""
        await self.follower.stop()
        for threads in (self._fetching, self._computing, self._watching):
            threads.shutdown(wait=False, cancel_futures=True)

    @property
    def release(self) -> Catalogue:
        """The release that answers now. Raises NotReadyError."""
        if (current := self.follower.current) is None:
            raise NotReadyError("there is no release yet: the registry is away or nothing has been promoted")
        return current

    # --- loading ------------------------------------------------------------------------------------------------
    def _size(self, pack: PackId) -> int:
        if not self.shelf.has(pack):
            opened = self.shelf.open(pack)
            if not self.shelf.has(pack):  # the disk is full: it must not be fetched twice
                self._opened[pack] = opened
                return len(opened[0])
        return self.shelf.path(pack).stat().st_size

    def _load(self, pack: PackId) -> LoadedPack:
        return LoadedPack(pack, *(self._opened.pop(pack, None) or self.shelf.open(pack)))

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
        asked = _Asked(questions, numbers, release.row_of[numbers].tolist(), [_UNANSWERED] * len(questions))
        groups: dict[int, list[int]] = {}
        codes: list[int] = release.pack_of[numbers].tolist()
        for place, number in enumerate(numbers):
            if number < 0:
                name = questions[place].series_id
                asked.answers[place] = UnknownSeriesError(name, "the live release does not serve it")
            else:
                groups.setdefault(codes[place], []).append(place)
        pending = list[asyncio.Task[None]]()
        for code, places in groups.items():
            pack = release.packs[code]
            loaded = self.cache.ready(pack)
            left = places
            if loaded is not None and not from_lake:
                left = asked.fill_in(loaded, places)
            if left:
                work = self._group(pack, loaded, asked, left, from_lake=from_lake)
                pending.append(asyncio.get_running_loop().create_task(work))
        if pending:
            await self._finish(pending, deadline)
        return _outcome(release, asked)

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
        """Fills in the answers of the series of one pack."""
        loop = asyncio.get_running_loop()
        try:
            model = loaded
            if model is None:
                model = await self.cache.get(pack)
                if not from_lake:  # a thousand may have waited for the same one
                    places = asked.fill_in(model, places)
            questions, rows = [asked.questions[i] for i in places], [asked.rows[i] for i in places]
            if from_lake:
                questions = await loop.run_in_executor(self._fetching, self._fresh, model, questions, rows)
        except ManyModelsError as error:
            for place in places:
                asked.answers[place] = error
            return
        for start in range(0, len(places), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            keep = self.cache.bytes < self.cache.budget
            found = await loop.run_in_executor(self._computing, _answers, model, questions[part], rows[part], keep)
            for place, answer in zip(places[part], found, strict=True):
                asked.answers[place] = answer
        self.cache.grown(model)

    def _fresh(self, model: LoadedPack, questions: Sequence[Question], rows: Sequence[int]) -> list[Question]:
        from many_models.serving.feedback import with_observations

        if self._lake is None:
            raise SeriesError(questions[0].series_id, "this server reads no lake: set serve.lake, or send observations")
        return with_observations(self._lake, self.settings, model, questions, rows)


@dataclass(slots=True)
class _Asked:
    """The questions of one request, and their answers as they come: forecasts as JSON, or errors."""

    questions: Sequence[Question]
    numbers: Sequence[int]
    rows: Sequence[int]
    answers: list[bytes | ManyModelsError]

    def fill_in(self, loaded: LoadedPack, places: Sequence[int]) -> list[int]:
        """Fills in what has been answered before; the places that are left."""
        left: list[int] = []
        for place in places:
            found = loaded.kept(self.questions[place], self.rows[place])
            if found is None:
                left.append(place)
            else:
                self.answers[place] = found
        return left


def _outcome(release: Catalogue, asked: _Asked) -> Outcome:
    failed: dict[str, int] = {}
    parts: list[bytes] = []
    ages: dict[str, int] = {}
    for question, number, answer in zip(asked.questions, asked.numbers, asked.answers, strict=True):
        name = _quoted(question.series_id).encode()
        if isinstance(answer, bytes):
            cutoff = release.text("cutoff", number)
            if cutoff not in ages:
                ages[cutoff] = age_days(cutoff)
            parts.append(b'{"series_id":%b,"age_days":%d,%b}' % (name, ages[cutoff], answer))
        else:
            kind = type(answer).__name__.removesuffix("Error")
            failed[kind] = failed.get(kind, 0) + 1
            parts.append(b'{"series_id":%b,"error":%b}' % (name, json.dumps(_described(answer, kind)).encode()))
    head = json.dumps({"release": release.release_id, "released_at": f"{release.created_at.isoformat()}Z"})[
        :-1
    ].encode()
    return Outcome(b'%b,"forecasts":[%b]}' % (head, b",".join(parts)), len(parts), failed)


class LimitError(InputError):
    """A request for more than the settings allow."""


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
        except (ValueError, TypeError, OverflowError) as error:  # a covariate that is no number, a time beyond all
            found.append(SeriesError(question.series_id, f"its covariates or times cannot be used: {error}"))
    return found


async def answer_json(service: Service, text: str | bytes) -> bytes:
    """The answer to a request as JSON, for servers that are not ours; what is wrong with it comes back as `error`."""
    from pydantic import ValidationError

    from many_models.serving.schemas import ForecastRequest

    try:
        asked = ForecastRequest.model_validate_json(text)
        require_within_limits(service.settings.serve, asked)
        outcome = await service.forecasts([one.question() for one in asked.series], from_lake=asked.from_lake)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return _refusal("Invalid", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    except (LimitError, NotReadyError) as error:
        return _refusal(type(error).__name__.removesuffix("Error"), str(error))
    return outcome.body


def _refusal(kind: str, reason: str) -> bytes:
    return json.dumps({"error": {"kind": kind, "reason": reason[:500]}}).encode()


def require_within_limits(serve: ServeSettings, asked: ForecastRequest) -> None:
    """Raises LimitError for a request with more series or steps than the settings allow."""
    if len(asked.series) > serve.max_series:
        raise LimitError(f"a request may have {serve.max_series} series: ask in several")
    if any((series.horizon or 1) > serve.max_horizon for series in asked.series):
        raise LimitError(f"the longest horizon is {serve.max_horizon}")


def age_days(cutoff: str) -> int:
    """Whole days from a cutoff, as a manifest has it, until now; -1 where it is no time."""
    try:
        return (datetime.now(UTC).replace(tzinfo=None) - datetime.fromisoformat(cutoff).replace(tzinfo=None)).days
    except ValueError:
        return -1


def _warm() -> None:
    """Imports the compiled loops: seconds that the first request would wait."""
    from many_models.forecasting import kernels

    assert kernels.pack is not None
