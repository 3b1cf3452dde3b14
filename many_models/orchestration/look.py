"""One look at what is due: each table of the lake and each stage's records are read once, whoever asks for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.keys import digest
from many_models.orchestration.due import ALL_STAGES
from many_models.orchestration.event_log import history
from many_models.orchestration.stage_run import UPSTREAM_TAG, VERSION_TAG

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.orchestration.due import Stage, StageState, Work
    from many_models.orchestration.outside import Outside
    from many_models.ports import Lake
    from many_models.settings import Settings

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


class KeptTags:
    """The tags of each stage's newest materializations, for looks one after another: a stage is read again when it has
    been made again or wiped, all of them when a run was deleted, which takes its events with it.
    """

    def __init__(self) -> None:
        self._kept: dict[Stage, tuple[object, dict[str, dict[str, str]]]] = {}

    def of(self, instance: dg.DagsterInstance, stage: Stage, mark: object) -> dict[str, dict[str, str]]:
        """Key → its tags UPSTREAM_TAG and VERSION_TAG; `mark` is one of `marks`."""
        if mark is None or stage not in self._kept or self._kept[stage][0] != mark:
            tags = history.latest_tags(instance, dg.AssetKey(stage), [UPSTREAM_TAG, VERSION_TAG])
            self._kept[stage] = mark, tags
        return self._kept[stage][1]


def marks(instance: dg.DagsterInstance) -> dict[Stage, object]:
    """What changes with a stage's newest tags; None for all stages where this Dagster does not tell."""
    newest = history.newest_materializations(instance, [dg.AssetKey(stage) for stage in ALL_STAGES])
    if newest is None:
        return {stage: None for stage in ALL_STAGES}  # noqa: C420  an object each, not None
    runs = instance.get_runs_count()
    return {stage: (runs, newest.get(stage)) for stage in ALL_STAGES}


class Look:
    """Dagster's records and the lake's tables as they were when they were first asked for; `kept` are the tags that
    earlier looks have read.
    """

    def __init__(self, instance: dg.DagsterInstance, lake: Lake, kept: KeptTags | None = None) -> None:
        self.instance = instance
        self._kept = kept or KeptTags()
        self.lake = lake_tables.cached(lake)
        self.runs = history.runs_in_flight(instance)  # first: what they finish from now on is not taken as due
        self._tags: dict[Stage, dict[str, dict[str, str]]] = {}

    @cached_property
    def _marks(self) -> dict[Stage, object]:
        return marks(self.instance)

    def consumed(self, stage: Stage) -> dict[str, str]:
        """Key → the upstream version that the stage has consumed of it."""
        return self._tag(stage, UPSTREAM_TAG)

    def made(self, stage: Stage) -> dict[str, str]:
        """Key → the version that the stage has made of it."""
        return self._tag(stage, VERSION_TAG)

    def _tag(self, stage: Stage, tag: str) -> dict[str, str]:
        if stage not in self._tags:
            self._tags[stage] = self._kept.of(self.instance, stage, self._marks[stage])
        return {key: tags[tag] for key, tags in self._tags[stage].items() if tag in tags}

    def tag(self, stage: Stage, tag: str) -> str:
        """A tag of the newest materialization of a stage without partitions; "" before the first."""
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
