"""The service on a socket: slow and greedy clients, many at once, an end that drains, and what its OpenAPI promises."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from many_models.serving import protocol
from many_models_tests.support.compute_tasks import wait_for
from many_models_tests.support.ports import free_port
from many_models_tests.support.raw_http import PATIENCE, RawClient
from many_models_tests.support.serving_parts import KEY, Registry, pack, served

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
BODY = json.dumps({"series": [{"series_id": "a__tea"}]}).encode()
HEAD = b"POST /v1/forecasts HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def wire(tmp_path_factory):
    """A running service with short patience: its port."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEAD_SECONDS", 2.0)  # time enough for those who are not slow on purpose
        patch.setattr(protocol, "WRITE_SECONDS", 0.5)
        limits = {"body_seconds": 2.0, "max_body_mb": 1, "max_series": 20_000, "max_connections": 60}
        with served(Registry(pack("a")), tmp_path_factory.mktemp("wire"), **limits) as (port, _):
            yield port


def get(port: int, path: str) -> int:
    with RawClient(port) as connection:
        connection.sendall(b"GET %b HTTP/1.1\r\nHost: s\r\n\r\n" % path.encode())
        return answer_of(connection)[0]


def answer_of(connection: RawClient) -> tuple[int, dict]:
    status, body = connection.answer()
    return status, json.loads(body or b"{}")


def question(port: int) -> tuple[int, dict]:
    with RawClient(port) as connection:
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY)
        return answer_of(connection)


def ask(port: int) -> dict:
    status, answer = question(port)
    assert status == 200, answer
    return answer


def require_closed(connection: socket.socket) -> None:
    """A TimeoutError when the service does not end the connection."""
    while connection.recv(65536):
        pass


def test_a_client_that_says_nothing_or_half_a_header_is_let_go(wire: int) -> None:
    for said in (b"", HEAD):
        with RawClient(wire) as connection:
            connection.sendall(said)
            require_closed(connection)
    assert "y_hat" in ask(wire)["forecasts"][0]


def test_a_body_that_comes_too_slowly_ends_in_408(wire: int) -> None:
    with RawClient(wire) as connection:
        connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
        assert answer_of(connection)[0] == 408
        require_closed(connection)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_read(wire: int, chunked: bool) -> None:
    with RawClient(wire) as connection:
        try:
            if chunked:
                connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                for _ in range(200):
                    connection.sendall(b"2000\r\n" + b" " * 0x2000 + b"\r\n")
            else:
                connection.sendall(HEAD + b"Content-Length: 200000000\r\n\r\n" + b" " * 10_000)
        except (BrokenPipeError, ConnectionResetError):
            return  # the answer was sent and the connection closed while we were still talking
        assert answer_of(connection)[0] == 413
    assert "y_hat" in ask(wire)["forecasts"][0]


@pytest.mark.parametrize("said", [b"\x16\x03\x01\x00\xa5\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9\r\n\r\n"])
def test_what_is_no_http_is_refused(wire: int, said: bytes) -> None:
    with RawClient(wire) as connection:
        connection.sendall(said)
        require_closed(connection)
    assert "y_hat" in ask(wire)["forecasts"][0]


def test_a_client_that_does_not_read_is_let_go_and_delays_no_other(wire: int) -> None:
    body = json.dumps({"series": [{"series_id": "a__tea"}] * 20_000}).encode()
    ask(wire)
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        lazy.connect(("127.0.0.1", wire))
        lazy.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: is_held(wire, lazy), "the connection")
        end = time.monotonic() + 240
        while is_held(wire, lazy):
            assert "y_hat" in ask(wire)["forecasts"][0]
            assert time.monotonic() < end
        lazy.settimeout(PATIENCE)
        received = b""
        with suppress(ConnectionResetError):
            while got := lazy.recv(1 << 20):
                received += got
    head, _, answer = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    (length,) = re.findall(rb"content-length: (\d+)", head)
    assert len(answer) < int(length)  # cut off, not sent whole


def is_held(port: int, connection: socket.socket) -> bool:
    """Whether the service, in this process, has its end of a connection open."""
    client = connection.getsockname()
    return any(c.laddr.port == port and c.raddr == client for c in psutil.Process().net_connections("tcp4"))


def test_silent_connections_make_room_and_none_is_refused(wire: int, monkeypatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 600.0)  # they are held for as long as we take
    held = [RawClient(wire) for _ in range(80)]
    try:
        assert question(wire)[0] == 200
        assert get(wire, "/health/live") == 200
    finally:
        for connection in held:
            connection.close()


