"""Telemetry: what a run and the service did, as another tool's traces and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a run; times are seconds since 1970."""

    name: str
    started: float
    ended: float
    failed: bool = False


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that ended; `done` and `failed` count series, where the run counted them."""

    run_id: str
    stage: str
    status: str
    started: float
    ended: float
    steps: Sequence[Step] = ()
    done: int | None = None
    failed: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that was answered. `parent` is its traceparent header, "" without one."""

    route: str
    method: str
    status: int
    seconds: float
    series: int = 0
    parent: str = ""


@runtime_checkable
class Telemetry(Protocol):
    """What operators watch: traces and metrics."""

    def runs(self, runs: Sequence[FinishedRun]) -> None:
        """Send runs that ended. Raises UnavailableError where they were not taken: send them again."""

    def answered(self, request: Answered) -> None:
        """Send a request, later and without waiting; one that is not taken is lost."""

    def close(self) -> None:
        """Send what is held."""
