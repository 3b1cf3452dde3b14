"""Servers on a thread of this process, on a free port of loopback."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator
    from socketserver import BaseServer

    import uvicorn

START_SECONDS = 60

Server = TypeVar("Server", bound="BaseServer")


@contextmanager
def running(server: uvicorn.Server) -> Generator[int]:
    """The port of the server, which is made with port 0 and ended with the block."""
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        end = time.monotonic() + START_SECONDS
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.02)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(START_SECONDS)
        assert not thread.is_alive()


class JsonHandler(BaseHTTPRequestHandler):
    """Answers in JSON, and writes no log."""

    def tell(self, status: int, told: object) -> None:
        """Answer with `told`."""
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  http.server's name
        """Nothing."""


@contextmanager
def serving(server: Server) -> Generator[Server]:
    """A server of the standard library, which serves until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
