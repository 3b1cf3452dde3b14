"""A loopback proxy that adds a delay to each request and counts requests and bytes.

It is a process of its own: delta-rs holds the interpreter's lock while it waits for an answer, so that a proxy in the
same process would never send one.
"""

from __future__ import annotations

import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from many_models_tests.stand_ins.faulty_http import FaultyProxy

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass(frozen=True)
class SlowProxy:
    """The proxy's address and what has passed through it so far."""

    endpoint: str
    counts: Any  # requests, bytes of bodies both ways

    @property
    def passed(self) -> tuple[int, int]:
        """Requests, and bytes of the bodies that were sent and answered."""
        with self.counts.get_lock():
            return self.counts[0], self.counts[1]


@contextmanager
def slow(target: str, seconds: float) -> Generator[SlowProxy]:
    """A proxy before `target` that waits `seconds` before it hands on a request, until the block ends."""
    spawn = multiprocessing.get_context("spawn")
    counts, (here, there) = spawn.Array("q", 2), spawn.Pipe()
    process = spawn.Process(target=_serve, args=(target, seconds, counts, there), daemon=True)
    process.start()
    try:
        yield SlowProxy(here.recv(), counts)
    finally:
        process.terminate()
        process.join()


def _serve(target: str, seconds: float, counts: Any, there: Any) -> None:
    def passing(_number: int, _method: str, _path: str) -> None:
        time.sleep(seconds)

    def count(size: int) -> None:
        with counts.get_lock():
            counts[0] += 1
            counts[1] += size

    with FaultyProxy(target) as proxy:
        proxy.fault, proxy.passed = passing, count
        there.send(proxy.endpoint)
        proxy.serve_forever()
