"""The process: uvicorn with limits for slow clients, and an end that answers what has been asked."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import socket
    from types import FrameType

    from fastapi import FastAPI

    from many_models.settings import ServeSettings

HEADER_SECONDS = 10.0  # for the first byte of a connection to become a request
LAST_SECONDS = 0.5  # between the last new connection and the end of idle ones
WRITE_SECONDS = 30.0  # for a client that does not read its answer


class Protocol(HttpToolsProtocol):
    """Lets go of connections that send no request, and of those that do not read."""

    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there: its request has to follow."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None and not self.transport.is_closing():  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        for timer in (self._waiting, self._writing):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as we write."""
        super().pause_writing()
        self._writing = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writing is not None:
            self._writing.cancel()
        super().resume_writing()


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
        """Nobody new; what has just connected is answered; then everything is finished and closed."""
        for server in self.servers:
            server.close()
        if self._drain_seconds:
            await asyncio.sleep(min(self._drain_seconds, LAST_SECONDS))
        await super().shutdown(sockets)


def build_server(app: FastAPI, serve: ServeSettings) -> Server:
    """The server of `app`, not started."""
    config = uvicorn.Config(
        app,
        host=serve.host,
        port=serve.port,
        http=Protocol,
        access_log=False,
        log_config=_logging(),
        server_header=False,
        limit_concurrency=serve.max_connections,
        backlog=2048,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(serve.max_seconds) + 5,
    )
    return Server(config, app, serve.drain_seconds)


def run(app: FastAPI, serve: ServeSettings) -> None:
    """Serves until a signal."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = serve.max_connections + 512
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
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
