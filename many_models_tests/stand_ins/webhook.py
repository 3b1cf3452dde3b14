"""A webhook on loopback that keeps what it takes; it refuses another path than its own, and what is not JSON."""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Generator

TOKEN = "T0KEN-of-this-hook"
MOST_BYTES = 28_000  # as Teams has it


class Webhook(ThreadingHTTPServer):
    """`taken` are the bodies that it took; with `status` it refuses all."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.status = 0

    @property
    def address(self) -> str:
        """As Apprise writes it."""
        return f"json://127.0.0.1:{self.server_port}/{TOKEN}"


class _Handler(BaseHTTPRequestHandler):
    server: Webhook

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        status = self.server.status or self._refusal(body)
        if not status:
            self.server.taken.append(json.loads(body))
        self.send_response(status or 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refusal(self, body: bytes) -> int:
        if self.path.strip("/") != TOKEN:
            return 403
        if len(body) > MOST_BYTES:
            return 413
        try:
            return 0 if isinstance(json.loads(body), dict) else 400
        except ValueError:
            return 400


@contextmanager
def webhook() -> Generator[Webhook]:
    """A hook until the block ends."""
    with serving(Webhook()) as server:
        yield server
