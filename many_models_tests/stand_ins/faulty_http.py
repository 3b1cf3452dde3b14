"""A loopback proxy that hands on HTTP requests, and on demand answers 503, 429, or cuts the line in the middle."""

from __future__ import annotations

import itertools
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

HOP = {"connection", "transfer-encoding", "keep-alive"}
CUT = "cut"
LOSE = "lose"


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `target`, but for requests of which `fault(number, method, path)` names a fault.

    A fault is a status to answer with, CUT (the line is cut before the target hears of it) or LOSE (the target does
    what it was asked, and its answer is lost). `faults` counts them. `passed(bytes)` hears of each request that the
    target answered: the bytes of both bodies.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.numbers = itertools.count()
        self.fault: Callable[[int, str, str], int | str | None] = lambda *_: None
        self.passed: Callable[[int], None] = lambda _: None
        self.faults = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}{self.target.path}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        pass

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = self.server.fault(next(self.server.numbers), self.command, self.path)
        self.server.faults += fault is not None
        if isinstance(fault, int):
            self._answer(fault, {"Retry-After": "1"}, b"")
            return
        if fault == CUT:
            self.close_connection = True
            return
        line = HTTPConnection(self.server.target.hostname or "", self.server.target.port, timeout=60)
        try:
            line.request(self.command, self.path, body, dict(self.headers.items()))
            answer = line.getresponse()
            content = answer.read()
        finally:
            line.close()
        self.server.passed(len(body) + len(content))
        if fault == LOSE:
            self.close_connection = True
            return
        length = answer.getheader("content-length") if self.command == "HEAD" else None
        self._answer(answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in HOP}, content, length)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815  http.server's names

    def _answer(self, status: int, headers: dict[str, str], content: bytes, length: str | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def faulty(target: str) -> Generator[FaultyProxy]:
    """A proxy before `target`, until the block ends."""
    with serving(FaultyProxy(target)) as proxy:
        yield proxy
