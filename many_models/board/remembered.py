"""A value that is slow to read, kept for a few seconds: many people open the first page of a morning at once."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Remembered(Generic[T]):
    """What `read` returned at most `seconds` ago. One thread reads, the others wait for it; an error is not kept."""

    def __init__(self, read: Callable[[], T], seconds: float) -> None:
        self._read, self._seconds = read, seconds
        self._value: tuple[float, T] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> T:
        """The value."""
        with self._lock:
            if self._value is None or time.monotonic() - self._value[0] >= self._seconds:
                self._value = time.monotonic(), self._read()
            return self._value[1]

    def forget(self) -> None:
        """Read it again the next time."""
        with self._lock:
            self._value = None