SCRIPT = """
import sys
from pathlib import Path
from many_models.serving.app import build_app
from many_models.serving.server import run
from many_models_tests.support.compute_tasks import wait_for
from many_models_tests.support.ports import free_port
from many_models_tests.support.serving_parts import Registry, pack, settings_for
settings = settings_for(Path(sys.argv[1]), port=int(sys.argv[2]), drain_seconds=DRAIN)
run(build_app(settings, Registry(pack("a"))), settings.serve)
""".replace("DRAIN", "8.0")


class Client(threading.Thread):
    """Asks one question after the other on a connection that it keeps, until it is refused a new one."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port, self.failures, self.answered, self.told = port, list[str](), list[float](), False

    def run(self) -> None:
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            before = len(self.answered)
            try:
                while not self.ask(connection):
                    pass
            except (OSError, http.client.HTTPException) as error:
                # one that was still in the listening socket's queue when that closed was never accepted
                never_accepted = isinstance(error, ConnectionResetError | BrokenPipeError)
                if not self.told or len(self.answered) > before or not never_accepted:
                    self.failures.append(repr(error))
                return
            connection.close()

    def ask(self, connection: http.client.HTTPConnection) -> bool:
        """Whether the service wants the connection to end."""
        connection.request("POST", "/v1/forecasts", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200 or b'"error"' in content:
            self.failures.append(f"{answer.status} {content[:100]!r}")
        self.answered.append(time.monotonic())
        self.told = self.told or answer.getheader("connection") == "close"
        return answer.getheader("connection") == "close"


@pytest.mark.slow
def test_sigterm_under_load_answers_everything_that_was_asked(tmp_path: Path) -> None:
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), str(port)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT)
    clients = [Client(port) for _ in range(4)]
    try:
        until_it_answers(port, process)
        for client in clients:
            client.start()
        wait_for(lambda: all(len(client.answered) > 10 for client in clients), "clients that have been answered")
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: readiness(port) == (503, "draining"), "a service that says that it ends")
        draining = time.monotonic()
        for client in clients:
            client.join(120)
        assert process.wait(120) in {0, -signal.SIGTERM}
    finally:
        process.kill()
        process.wait()
    assert [failure for client in clients for failure in client.failures] == []
    assert all(client.told for client in clients)
    assert max(max(client.answered) for client in clients) > draining


def readiness(port: int) -> tuple[int, str]:
    """A ConnectionRefusedError when no process listens any more."""
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        asked.request("GET", "/health/ready")
        answer = asked.getresponse()
        return answer.status, json.loads(answer.read())["status"]
    finally:
        asked.close()


def until_it_answers(port: int, process: subprocess.Popen) -> None:
    end = time.monotonic() + 300
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        try:
            ask(port)
        except OSError:
            time.sleep(0.1)
        else:
            return


# --- OpenAPI ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def schema(tmp_path_factory):
    """The OpenAPI document of an application that is running."""
    import schemathesis

    folder = tmp_path_factory.mktemp("served")
    with served(Registry(pack("a")), folder, max_series=50, auth=["api_key"]) as (port, _):
        yield schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json", timeout=PATIENCE)


def test_the_document_has_every_route_with_examples(schema) -> None:
    document = schema.raw_schema
    assert set(document["paths"]) == {
        "/v1/forecasts", "/v1/explanations", "/v1/models/{series_id}", "/v1/releases/live", "/v1/stock/{series_id}",
        "/v1/sums/{node}", "/health/live", "/health/ready",
    }  # fmt: skip
    for name in ("ForecastRequest", "ForecastAnswer"):
        assert document["components"]["schemas"][name]["examples"]
    assert set(document["components"]["securitySchemes"]) == {"APIKeyHeader", "HTTPBearer"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/v1/forecasts",
        "/v1/explanations",
        "/v1/models/{series_id}",
        "/v1/releases/live",
        "/v1/stock/{series_id}",
        "/v1/sums/{node}",
        "/health/live",
        "/health/ready",
    ],  # all of the document, with all of schemathesis' checks
)
def test_whatever_is_sent_the_answer_is_as_documented(schema, path: str) -> None:
    method = "POST" if path in {"/v1/forecasts", "/v1/explanations"} else "GET"
    operation = schema[path][method]
    calls = 0

    @hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy())
    def check(case) -> None:
        nonlocal calls
        calls += 1
        case.call_and_validate(headers={"X-API-Key": KEY}, timeout=PATIENCE)

    check()
    assert calls > 0
