"""One client without a key against the service: what others feel of it. `python -m benchmarks.serving --hostile`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

GET = b"GET /health/live HTTP/1.1\r\nHost: s\r\n"
POST = b"POST /v1/forecasts HTTP/1.1\r\nHost: s\r\nContent-Type: application/json\r\n"
MANY = 1_000  # connections of a client that holds as many as it can
PACE = 1.0  # seconds between the bytes of a slow one

# what is said first, what then again and again, seconds between, connections
KINDS: Mapping[str, tuple[bytes, bytes, float, int]] = {
    "silent": (b"", b"", PACE, MANY),
    "slow headers after a request": (GET + b"\r\n" + GET, b"x", PACE, MANY),
    "slow body": (POST + b"Content-Length: 100000\r\n\r\n", b" ", PACE, MANY),
    "large headers": (GET + b"X: ", b"x" * 65_536, 0.0, 4),
    "large body": (POST + b"Content-Length: 400000000\r\n\r\n", b" " * 65_536, 0.0, 4),
    "large trailers": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 65_536, 0.0, 4),
    "requests sent ahead": (GET + b"\r\n", (GET + b"\r\n") * 1_000, 0.05, 4),
    "upgrades": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", b"x", 0.05, 4),
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", b"\0" * 1_000, 0.05, 4),
}


async def attack(kind: str, port: int) -> None:
    """Goes on until it is ended; a connection that is closed is opened again."""
    first, again, pace, connections = KINDS[kind]

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                async with connected(port) as writer:
                    writer.write(first)
                    while not writer.is_closing():
                        await writer.drain()
                        await asyncio.sleep(pace)
                        writer.write(again)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(connections)))


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncGenerator[asyncio.StreamWriter]:
    """A connection whose answers are thrown away."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def listen() -> None:
        with contextlib.suppress(OSError):
            while await reader.read(65_536):
                pass
        writer.close()

    listening = asyncio.create_task(listen())
    try:
        yield writer
    finally:
        listening.cancel()
        writer.transport.abort()


@contextlib.contextmanager
def attacked(kind: str, port: int) -> Generator[None]:
    """The client in a process of its own, at the lowest priority: it is to take no core from others, but patience."""
    words = [sys.executable, "-m", "benchmarks._hostile", kind, str(port)]
    process = subprocess.Popen(words, cwd=Path(__file__).parents[1])
    try:
        time.sleep(2.0)
        yield
    finally:
        process.kill()
        process.wait()


class Watched:
    """The slowest answer of /health/live, on a connection each, and the most memory, while it lasts."""

    def __init__(self, pid: int, port: int) -> None:
        self.slowest, self.memory = 0.0, 0.0
        self._process, self._port, self._stop = psutil.Process(pid), port, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        import http.client

        while not self._stop.wait(0.05):
            begun = time.perf_counter()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                connection.request("GET", "/health/live")
                ok = connection.getresponse().status == 200
                connection.close()
            except (OSError, http.client.HTTPException):
                ok = False
            self.slowest = max(self.slowest, time.perf_counter() - begun if ok else 999.0)
            self.memory = max(self.memory, self._process.memory_info().rss / 1e6)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


if __name__ == "__main__":
    os.nice(19)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 2 * MANY + 100), hard))
    asyncio.run(attack(sys.argv[1], int(sys.argv[2])))
