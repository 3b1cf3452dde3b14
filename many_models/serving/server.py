"""The process: uvicorn with limits for slow clients, and an end that answers what has been asked."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn

from many_models.serving.protocol import PARKED, SPARE, Protocol, Room

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from fastapi import FastAPI

    from many_models.settings import ServeSettings

LAST_SECONDS = 0.5  # between the last new connection and the end of idle ones
SPARE_FILES = 512  # beside connections: packs, the registry, the interpreter's own

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """At a signal it says that it is not ready, goes on for `drain_seconds`, then finishes what it has begun."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = app.state.service, drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or SIGINT; the second one ends it at once."""
        if self._service.draining or self._drain_seconds == 0 or sig == signal.SIGINT:
            self._service.draining = True
            super().handle_exit(sig, frame)
            return
        self._service.draining = True
        asyncio.get_running_loop().call_later(self._drain_seconds, super().handle_exit, sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer those already accepted, then shut down."""
        for server in self.servers:
            server.close()
        if self._drain_seconds:
            await asyncio.sleep(min(self._drain_seconds, LAST_SECONDS))
        await super().shutdown(sockets)


def build_server(app: FastAPI, serve: ServeSettings) -> Server:
    """The server of `app`, not started."""
    refused = app.state.metrics.refused
    room = Room(serve.max_connections, lambda reason: refused.labels(reason).inc())
    config = uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        http=partial(Protocol, room=room),  # pyright: ignore[reportArgumentType]  it is called, and no more
        ws="none",  # no client speaks it here, and uvicorn's own answer would log query strings
        access_log=False,
        log_config=_logging(),
        server_header=False,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(serve.max_seconds) + 5,
    )
    return Server(config, app, serve.drain_seconds)


def run(app: FastAPI, serve: ServeSettings) -> None:
    """Serve until a signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = (1 + PARKED) * serve.max_connections + SPARE + SPARE_FILES
    if soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < needed:  # without a file for it a connection cannot even be refused
        possible = max((soft - SPARE - SPARE_FILES) // (1 + PARKED), 1)
        log.warning("serve.max_connections is %d instead of %d: ulimit -n is %d", possible, serve.max_connections, hard)
        serve = serve.model_copy(update={"max_connections": possible})
    build_server(app, serve).run()


def _logging() -> dict[str, Any]:
    """One line a record on stderr; requests as JSON."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "many_models": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": logging.getLevelName(logging.INFO), "propagate": False},
        },
    }
