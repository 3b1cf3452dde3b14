"""One look at what is due: each table of the lake and each stage's records are read once, whoever asks for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import dagster as dg

from many_models.data import lake_tables
from many_models.keys import digest
from many_models.orchestration.due import ALL_STAGES
from many_models.orchestration.event_log import history
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from many_models.orchestration.due import Stage, StageState, Work
    from many_models.orchestration.outside import Outside
    from many_models.ports import Filter, Lake
    from many_models.settings import Settings

    Dependency = tuple[Literal["table", "stage", "series", "beside"], str]
    Found = tuple[Work | None, StageState | None]

ALL = ""  # the one key of a stage without partitions
WITHOUT_PARTITIONS: frozenset[Stage] = frozenset({"raw_covariates", "pooled_models"})
STAGE_TAG = "many_models/stage"  # on every job of ours, whose runs do not name their assets

OUTSIDE_SECONDS = 3600  # how old a look at production and the warehouse may be while Dagster has recorded nothing new
TABLES = (
    lake_tables.RAW_VERSIONS,
    lake_tables.COVARIATE_VERSIONS,
    lake_tables.RAW_OPENINGS,
    lake_tables.SERIES,
    lake_tables.SERIES_STATUS,
    lake_tables.CHAMPIONS,
    lake_tables.DRIFT,
)  # what is due depends on these tables alone, apart from the settings, Dagster's records, and what changes with these


class Kept:
    """What looks one after another, under the same settings, keep for each other.

    The tags of a stage's newest materializations are read again when it has been made again or wiped, all of them when
    a run was deleted, which takes its events with it. The state of a stage is derived again when anything has changed
    that was read for it (see `Look.state`).
    """

    def __init__(self) -> None:
        self._tags: dict[Stage, tuple[object, dict[str, dict[str, str]]]] = {}
        self._states: dict[Stage, tuple[dict[Dependency, object], StageState]] = {}
        self._runs, self._deletions = history.RunsMark(), 0

    def marks(self, instance: dg.DagsterInstance) -> Mapping[Stage, object]:
        """What changes with a stage's newest tags; None for all stages where this Dagster does not tell."""
        newest = history.newest_materializations(instance, [dg.AssetKey(stage) for stage in ALL_STAGES])
        if newest is None:
            return dict.fromkeys(ALL_STAGES)
        runs = history.runs_mark(instance)
        self._deletions += history.lost_runs(instance, self._runs, runs)
        self._runs = runs
        return {stage: (self._deletions, newest.get(stage)) for stage in ALL_STAGES}

    def tags(self, instance: dg.DagsterInstance, stage: Stage, mark: object) -> dict[str, dict[str, str]]:
        """UPSTREAM_TAG and VERSION_TAG, each with its values by key; `mark` is what `marks` says of the stage."""
        if mark is None or stage not in self._tags or self._tags[stage][0] != mark:
            found: dict[str, dict[str, str]] = {UPSTREAM_TAG: {}, VERSION_TAG: {}}
            for key, tags in history.latest_tags(instance, dg.AssetKey(stage), list(found)).items():
                for tag, value in tags.items():
                    found[tag][key] = value
            self._tags[stage] = mark, found
        return self._tags[stage][1]

    def state(self, stage: Stage, now: Callable[[Dependency], object]) -> StageState | None:
        """The state that an earlier look derived, where `now` says the same of all that it was derived from."""
        read, state = self._states.get(stage, ({}, None))
        return state if all(now(what) == value for what, value in read.items()) else None

    def keep(self, state: StageState, read: Mapping[Dependency, object]) -> None:
        """Keep a state with what it was derived from; not where that cannot be told."""
        if None not in read.values():
            self._states[state.stage] = dict(read), state


class _WatchedLake:
    """A lake for reading that notes which tables are asked for, before it reads them."""

    def __init__(self, lake: Lake, note: Callable[[str], object]) -> None:
        self._lake, self._note = lake, note

    def version(self, table: str) -> int | None:
        """See `Lake.version`."""
        self._note(table)
        return self._lake.version(table)

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """See `Lake.read`."""
        self._note(table)
        return self._lake.read(table, where, columns)


