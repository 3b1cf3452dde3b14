"""The body of a request for forecasts: what a large or odd one costs is bounded before its parts are looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import from_json

from many_models.errors import InputError
from many_models.serving.schemas import MOST_VALUES, STEPS, ForecastRequest, KnownAt, Observed, SeriesRequest

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from many_models.settings import ServeSettings

INLINE_BYTES = 64_000  # a longer body is read on another thread, one at a time
DENSEST = 8  # bytes that each object or list of a body has at least: closer ones are no request, and take memory
NAMES = frozenset(name for part in (ForecastRequest, SeriesRequest, KnownAt, Observed) for name in part.model_fields)


class BodyError(InputError):
    """A body that is refused as a whole: `status` is 400 or 422. Its text repeats nothing of the body."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind = status, kind


class Bodies:
    """Reads bodies within the limits of `serve`; large ones on `threads`."""

    def __init__(self, serve: ServeSettings, threads: Executor) -> None:
        self._serve, self._threads = serve, threads
        self._turn = asyncio.Semaphore(1)  # each takes several times its size of memory

    async def read(self, body: bytes) -> ForecastRequest:
        """The request in `body`. Raises BodyError."""
        if len(body) <= INLINE_BYTES:
            return parse(body, self._serve)
        async with self._turn:
            return await asyncio.get_running_loop().run_in_executor(self._threads, parse, body, self._serve)


def parse(body: bytes | str, serve: ServeSettings) -> ForecastRequest:
    """The request in `body`: the first thing that is wrong ends it. Raises BodyError."""
    body = body.encode("utf-8", "replace") if isinstance(body, str) else body
    try:
        if len(body) <= INLINE_BYTES:
            asked = ForecastRequest.model_validate_json(body)
        else:
            asked = ForecastRequest.model_validate(_bounded(body, serve))
    except ValidationError as error:
        raise _refusal(error) from None
    if len(asked.series) > serve.max_series:
        raise _too_many(serve)
    if any((series.horizon or 1) > serve.max_horizon for series in asked.series):
        raise BodyError(422, "Limit", f"the longest horizon is {serve.max_horizon}")
    return asked


def _refusal(error: ValidationError) -> BodyError:
    """The first error; names that are not ours may be anything that a client sent by mistake."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return BodyError(400, "NoJSON", "the body is not JSON")
    where = ".".join(str(part) if isinstance(part, int) or part in NAMES else "…" for part in first["loc"][:6])
    return BodyError(422, "Invalid", f"{where or 'body'}: {first['msg']}"[:500])


def _too_many(serve: ServeSettings) -> BodyError:
    return BodyError(422, "Limit", f"a request may have {serve.max_series} series: ask in several")


def _bounded(body: bytes, serve: ServeSettings) -> object:
    """The JSON of a large body, when no list and no object of it is longer than allowed. Raises BodyError."""
    if DENSEST * (body.count(b"{") + body.count(b"[")) > len(body):
        raise BodyError(422, "Limit", f"the body has an object or a list for each {DENSEST} bytes: it is not a request")
    try:
        found = from_json(body)
    except (ValueError, RecursionError):
        raise BodyError(400, "NoJSON", "the body is not JSON") from None
    series = _table(found).get("series")
    if isinstance(series, list) and len(series) > serve.max_series:
        raise _too_many(serve)
    for one in _list(series):
        table = _table(one)
        for name in ("known", "observations", "against"):
            steps = _list(table.get(name))
            if len(steps) > STEPS:
                raise BodyError(422, "Limit", f"{name} may have {STEPS} steps of a series")
            for step in steps:
                _table(_table(step).get("values"))
    return found


def _table(value: object) -> dict[str, Any]:
    """`value` where it is an object of a possible size, else none: what kind it has is looked at later."""
    if not isinstance(value, dict):
        return {}
    if len(value) > MOST_VALUES:
        raise BodyError(422, "Limit", f"an object may have {MOST_VALUES} names")
    return value


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
