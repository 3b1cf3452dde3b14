"""What the machine gives: the clock, files written whole, child processes of one thread, and repeated tries."""

from __future__ import annotations

import os
import secrets
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

T = TypeVar("T")

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "LOKY_MAX_CPU_COUNT",
)
"""Environment variables by which numerical libraries are told how many threads to use."""


def utc_now() -> datetime:
    """The time in UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def return_free_memory() -> None:
    """Give the memory that is free within this process back to the system; Python's own only where libc is glibc."""
    import ctypes

    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error's text, at most `most` characters; its type where it has no text."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:most]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` as `path`, whole or not at all, also beside other writers. Raises OSError, leaving nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            file.write(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def child_command(module: str, function: str) -> list[str]:
    """The command of a Python process that finds our modules, has one thread, and calls `function` of `module`.

    One process a core fills the cores: more threads inside make every fit slower.
    """
    boot = f"import os, sys; os.environ.update(dict.fromkeys({THREAD_VARIABLES!r}, '1')); sys.path[:] = {sys.path!r}; "
    return [sys.executable, "-c", f"{boot}from {module} import {function}; {function}()"]


def retry(work: Callable[[], T], again: Callable[[Exception], float | None], pauses: Iterable[float]) -> T:
    """What `work` returns. Where it raises an error that may pass, it is called again after each of `pauses` (seconds).

    `again` says of an error how many seconds to wait at least; None: raise it. The last error is raised.
    """
    for pause in pauses:
        try:
            return work()
        except Exception as error:
            least = again(error)
            if least is None:
                raise
        time.sleep(max(least, pause))
    return work()


def doubling(first: float, most: float, seconds: float) -> Iterator[float]:
    """Pauses that double from `first` up to `most`, until `seconds` have passed since the first was asked for."""
    until, pause = time.monotonic() + seconds, first
    while time.monotonic() <= until:
        yield pause
        pause = min(2 * pause, most)
