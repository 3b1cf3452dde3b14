"""What every request passes: credentials first, then limits of size and time; a line of log and metrics at its end."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

from many_models.ports import Answered
from many_models.serving.auth import DeniedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from many_models.ports import Telemetry
    from many_models.serving.auth import Authenticator
    from many_models.serving.metrics import Metrics
    from many_models.serving.service import Service

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

access = logging.getLogger("many_models.serving.access")
log = logging.getLogger(__name__)

GUARDED = "/v1/"
OPEN = ("/health/", "/metrics")
BODIES_AT_ONCE = 8  # multiple of the largest body that all requests together may hold
GRACE = 5.0  # seconds beyond the service's own limit after which a request is given up


class RefusedError(HTTPException):
    """A request that is not answered. FastAPI lets its kind pass, where any other error of reading is a 400."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        extra = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}
        super().__init__(status, reason, extra.get(status))
        self.status, self.kind, self.reason = status, kind, reason


class Gate:
    """An ASGI application around another. Request bodies and query strings are neither kept nor logged."""

    def __init__(
        self, app: App, service: Service, guard: Authenticator, metrics: Metrics, telemetry: Telemetry | None = None
    ) -> None:
        self._app, self._service, self._guard, self._metrics = app, service, guard, metrics
        self._telemetry = telemetry
        serve = service.settings.serve
        self._most_bytes = int(serve.max_body_mb * 1e6)
        self._kept = 0  # bytes of bodies that are being read or answered
        self._body_seconds, self._all_seconds = serve.body_seconds, serve.body_seconds + serve.max_seconds + GRACE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(send, closing=lambda: self._service.draining)
        begun = time.perf_counter()
        try:
            try:
                async with asyncio.timeout(self._all_seconds):
                    await self._pass(scope, receive, passage)
            except RefusedError as refused:
                await passage.refuse(refused)
            except DeniedError as denied:
                await passage.refuse(RefusedError(denied.status, "Denied", str(denied)))
            except TimeoutError:
                await passage.refuse(RefusedError(503, "TimeLimit", "the request took too long"))
        finally:
            self._kept -= passage.kept
            self._tell(scope, passage, time.perf_counter() - begun)

    async def _pass(self, scope: Scope, receive: Receive, passage: _Passage) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        state: dict[str, object] = scope.setdefault("state", {})
        if scope["path"].startswith(GUARDED):
            await self._guard.check(headers)
            state["known"] = True
        if state.get("crowded") and not scope["path"].startswith(OPEN):
            raise RefusedError(503, "Busy", "every connection is taken: ask again in a moment")
        size = headers.get(b"content-length", b"0")
        if size.isdigit() and int(size) > self._most_bytes:
            raise self._too_large()
        try:
            await self._app(scope, self._limited(receive, passage), passage.send)
        except (TimeoutError, asyncio.CancelledError, RefusedError):
            raise
        except Exception as error:
            if not passage.status:
                log.exception("a request failed for a reason of our own")
                raise RefusedError(500, "Internal", f"{type(error).__name__}: this is a bug, see the log") from error
            raise

    def _limited(self, receive: Receive, passage: _Passage) -> Receive:
        """Messages of a body that is neither too large nor too slow; after it, as they come."""
        left, until, more = self._most_bytes, time.monotonic() + self._body_seconds, True

        async def limited() -> Message:
            nonlocal left, more
            if not more:
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError as error:
                reason = f"the body was not there after {self._body_seconds:g} s"
                raise RefusedError(408, "SlowRequest", reason) from error
            size = len(message.get("body", b""))
            left -= size
            passage.kept += size
            self._kept += size
            more = message["type"] == "http.request" and message.get("more_body", False)
            if left < 0:
                raise self._too_large()
            if self._kept > BODIES_AT_ONCE * self._most_bytes:
                raise RefusedError(503, "Busy", "too many large bodies at once: ask again in a moment")
            return message

        return limited

    def _too_large(self) -> RefusedError:
        return RefusedError(413, "TooLarge", f"a request may have {self._most_bytes} bytes: ask in several")

    def _tell(self, scope: Scope, passage: _Passage, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.requests.labels(route, passage.status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        if self._telemetry is not None:
            parent = dict(scope["headers"]).get(b"traceparent", b"").decode("ascii", "replace")
            asked = int(scope.get("state", {}).get("series", 0))
            self._telemetry.answered(Answered(route, method, passage.status, seconds, asked, parent))
        if access.isEnabledFor(logging.INFO):
            line = {"id": passage.id, "method": method, "route": route, "status": passage.status}
            state: dict[str, object] = scope.get("state", {})
            line |= {"ms": round(1000 * seconds, 2), "bytes": passage.bytes, "series": state.get("series", 0)}
            access.info("%s", json.dumps(line))


METHODS = {"GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"}


class _Passage:
    """The way back of one request: what has been sent."""

    def __init__(self, send: Send, closing: Callable[[], bool]) -> None:
        self._send, self._closing = send, closing
        self.status, self.bytes, self.kept, self.id = 0, 0, 0, secrets.token_hex(8)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self.id.encode())]
            if self._closing():
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        self.bytes += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, refused: RefusedError) -> None:
        """Says no, where nothing has been said yet; else the connection is all that is left to end."""
        if self.status:
            raise refused
        body = json.dumps({"error": {"kind": refused.kind, "reason": refused.reason}}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in (refused.headers or {}).items()]
        await self.send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
