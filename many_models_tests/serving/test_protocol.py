"""Clients without a key on a socket: slow or large in every part of a request, and too many of them."""

from __future__ import annotations

import json
import logging
import socket
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from many_models.serving import protocol
from many_models_tests.support.raw_http import PATIENCE, RawClient
from many_models_tests.support.serving_parts import KEY, Registry, pack, served

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

BODY = json.dumps({"series": [{"series_id": "a__tea"}]}).encode()
HEAD = b"POST /v1/forecasts HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
GET = b"GET /health/live HTTP/1.1\r\nHost: s\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
KEYED = HEAD + b"X-API-Key: " + KEY.encode() + b"\r\n"
PACE = 0.1  # seconds between the bytes of a slow client


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A running service with short patience that wants a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEAD_SECONDS", 1.5)
        patch.setattr(protocol, "DRAIN_SECONDS", 0.7)
        folder = tmp_path_factory.mktemp("protocol")
        with served(Registry(pack("a")), folder, auth=["api_key"], max_connections=20, max_body_mb=1) as (found, _):
            yield found


def is_closed_within(connection: socket.socket, pieces: Iterable[bytes], pace: float = 0.0) -> int:
    """Sends `pieces`, one every `pace` seconds, until the service ends the connection: how many bytes it took.

    Fails when it takes all of them.
    """
    sent = 0
    connection.settimeout(pace or PATIENCE)
    for piece in pieces:
        try:
            connection.sendall(piece)
            sent += len(piece)
            if pace and not connection.recv(65536):
                return sent
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return sent
    raise AssertionError(f"the service took {sent} bytes and went on listening")


def slowly(first: bytes, then: bytes, seconds: float = 30.0) -> Iterator[bytes]:
    yield first
    for _ in range(int(seconds / PACE)):
        yield then


SLOW = {
    "a second request's headers": (GET + b"\r\n" + GET, b"x"),
    "a second request's line": (GET + b"\r\n", b"G"),
    "empty lines between requests": (GET + b"\r\n", b"\r\n"),
    "empty lines at the start": (b"\r\n", b"\r\n"),
    "a body after the answer": (HEAD + b"Content-Length: 10000\r\n\r\n", b" "),
    "a chunked body after the answer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "trailers after the answer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x"),
    "what follows no HTTP": (b"\x16\x03\x01\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("what", SLOW)
def test_a_slow_client_is_let_go_whatever_part_is_slow(port: int, what: str) -> None:
    with RawClient(port) as connection:
        is_closed_within(connection, slowly(*SLOW[what]), PACE)


LARGE = {
    "one header": (GET + b"X: ", b"x" * 10_000),
    "many headers": (GET, b"".join(b"X-%d: y\r\n" % i for i in range(1000))),
    "a second request's headers": (GET + b"\r\n" + GET + b"X: ", b"x" * 10_000),
    "the path": (b"GET /", b"a" * 10_000),
    "the query": (b"GET /health/live?", b"a" * 10_000),
    "the method": (b"POST ", b" " * 10_000),
    "empty lines": (b"", b"\r\n" * 5_000),
    "trailers": (
        HEAD + b"X-API-Key: " + KEY.encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
        b"x" * 10_000,
    ),
    "a body after the answer": (HEAD + b"Content-Length: 900000000\r\n\r\n", b" " * 10_000),
    "what follows no HTTP": (b"\x16\x03\x01\r\n\r\n", b"x" * 10_000),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_large_client_is_stopped_whatever_part_is_large(port: int, what: str) -> None:
    first, then = LARGE[what]
    with RawClient(port) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        took = is_closed_within(connection, (first, *[then] * 3_000))
    assert took < 12_000_000  # ours is far below, the rest is the kernel's buffers


@pytest.mark.parametrize("size", [40_000, 200_000])
def test_headers_beyond_the_limit_are_answered_431_and_close_ones_are_not(port: int, size: int) -> None:
    with RawClient(port) as connection:
        connection.sendall(GET + b"X: " + b"x" * size + b"\r\n\r\n")
        assert connection.status() == 431
    with RawClient(port) as connection:
        connection.sendall(GET + b"X: " + b"x" * 30_000 + b"\r\n\r\n")
        assert connection.status() == 200


def test_requests_that_are_sent_ahead_without_end_end_the_connection(port: int) -> None:
    with RawClient(port) as connection:
        is_closed_within(connection, [(GET + b"\r\n") * 5_000] * 100)
    with RawClient(port) as connection:
        connection.sendall((GET + b"\r\n") * 10)
        for _ in range(10):
            assert connection.status() == 200


def test_a_refused_request_whose_body_ends_keeps_its_connection(port: int) -> None:
    with RawClient(port) as connection:
        for _ in range(3):
            connection.sendall(HEAD + b"Content-Length: 200000\r\n\r\n")
            assert connection.status() == 401
            connection.sendall(b" " * 200_000 + GET + b"\r\n")
            assert connection.status() == 200


def test_silent_and_idle_strangers_leave_before_anybody_with_a_key(port: int) -> None:
    with ExitStack() as open_ones:
        known = open_ones.enter_context(RawClient(port))
        keyed = WHOLE.replace(b"Host: s", b"Host: s\r\nX-API-Key: " + KEY.encode())
        known.sendall(keyed)
        assert known.status() == 200
        for i in range(60):
            stranger = open_ones.enter_context(RawClient(port))
            stranger.sendall(GET + b"\r\n" if i % 2 else GET)
            if i % 2:
                assert stranger.status() == 200
        known.sendall(keyed)
        assert known.status() == 200
        for path in (b"live", b"ready"):
            newcomer = open_ones.enter_context(RawClient(port))
            newcomer.sendall(GET.replace(b"live", path) + b"\r\n")
            assert newcomer.status() == 200


def test_when_every_connection_is_busy_health_still_answers(tmp_path: Path) -> None:
    registry = Registry(pack("a"), pack("b"))
    with served(registry, tmp_path, max_connections=3) as (port, _), ExitStack() as open_ones, registry.hanging():
        busy = [open_ones.enter_context(RawClient(port)) for _ in range(3)]
        for connection in busy:
            connection.sendall(WHOLE.replace(b"a__tea", b"b__tea"))
        status = 0
        for _ in range(200):  # until all three are being answered
            connection = open_ones.enter_context(RawClient(port))
            connection.sendall(WHOLE)
            if (status := connection.status()) == 503:
                break
        assert status == 503
        for path in (b"live", b"ready"):
            connection = open_ones.enter_context(RawClient(port))
            connection.sendall(GET.replace(b"live", path) + b"\r\n")
            assert connection.status() == 200


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c", b"anything"])
def test_an_upgrade_is_answered_as_any_request_and_nothing_of_it_is_logged(port: int, upgrade: bytes, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    said = b"GET /v1/releases/live?secret=hush HTTP/1.1\r\nHost: s\r\nConnection: Upgrade\r\nUpgrade: " + upgrade
    said += b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    with RawClient(port) as connection:
        connection.sendall(said)
        assert connection.status() == 401
        with suppress(ConnectionResetError):
            assert not connection.rest()
    assert "hush" not in caplog.text
    assert "websocket" not in caplog.text.lower()


def test_what_is_no_http_leaves_no_line_of_log(port: int, caplog) -> None:
    caplog.set_level(logging.INFO)
    for said in (b"\x16\x03\x01\r\n\r\n", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"OPTIONS * HTTP/1.1\r\n\r\n"):
        with RawClient(port) as connection:
            connection.sendall(said)
            assert connection.status() in {400, 401, 404, 405}
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []
