"""The day without the UI: the same assets, decisions and Dagster instance, run after run in this process."""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dagster as dg
from filelock import FileLock, Timeout

from many_models.data import lake_tables
from many_models.definitions import BUILDERS, build, build_assets
from many_models.errors import PermanentError, SettingsError, TransientError, UnavailableError
from many_models.operations.alerts import tell_operators, tell_people
from many_models.orchestration import automation, due, lake_marks, stage_state
from many_models.orchestration.assets import power_bi
from many_models.orchestration.due import StageState
from many_models.orchestration.event_log import dead_runs, history
from many_models.orchestration.forecast_spec import spec_of
from many_models.orchestration.look import Kept, Look
from many_models.orchestration.outside import Outside
from many_models.orchestration.stage_run import status_rows
from many_models.setting_checks import nearest
from many_models.system import return_free_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from many_models.orchestration.due import Stage, Work
    from many_models.ports import Chunk, ChunkResult, Compute, Lake, ProductionRegistry, Source, Task, Warehouse
    from many_models.settings import Settings, Storage

SETUP_LOCK, RUN_LOCK = ".setup.lock", ".run.lock"
POSTGRES_URL = "DAGSTER_POSTGRES_URL"
CODE_LOCATION_TAG = ".dagster/repository"  # with it the run is listed on its job's page
WRITTEN = "# Written by many-models for this folder; its templates/dagster.yaml has comments.\n"
MOVED_MODULES = {  # what a dagster.yaml may name → where it is now
    "many_models.dagster_storage": "many_models.orchestration.event_log.storage_sqlite",
    "many_models.dagster_storage_postgres": "many_models.orchestration.event_log.storage_postgres",
}
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class StageReport:
    """What one run of one stage did."""

    stage: Stage
    keys: int
    done: int
    failed: int
    seconds: float
    run_id: str
    error: str = ""


@dataclass(slots=True)
class Progress:
    """What the command shows while a stage runs; `stage` and `advance` are called from this thread."""

    stage: Callable[[Stage, int], None] = lambda _stage, _keys: None
    advance: Callable[[int], None] = lambda _series: None
    report: Callable[[StageReport], None] = lambda _report: None
    note: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True, slots=True)
class WatchedCompute:
    """A compute that says how many series have come back."""

    compute: Compute
    advance: Callable[[int], None]

    def run(self, task: Task, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, ChunkResult]]:
        """See `Compute.run`."""
        for chunk, result in self.compute.run(task, chunks):
            self.advance(len(chunk.series))
            yield chunk, result

    def slots(self) -> int:
        """See `Compute.slots`."""
        return self.compute.slots()

    def check(self) -> str:
        """See `Compute.check`."""
        return self.compute.check()


def _close(compute: Compute) -> None:
    """Stop the workers that wait, where the compute has some; it starts others when they are needed."""
    getattr(compute, "close", lambda: None)()


@contextmanager
def open_instance(home: Path, storage: Storage = "sqlite") -> Generator[dg.DagsterInstance]:
    """The Dagster instance of `home`; where it has no dagster.yaml yet, ours is written, with that `storage`.

    Raises SettingsError when dagster.yaml wants a URL from the environment that is not there.
    """
    from many_models.orchestration.event_log.storage_sqlite import counting_from

    home.mkdir(parents=True, exist_ok=True)
    file = home / "dagster.yaml"
    with FileLock(home / SETUP_LOCK):
        if not file.exists():
            file.write_text(_dagster_yaml(storage))
    _refuse_moved_modules(file)
    if POSTGRES_URL in file.read_text() and not os.environ.get(POSTGRES_URL):
        raise SettingsError(
            f"{file} keeps Dagster's storage on PostgreSQL, at the URL in {POSTGRES_URL}, which is not set: "
            f"export {POSTGRES_URL}=postgresql://user:password@host:port/database"
        )
    with counting_from(home.absolute()), dg.DagsterInstance.from_config(str(home)) as instance:
        with FileLock(home / SETUP_LOCK):
            instance.compute_log_manager  # noqa: B018 -- made at its first use, which may be in another thread
            history.ensure_pools(instance, due.STAGES)
        yield instance


def _refuse_moved_modules(file: Path) -> None:
    """Raise SettingsError for a dagster.yaml that names modules as they were called before they moved."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        named = re.fullmatch(r"\s*module:\s*[\"']?([\w.]+)[\"']?\s*(?:#.*)?", line)
        if named and named[1] in MOVED_MODULES:
            raise SettingsError(
                f"{file}, line {number}: the module {named[1]} has moved; write `module: {MOVED_MODULES[named[1]]}`"
            )


@contextmanager
def alone(home: Path) -> Generator[None]:
    """Held by one `many-models run` at a time. Raises UnavailableError where another one holds it; a killed one does
    not.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / RUN_LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UnavailableError(f"another `many-models run` is at work on {home}: wait for it, then run again") from None
    try:
        yield
    finally:
        lock.release()


def alone_on(instance: dg.DagsterInstance) -> AbstractContextManager[None]:
    """As `alone`, among the runs of other folders and machines that share the instance's records."""
    from many_models.orchestration.event_log.storage_sqlite import InBatches

    log = instance.event_log_storage
    return log.only_run() if isinstance(log, InBatches) else nullcontext()


def _dagster_yaml(storage: Storage) -> str:
    import yaml

    templates = Path(__file__).parents[1] / "templates"
    instance = yaml.safe_load((templates / "dagster.yaml").read_text())
    for config in (instance["storage"]["custom"]["config"], instance["compute_logs"]["config"]):
        config["base_dir"] = str(Path(config["base_dir"]).relative_to("var/dagster"))  # the folder may be moved
    if storage == "postgres":
        instance |= yaml.safe_load((templates / "storage_postgres.yaml").read_text())
    return WRITTEN + yaml.safe_dump(instance, sort_keys=False)


@dataclass(slots=True)
class Finished:
    """What has been run to its end in this day: stage and key → the version that the key was due at."""

    versions: dict[tuple[Stage, str], str | None] = field(default_factory=dict[tuple["Stage", str], "str | None"])

    def add(self, work: Work, state: StageState) -> None:
        """Note that a run has done all of `work`, as `state` wanted it."""
        self.versions |= {(work.stage, key): state.wanted.get(key) for key in work.keys}

    def refuse_to_repeat(self, work: Work, state: StageState) -> None:
        """Raise PermanentError when a key is due again at the version that it was run for, which would never end."""
        again = [
            key
            for key in work.keys
            if (work.stage, key) in self.versions and self.versions[work.stage, key] == state.wanted.get(key)
        ]
        if again:
            raise PermanentError(
                f"{work.stage} has just been run and is due again for {len(again)} of its keys, the first "
                f"{again[0]!r}, though nothing has changed: it would be run for ever. This is a fault of "
                "many_models: please report it with your many_models.toml. Earlier forecasts are untouched"
            )


@dataclass(slots=True)
class Day:
    """Everything that is due, stage by stage, until nothing is; `resources` replace adapters by name."""

    settings: Settings
    instance: dg.DagsterInstance
    progress: Progress = field(default_factory=Progress)
    resources: Mapping[str, object] = field(default_factory=dict[str, object])
    reports: list[StageReport] = field(default_factory=list[StageReport])
    _covariates_seen: bool = False
    _kept: Kept = field(default_factory=Kept)

    def run(self) -> list[StageReport]:
        """Run what is due.

        Raises PermanentError when a stage fails whole for a reason that stays, UnavailableError when it does so
        time after time for one that might pass, or when another process is at work on it.
        """
        settings = self.settings
        spec_of(settings)  # a mistake in what is to be forecast is told before anything is copied
        resources = {name: self.resources.get(name) or make(settings) for name, make in BUILDERS.items()}
        source, lake = cast("Source", resources["source"]), cast("Lake", resources["lake"])
        compute = cast("Compute", resources["compute"])
        resources["compute"] = WatchedCompute(compute, self.progress.advance)
        definitions, assets = build(settings, resources), build_assets(settings)
        dead_runs.mark_dead_runs_failed(self.instance)
        self._refuse_another_projects_instance(lake)
        outside = self._outside(resources)
        self._reconcile(lake, outside)
        refuse_unknown_series(settings, lake)
        tried, seen = dict[str, int](), Finished()
        try:
            while (found := self._next(source, lake, outside)) is not None:
                work, current = found
                seen.refuse_to_repeat(work, current)
                tags = dead_runs.process_tag()
                request = automation.request_of(settings, self.instance, assets[work.stage], work, current, tags)
                mark = request.tags[automation.DUE_TAG]
                tried[mark] = tried.get(mark, 0) + 1
                if not due.needs_workers(work.stage):
                    _close(compute)  # workers that wait keep the memory that they have taken
                report = self._run(definitions, work, request, lake)
                return_free_memory()  # each stage holds rows of all series; what they leave would add up
                self.reports.append(report)
                self.progress.report(report)
                if report.stage == "raw_sales":
                    refuse_unknown_series(settings, lake)
                if report.done == report.keys:
                    seen.add(work, current)
                if not report.done:
                    self._raise_if_hopeless(report, tried[mark])
            self._refresh_power_bi(definitions)
        finally:
            _close(compute)
            told = tell_people(settings, self.instance, {**resources, **self.resources})
            for line in [*told, *tell_operators(settings, self.instance)]:
                self.progress.note(line)
        return self.reports

    def _refresh_power_bi(self, definitions: dg.Definitions) -> None:
        """Do what the sensor does after a load, where the settings name a semantic model. Raises UnavailableError."""
        model = power_bi.build(self.settings).model
        asked = None if model is None else power_bi.request(self.instance, model)
        if isinstance(asked, dg.RunRequest):
            job = definitions.resolve_job_def(power_bi.JOB)
            tags = {**(asked.tags or {}), **dead_runs.process_tag()}
            result = job.execute_in_process(QUIET, self.instance, tags=tags, raise_on_error=False)
            if not result.success:
                why = _first_error(self.instance, result)
                raise UnavailableError(f"the warehouse is loaded, but Power BI was not refreshed: {why}")

    def _refuse_another_projects_instance(self, lake: Lake) -> None:
        copied = self.instance.get_materialized_partitions(dg.AssetKey("raw_sales"))
        if copied and lake.version(lake_tables.RAW_VERSIONS.name) is None:
            where = self.settings.place(self.settings.lake.path)
            raise SettingsError(
                f"this Dagster instance ({self.instance.root_directory}) counts {len(copied)} periods of raw_sales as "
                f"copied, but the lake {where} has none: it belongs to another project, or the lake is gone. "
                "Work in another folder, or set DAGSTER_HOME; where it is this project's own lake that is gone, "
                "`many-models doctor --mend` has everything made again from the source"
            )

    def _outside(self, resources: Mapping[str, object]) -> Outside:
        """Production and the warehouse: away for now, they stop the stages alone that need them, which say so, too."""
        production = cast("ProductionRegistry", resources["production"])
        warehouse = cast("Warehouse", resources["warehouse"])
        return Outside(lambda: production, lambda: warehouse, passed_over=TransientError, say=self.progress.note)

    def _reconcile(self, lake: Lake, outside: Outside) -> None:
        """Make due again what the records know and a store lacks, or stop the run and name the table."""
        lake_marks.require(self.instance, lake)
        if lost := lake_marks.lost(self.instance, lake):
            stages = lake_marks.forget(self.instance, lake, lost)
            tables = ", ".join(sorted(lost))
            self.progress.note(f"the lake has lost {tables}: {', '.join(stages)} is made again for every series")
        outside.follow_release(self.instance, lake)

    def _next(self, source: Source, lake: Lake, outside: Outside) -> tuple[Work, StageState] | None:
        work, current = automation.next_due(self._states(source, lake, outside))
        if work is None and current is not None:
            raise UnavailableError(f"{current.stage} is running elsewhere ({len(current.busy)} keys): wait for it")
        return None if work is None or current is None else (work, current)

    def _states(self, source: Source, lake: Lake, outside: Outside) -> Iterator[StageState]:
        """All states, one by one as they are needed; the tables beside the sales are read once.

        The source is asked before anything else is run, after each run of raw_sales, and when nothing else is due: rows
        that come while the stages after raw_sales run wait until these have ended.
        """
        asks_first = not self.reports or self.reports[-1].stage == "raw_sales"
        if asks_first:
            yield automation.raw_state(self.settings, self.instance, source)
        look = Look(self.instance, lake, self._kept)
        if not asks_first:
            yield StageState("raw_sales", {}, {}, busy=look.busy("raw_sales"))
        found = stage_state.covariates_state(self.settings, look)
        copied = any(report.stage == "raw_covariates" and report.done for report in self.reports)
        if not found.due() and not copied and not self._covariates_seen:
            found = automation.covariates_state(self.settings, self.instance, source, lake)
            self._covariates_seen = not found.due()
        yield found
        yield from automation.later_states(self.settings, look, outside.loads, lambda: source)
        if not asks_first:
            yield automation.raw_state(self.settings, self.instance, source)

    def _raise_if_hopeless(self, report: StageReport, attempts: int) -> None:
        cause = automation.cause_of(self.instance, report.run_id)
        if cause is not None and not cause.transient:
            raise PermanentError(f"{report.stage}: {cause.message}")
        if report.error and attempts >= due.MAX_ATTEMPTS:
            raise UnavailableError(f"{report.stage} failed {attempts} times: {report.error}")

    def _run(self, definitions: dg.Definitions, work: Work, request: dg.RunRequest, lake: Lake) -> StageReport:
        self.progress.stage(work.stage, len(work.keys))
        began = time.monotonic()
        job = definitions.resolve_job_def(automation.JOBS[work.stage])
        result = job.execute_in_process(
            run_config={**request.run_config, **QUIET},
            instance=self.instance,
            asset_selection=[dg.AssetKey(work.stage)],
            tags={**request.tags, CODE_LOCATION_TAG: "__repository__@many_models"},
            raise_on_error=False,
        )
        done, failed, error = self._outcome(result, work, lake)
        return StageReport(work.stage, len(work.keys), done, failed, time.monotonic() - began, result.run_id, error)

    def _outcome(self, result: dg.ExecuteInProcessResult, work: Work, lake: Lake) -> tuple[int, int, str]:
        if result.success:
            return len(work.keys), 0, ""
        failed = history.failed_partitions(self.instance, dg.AssetKey(work.stage))
        bad = [key for key in work.keys if failed.get(key) == result.run_id]
        listed_only = bool(self.settings.partitions.by) or not bad  # Dagster knows of partitions, if of anything
        if work.stage in stage_state.OVER_SERIES and listed_only and _failed_for_series(result):
            listed = status_rows(lake, work.stage)
            bad = [key for key in work.keys if key in listed]
        bad = bad or work.keys  # none: it failed as a whole
        return len(work.keys) - len(bad), len(bad), _first_error(self.instance, result)


def refuse_unknown_series(settings: Settings, lake: Lake) -> None:
    """Raise SettingsError where `promotion.pinned` or `excluded` names a series that the lake does not have."""
    there = {row["series_id"] for row in lake_tables.records(lake, lake_tables.SERIES_KEYS, columns=["series_id"])}
    for name in ("pinned", "excluded"):
        asked: list[str] = getattr(settings.promotion, name)
        if there and (unknown := [series for series in asked if series not in there]):
            keys = "__".join(settings.data.keys)
            hint = nearest(unknown[0], there)
            raise SettingsError(
                f"promotion.{name} names {unknown[0]!r}, not a series of the sales table{hint}: write {keys}, as "
                "in the column series_id of the forecasts"
            )


def _failed_for_series(result: dg.ExecuteInProcessResult) -> bool:
    return any(event.step_failure_data.user_failure_data is not None for event in result.get_step_failure_events())


def _first_error(instance: dg.DagsterInstance, result: dg.ExecuteInProcessResult) -> str:
    for event in result.get_step_failure_events():
        failure = event.step_failure_data.user_failure_data
        if failure is not None:
            return failure.description or ""
    cause = automation.cause_of(instance, result.run_id)
    return cause.message if cause else "the run failed before its first step"
