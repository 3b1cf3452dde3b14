"""Two running services asked the same in turns, request by request: what one costs beside the other, busy or not."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PATIENCE = 120.0  # seconds for an answer
WARM = 0.1  # this share of the requests comes first and is not measured
BLOCKS = 10  # the ratio of each tells how far to trust that of all


class Client:
    """One connection that is kept, to a service on this machine."""

    def __init__(self, port: int, key: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")
        self._key = key

    def seconds(self, path: str, body: bytes) -> float:
        """How long an answer to a POST took. Raises RuntimeError for one that is no forecast."""
        head = f"POST {path} HTTP/1.1\r\nHost: s\r\nX-API-Key: {self._key}\r\nContent-Type: application/json\r\n"
        said = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        began = time.perf_counter()
        self._socket.sendall(said)
        status, size = self._answers.readline(), 0
        while (line := self._answers.readline()) not in {b"\r\n", b""}:
            name, _, value = line.partition(b":")
            size = int(value) if name.lower() == b"content-length" else size
        content = self._answers.read(size)
        took = time.perf_counter() - began
        if b" 200 " not in status or b'"error":' in content:
            raise RuntimeError(f"{status!r} {content[:300]!r}")
        return took

    def close(self) -> None:
        """End the connection."""
        self._answers.close()
        self._socket.close()


def in_turns(
    ours: int, theirs: int, key: str, ask: Callable[[int], tuple[str, bytes]], requests: int
) -> NDArray[np.float64]:
    """Seconds of each of `requests` (rows) at two ports (columns: ours, theirs), who goes first by turns."""
    with ExitStack() as stack:
        clients = [Client(port, key) for port in (ours, theirs)]
        for client in clients:
            stack.callback(client.close)
        cold = max(int(requests * WARM), 2)
        found = np.zeros((cold + requests, 2))
        for number in range(len(found)):
            path, body = ask(number)
            for which in (0, 1) if number % 2 else (1, 0):
                found[number, which] = clients[which].seconds(path, body)
    return found[cold:]


def ratio_and_spread(found: NDArray[np.float64]) -> tuple[float, str]:
    """Our median against theirs over all requests, and the least and the largest ratio of a tenth of them."""
    ratios = [np.median(part[:, 0]) / np.median(part[:, 1]) for part in np.array_split(found, BLOCKS)]
    ours, theirs = np.median(found, 0)
    return float(ours / theirs), f"at most 1.03; tenths {min(ratios):.2f} to {max(ratios):.2f}, {1000 * theirs:.2f} ms"