class Look:
    """Dagster's records and the lake's tables as they were when they were first asked for; `kept` is what earlier looks
    under the same settings have kept.
    """

    def __init__(self, instance: dg.DagsterInstance, lake: Lake, kept: Kept | None = None) -> None:
        self.instance = instance
        self._kept = kept or Kept()
        self._lake, self._fingerprints = lake, dict[str, str]()
        self._read: dict[Dependency, object] = {}
        self._beside: object = None
        self._tags: dict[Stage, dict[str, dict[str, str]]] = {}
        watched = _WatchedLake(lake_tables.cached(lake), lambda table: self._note(("table", table)))
        self.lake = cast("Lake", watched)
        self.runs = history.runs_in_flight(instance)  # first: what they finish from now on is not taken as due

    @cached_property
    def _marks(self) -> Mapping[Stage, object]:
        return self._kept.marks(self.instance)

    def state(self, stage: Stage, derive: Callable[[], StageState], beside: object) -> StageState:
        """The state of `stage` by `derive`, which reads this look's tables and tags, the partitions and `beside`.

        It is the one of an earlier look where all of these are as they were then, and no run is in flight.
        """
        if self.runs:
            return derive()
        self._read = {}
        self._beside = beside
        if (found := self._kept.state(stage, self._now)) is not None:
            return found
        self._note(("beside", ""))
        self._note(("series", ""))
        state = derive()
        self._kept.keep(state, self._read)
        return state

    def _note(self, what: Dependency) -> object:
        self._read[what] = self._now(what)

    def _now(self, what: Dependency) -> object:
        kind, name = what
        if kind == "table":
            if name not in self._fingerprints:
                self._fingerprints[name] = self._lake.fingerprint(name)
            return self._fingerprints[name]
        if kind == "stage":
            return self._marks[cast("Stage", name)]
        return self.series if kind == "series" else self._beside

    def consumed(self, stage: Stage) -> Mapping[str, str]:
        """Key → the upstream version that the stage has consumed of it."""
        return self._tags_of(stage)[UPSTREAM_TAG]

    def made(self, stage: Stage) -> Mapping[str, str]:
        """Key → the version that the stage has made of it."""
        return self._tags_of(stage)[VERSION_TAG]

    def _tags_of(self, stage: Stage) -> Mapping[str, Mapping[str, str]]:
        self._note(("stage", stage))
        if stage not in self._tags:
            self._tags[stage] = self._kept.tags(self.instance, stage, self._marks[stage])
        return self._tags[stage]

    def tag(self, stage: Stage, tag: str) -> str:
        """A tag of the newest materialization of a stage without partitions; "" before the first."""
        self._note(("stage", stage))
        return tag_of(self.instance, stage, tag)

    def busy(self, stage: Stage) -> frozenset[str]:
        """The keys of the stage that runs in flight work on."""
        if stage in WITHOUT_PARTITIONS:
            return frozenset({ALL}) if any(_is_of(stage, run) for run in self.runs) else frozenset()
        return history.keys_in_flight(self.instance, dg.AssetKey(stage), self.runs)

    @cached_property
    def series(self) -> list[str]:
        """The dynamic partitions, in their order."""
        return list(self.instance.get_dynamic_partitions("store_items"))


def tag_of(instance: dg.DagsterInstance, stage: Stage, tag: str) -> str:
    """A tag of the newest materialization of a stage without partitions; "" before the first."""
    event = instance.get_latest_materialization_event(dg.AssetKey(stage))
    made = event.asset_materialization if event else None
    return (made.tags or {}).get(tag, "") if made else ""


def stage_of(run: dg.DagsterRun) -> str:
    """The stage that a run is of: of a job of ours, or the only one whose assets it names; "" for other runs."""
    named = {key.to_user_string() for key in run.asset_selection or ()} & set(ALL_STAGES)
    return run.tags.get(STAGE_TAG) or (named.pop() if len(named) == 1 else "")


def _is_of(stage: Stage, run: dg.DagsterRun) -> bool:
    return run.tags.get(STAGE_TAG) == stage or dg.AssetKey(stage) in (run.asset_selection or ())


class SharedLook:
    """What is due, asked once for all who ask in this process, and again when something it depends on has changed:
    Dagster's events and runs, the tables of the lake, the holidays' file, what production and the warehouse hold.

    Dagster is asked each time. The lake and the holidays are asked once in `seconds` while Dagster has nothing new:
    only a person changes them without an event of Dagster's. Production and the warehouse (`outside`, where it is
    given) are asked for each new look, and there is one in OUTSIDE_SECONDS at least. Nothing is kept but the last
    answer, so a restart or a damaged store costs one full look, never a wrong answer.
    """

    def __init__(
        self, settings: Settings, find: Callable[[Look], Found], seconds: float, outside: Outside | None = None
    ) -> None:
        self._settings, self._find, self._seconds, self._outside = settings, find, seconds, outside
        self._lock = threading.Lock()
        self._records: object = None
        self._stores, self._asked = "", float("-inf")
        self._mark: object = None
        self._found: Found = (None, None)

    def found(self, instance: dg.DagsterInstance, lake: Lake) -> Found:
        """The first stage that has something due or is running, with its state; (None, None) where nothing is due."""
        with self._lock:
            mark = self._new_mark(instance, lake)
            if mark is None or mark != self._mark:
                self._mark = None  # a look that fails is not an answer
                if self._outside is not None:
                    self._outside.follow_release(instance, lake)
                self._found = self._find(Look(instance, lake))
                self._mark = mark
            return self._found

    def _new_mark(self, instance: dg.DagsterInstance, lake: Lake) -> object:
        events = history.newest_events(instance, [dg.AssetKey(stage) for stage in ALL_STAGES])
        if events is None:
            return None
        runs = sorted((run.run_id, run.status.value) for run in history.runs_in_flight(instance))
        records = (instance.root_directory, events, runs)
        if records != self._records or time.monotonic() - self._asked > self._seconds:
            self._stores = stores_mark(self._settings, instance, lake)
            self._records, self._asked = records, time.monotonic()
        return records, self._stores, time.monotonic() // OUTSIDE_SECONDS


def stores_mark(settings: Settings, instance: dg.DagsterInstance, lake: Lake) -> str:
    """A digest of what is due depends on apart from Dagster's events and runs."""
    with ThreadPoolExecutor(len(TABLES)) as pool:
        tables = list(pool.map(lake.fingerprint, [table.name for table in TABLES]))
    path = settings.path(settings.data.holidays) if settings.data.holidays else None
    holidays = path.read_bytes() if path and path.is_file() else b""
    return digest(tables, holidays, instance.get_dynamic_partitions("store_items"))
