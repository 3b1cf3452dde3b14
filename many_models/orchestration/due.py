"""What is due, derived from versions: pure functions that sensors, the schedule and the command share."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from many_models.errors import SeriesFailure

MAX_ATTEMPTS = 3
LAUNCH_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(minutes=15)  # after launches that failed

Stage = Literal[
    "raw_sales",
    "raw_covariates",
    "store_item_datasets",
    "pooled_models",
    "trained_models",
    "promoted_models",
    "predictions",
    "stock_recommendations",
    "coherent_predictions",
    "final_predictions",
    "drift",
    "warehouse_predictions",
]
ALL_STAGES: tuple[Stage, ...] = get_args(Stage)
DECISIONS: tuple[Stage, ...] = ALL_STAGES[
    ALL_STAGES.index("stock_recommendations") : ALL_STAGES.index("warehouse_predictions")
]  # only where the settings ask for them
STAGES: tuple[Stage, ...] = tuple(stage for stage in ALL_STAGES if stage not in DECISIONS)

FANNING_OUT: frozenset[Stage] = frozenset({"store_item_datasets", "trained_models", "predictions"})  # to workers


def needs_workers(stage: Stage) -> bool:
    """Whether `stage` or one after it hands chunks of series to workers; else these can leave, with what they hold."""
    return not FANNING_OUT.isdisjoint(ALL_STAGES[ALL_STAGES.index(stage) :])


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A run of a stage that failed at `ended`: whether it began, and whether its error can pass by itself."""

    began: bool
    transient: bool
    ended: datetime


def attempts(failed: Iterable[FailedRun]) -> int:
    """How many of MAX_ATTEMPTS these runs for the same keys have taken: a permanent error takes all of them, a run that
    was never launched none, whatever kept it from that, since it has not tried anything.
    """
    began = [run for run in failed if run.began]
    return len(began) if all(run.transient for run in began) else MAX_ATTEMPTS


def next_launch(failed: Iterable[FailedRun]) -> datetime | None:
    """When the keys of these runs, the newest first, may be launched again; None for at once. Each launch that fails
    doubles the pause: launches alone have no last attempt, and the records are not to fill up with them.
    """
    in_a_row = list(takewhile(lambda run: not run.began, failed))
    if not in_a_row:
        return None
    return in_a_row[0].ended + min(LAUNCH_PAUSE * 2 ** min(len(in_a_row) - 1, 10), LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """How a series failed last at one stage: at which upstream version, for which reason, how often in a row.

    `tried_with` is the digest of the settings that it was tried with (see `copied_settings.tried_with`).
    """

    version: str
    kind: str
    reason: str
    permanent: bool
    attempts: int
    set_aside: bool = False
    tried_with: str = ""

    def blocks(self, version: str, tried_with: str = "") -> bool:
        """Whether the stage waits at `version` until a person asks for it, or changes the settings."""
        if self.tried_with != tried_with:
            return False
        if self.set_aside:
            return True
        return self.version == version and (self.permanent or self.attempts >= MAX_ATTEMPTS)


@dataclass(frozen=True, slots=True)
class StageState:
    """One stage now: the upstream version that each key should have consumed, the one that it has consumed,
    how keys failed, which keys a run is working on. `wanted` is in partition order.
    """

    stage: Stage
    wanted: Mapping[str, str]
    done: Mapping[str, str]
    failed: Mapping[str, FailureRecord] = field(default_factory=dict[str, FailureRecord])
    busy: Collection[str] = ()
    tried_with: str = ""  # the digest of today's settings

    def due(self) -> tuple[str, ...]:
        """The keys to run, in partition order: consumed version differs, not in flight, not blocked by a failure."""
        busy = frozenset(self.busy)
        return tuple(
            key
            for key, version in self.wanted.items()
            if self.done.get(key) != version
            and key not in busy
            and not (key in self.failed and self.failed[key].blocks(version, self.tried_with))
        )

    def behind(self) -> tuple[str, ...]:
        """The keys whose consumed version differs, whatever the reason."""
        return tuple(key for key, version in self.wanted.items() if self.done.get(key) != version)


@dataclass(frozen=True, slots=True)
class Work:
    """The keys that one run of one stage is to do."""

    stage: Stage
    keys: tuple[str, ...]


def next_work(states: Sequence[StageState]) -> Work | None:
    """The first stage, upstream first, that has something due; None while an earlier stage is still running.

    A later stage waits for all earlier ones, so that each day passes through a stage once.
    """
    for state in states:
        if keys := state.due():
            return Work(state.stage, keys)
        if state.busy:
            return None
    return None


def after_failure(
    before: FailureRecord | None, version: str, failure: SeriesFailure, tried_with: str = ""
) -> FailureRecord:
    """The record after one more failure.

    Attempts count in a row at the same version, with the same settings; a permanent failure for the same reason at
    another version (the data changed, the fault did not) sets the series aside.
    """
    kind, reason, permanent = failure.kind, failure.reason, failure.permanent
    if before is None:
        return FailureRecord(version, kind, reason, permanent, 1, tried_with=tried_with)
    same = before.kind == kind and before.reason == reason
    again = before.version == version and before.tried_with == tried_with
    set_aside = before.set_aside or (permanent and before.permanent and same)
    return FailureRecord(version, kind, reason, permanent, before.attempts + 1 if again else 1, set_aside, tried_with)
