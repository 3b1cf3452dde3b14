"""Adapters that tell of the calls of one of their methods, so that a test can do something at that very moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Followed:
    """Everything that `inner` is; `on` is told the first argument of each call of `method`, "before" and "after" it."""

    def __init__(self, inner: object, method: str, on: Callable[[str, str], None]) -> None:
        self._inner, self._method, self._on = inner, method, on

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        def call(*args: object, **kwargs: object) -> object:
            self._on(str(args[0]), "before")
            result = found(*args, **kwargs)
            self._on(str(args[0]), "after")
            return result

        return call

    def __reduce__(self) -> tuple[object, ...]:
        return (Followed, (self._inner, self._method, self._on))
