"""A lock that every machine sees, kept in the MLflow store itself: a registered model that only one can make.

Its holder renews it. Whoever finds it unchanged for longer than that takes it away, so that a killed holder blocks the
others for STALE_SECONDS only. No machine's clock is compared with another's.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from many_models.errors import ConflictError
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from many_models.adapters.registry.mlflow_private import ModelRegistryClient

STALE_SECONDS = 60.0
ASIDE = ".gone-"
HOLDER, BEAT = "mm.holder", "mm.beat"
_TAKEN = {"RESOURCE_CONFLICT", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}
_GONE = {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}


@contextmanager
def leased(
    registry: ModelRegistryClient, name: str, seconds: float, what: str, *, stale: float = STALE_SECONDS
) -> Generator[Callable[[], None]]:
    """Hold the lock `name` of the store `what`; yield a check that raises ConflictError when it was lost.

    Raises ConflictError when others have held it for `seconds`.
    """
    token = secrets.token_hex(8)
    _take(registry, name, token, time.monotonic() + seconds, what, stale)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(registry, name, done, stale / 4), daemon=True)
    beating.start()

    def check() -> None:
        if _state(registry, name)[0] != token:
            raise ConflictError(f"another machine has taken over writing to {what}: this one was silent for too long")

    try:
        yield check
    finally:
        done.set()
        beating.join()
        with suppress(ConflictError):
            check()
            registry.delete_registered_model(name)
            _sweep(registry, name)


def _take(registry: ModelRegistryClient, name: str, token: str, until: float, what: str, stale: float) -> None:
    from mlflow.exceptions import MlflowException

    seen, since = ("", ""), time.monotonic()
    while True:
        try:
            registry.create_registered_model(name, tags={HOLDER: token, BEAT: "0"})
        except MlflowException as error:
            if error.error_code not in _TAKEN:
                raise
        else:
            return
        now, state = time.monotonic(), _state(registry, name)
        if state != seen:
            seen, since = state, now
        elif now - since > stale:
            _take_away(registry, name, seen)
            continue
        if now > until:
            raise ConflictError(f"another machine has been writing to {what} all the time: try again later")
        time.sleep(min(1.0, stale / 10))


def _take_away(registry: ModelRegistryClient, name: str, seen: tuple[str, str]) -> None:
    """Move an abandoned lock aside. Renaming is one step: of several that find it, one succeeds.

    The new name follows from the holder that is gone, and stays taken until the next one is done: who was a moment late
    would else move the lock of the one who was faster.
    """
    from mlflow.exceptions import MlflowException

    if _state(registry, name) != seen:
        return
    with suppress(MlflowException):  # another process was faster: errors differ, and the next look tells
        registry.rename_registered_model(name, f"{name}{ASIDE}{digest(seen[0])}")


def _sweep(registry: ModelRegistryClient, name: str) -> None:
    """Delete the abandoned locks that were moved aside."""
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # the next one is at it, too, or will be
        for aside in registry.search_registered_models(f"name LIKE '{name}{ASIDE}%'"):
            registry.delete_registered_model(aside.name)


def _state(registry: ModelRegistryClient, name: str) -> tuple[str, str]:
    """The lock's holder and its last renewal; two empty texts when the lock is free."""
    from mlflow.exceptions import MlflowException

    try:
        tags = registry.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code not in _GONE:
            raise
        return "", ""
    return tags.get(HOLDER, ""), tags.get(BEAT, "")


def _beat(registry: ModelRegistryClient, name: str, done: threading.Event, every: float) -> None:
    from mlflow.exceptions import MlflowException

    beat = 0
    while not done.wait(every):
        beat += 1
        with suppress(MlflowException):  # the check before the switch notices what is lost
            registry.set_registered_model_tag(name, BEAT, str(beat))
