"""The stores that a look asks besides Dagster's records and the lake."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.errors import ManyModelsError
from many_models.orchestration.event_log import history
from many_models.orchestration.live_release import follow_release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import dagster as dg

    from many_models.ports import Lake, ProductionRegistry, Source, Warehouse

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outside:
    """How the stores are opened, each for every look: its file may be another one. `source` has the tables that people
    keep for decisions; without it they are not asked for.

    A store that raises one of `passed_over` makes nothing due, and `say` gets a sentence about it. `say` also gets what
    was done.
    """

    production: Callable[[], ProductionRegistry]
    warehouse: Callable[[], Warehouse]
    source: Callable[[], Source] | None = None
    passed_over: type[ManyModelsError] = ManyModelsError
    say: Callable[[str], None] = _LOG.warning

    def loads(self) -> Mapping[str, str] | None:
        """What the warehouse holds; None where it does not answer, or records nothing."""
        try:
            return self.warehouse().loads()
        except self.passed_over as error:  # the load itself says so where there is one to do
            self.say(f"the warehouse was not asked what it holds: {error}")
            return None

    def follow_release(self, instance: dg.DagsterInstance, lake: Lake) -> None:
        """Where production has gone back, have the lake follow it; nothing while runs are in flight."""
        if history.runs_in_flight(instance):
            return
        try:
            for told in follow_release(instance, lake, self.production()):
                self.say(told)
        except self.passed_over as error:
            self.say(f"production was not asked which release is live: {error}")
