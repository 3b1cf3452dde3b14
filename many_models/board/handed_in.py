"""What the board is handed: stores to read, and what an operator may do. So it knows neither adapters nor Dagster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from many_models.board.night import StageRun
    from many_models.ports import Lake, ProductionRegistry, Warehouse
    from many_models.serving.service import Service


class Decide(Protocol):
    """Approve or reject a proposal, as `many-models approve` does. Raises ConflictError when it waits no more."""

    def __call__(self, proposal: str, *, actor: str, reason: str, reject: bool) -> object:
        """Call it."""
        ...


@dataclass(frozen=True, slots=True)
class Stores:
    """Where pages read; `service` answers what-ifs with the live models."""

    lake: Lake
    warehouse: Warehouse
    production: ProductionRegistry
    service: Service | None = None


@dataclass(frozen=True, slots=True)
class Operations:
    """What is done and asked outside: the runs of the last night, newest last; a decision about a proposal."""

    night: Callable[[], Sequence[StageRun]]
    decide: Decide
