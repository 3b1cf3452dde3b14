"""Days on which much goes wrong: the good series are done, the bad ones listed, and the next run does the rest."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import threading
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import psutil
import pytest

from many_models.definitions import build, build_assets
from many_models.errors import ManyModelsError
from many_models.operations.day import Day, Progress, StageReport, open_instance
from many_models.orchestration import automation
from many_models.wiring import build_lake
from many_models_tests.support.faulty_day import FaultyTraining, FullDisk
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.slow

LOCKED_SECONDS = 1.5
NEEDED_AFTER = {"store_item_datasets": "staging.db", "trained_models": "production.db", "predictions": "warehouse.db"}


def assert_same(found: Project, expected: Project) -> None:
    """Every table of lake and warehouse is the same in both."""
    tables = expected.contents()
    assert set(found.contents()) == set(tables)
    for name, frame in found.contents().items():
        pd.testing.assert_frame_equal(frame, tables[name], obj=name)


@pytest.mark.long(
    "contracts/compute.py::test_a_series_that_raises_fails_alone",
    "adapters/test_compute.py::test_a_killed_worker_costs_only_its_own_series",
    "days/test_day.py::test_a_series_whose_data_raises_fails_alone_and_says_why",
)
def test_series_that_raise_hang_exhaust_memory_or_kill_their_worker_cost_only_themselves(tmp_path: Path) -> None:
    from many_models.adapters.compute.processes import ProcessCompute

    rows = sales(stores=2, items=6, days=70)
    day = make_project(tmp_path / "day", rows, compute={"kind": "processes", "chunk": 2})
    faults = {"s0__i1": "raises", "s0__i4": "hangs", "s1__i0": "exhausts", "s1__i3": "dies"}
    compute = FaultyTraining(ProcessCompute(2, timeout=20.0), faults, {"s0__i1": "raises"})
    listed = list[dict[str, str]]()

    def look(report: StageReport) -> None:
        if report.stage == "trained_models":
            status = day.table("series_status")
            listed.append(status[status["stage"] == report.stage].set_index("series_id")["kind"].to_dict())

    with open_instance(day.home) as instance:
        reports = Day(day.settings(), instance, Progress(report=look), {"compute": compute}).run()
    assert [(r.done, r.failed) for r in reports if r.stage == "trained_models"] == [(8, 4), (3, 0)]
    kinds = {"s0__i1": "ValueError", "s0__i4": "WorkerTimeout", "s1__i0": "MemoryError", "s1__i3": "WorkerLost"}
    assert listed == [kinds, {"s0__i1": "ValueError"}]  # what raises is not tried again
    status = day.table("series_status")
    assert status.loc[status["series_id"] == "s0__i1", "reason"].str.contains("s0__i1 is too odd").all()
    every = set(day.table("series")["series_id"])
    assert sorted(day.table("trained_models")["series_id"]) == sorted(every - {"s0__i1"})
    predicted = day.warehouse("SELECT DISTINCT store || '__' || item AS name, fallback FROM predictions")
    assert dict(zip(predicted["name"], predicted["fallback"], strict=True)) == {
        name: "no_champion" if name == "s0__i1" else "" for name in every
    }
    assert day.run() == []


def test_no_worker_holds_memory_while_the_warehouse_is_loaded(tmp_path: Path) -> None:
    day = make_project(tmp_path, sales(stores=1, items=4, days=70), compute={"kind": "processes", "chunk": 2})
    before, waiting = set(psutil.Process().children()), dict[str, int]()

    def count(stage: str, _keys: int) -> None:
        waiting[stage] = len(set(psutil.Process().children()) - before)

    with open_instance(day.home) as instance:
        Day(day.settings(), instance, Progress(stage=count)).run()
    assert waiting["predictions"] > 0
    assert waiting["warehouse_predictions"] == 0


def copied(project: Project, root: Path) -> Project:
    """A copy, with its own Dagster instance."""
    return Project(shutil.copytree(project.root, root))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project after one day, and the same after two."""
    root = tmp_path_factory.mktemp("days")
    one = make_project(root / "one", sales(stores=1, items=3, days=60))
    one.run(END - timedelta(days=1))
    two = copied(one, root / "two")
    two.run(END)
    return one, two


@pytest.fixture
def day(days: tuple[Project, Project], tmp_path: Path) -> Project:
    return copied(days[0], tmp_path / "day")


@pytest.mark.long(
    "days/test_full_disk.py::test_a_full_disk_is_a_clear_error_that_leaves_nothing_half_loaded",
    "days/test_killed_runs.py::test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one",
)
def test_a_disk_that_is_full_while_the_lake_is_written_costs_nothing_but_the_time(
    day: Project, days: tuple[Project, Project]
) -> None:
    """Full at one table after the other, on one day: each run goes on where the one before it had to stop."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_instance(day.home) as instance:
        for table in ("raw_sales", "store_item_datasets", "trained_models", "predictions"):
            lake = FullDisk(build_lake(day.settings()), table)
            with pytest.raises(ManyModelsError, match=r"(?i)file too large|full|no space"):
                Day(day.settings(END), instance, resources={"lake": lake}).run()
            assert lake.refused, table
    day.run(END)
    assert_same(day, days[1])


def test_databases_that_others_hold_locked_are_waited_for(day: Project, days: tuple[Project, Project]) -> None:
    over, locked, timers = threading.Event(), list[str](), list[threading.Timer]()

    def lock_each_in_turn() -> None:
        while True:
            for path in sorted(day.root.rglob("*.db")):
                if over.is_set():
                    return
                with closing(sqlite3.connect(path, timeout=0.05, isolation_level=None)) as connection:
                    try:
                        connection.execute("BEGIN IMMEDIATE")
                    except sqlite3.OperationalError:
                        continue
                    over.wait(LOCKED_SECONDS)
                    connection.execute("ROLLBACK")

    def lock(name: str) -> None:
        (path,) = day.root.rglob(name)
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        timers.append(threading.Timer(LOCKED_SECONDS, connection.close))  # which rolls back
        timers[-1].start()
        locked.append(name)

    def lock_what_comes_next(report: StageReport) -> None:
        if report.stage in NEEDED_AFTER:
            lock(NEEDED_AFTER[report.stage])

    thread = threading.Thread(target=lock_each_in_turn)
    thread.start()
    try:
        lock("sales.db")
        with open_instance(day.home) as instance:
            Day(day.settings(END), instance, Progress(report=lock_what_comes_next)).run()
    finally:
        over.set()
        for other in (thread, *timers):
            other.join()
    assert locked == ["sales.db", *NEEDED_AFTER.values()]
    assert_same(day, days[1])


@pytest.fixture
def prepared(tmp_path: Path) -> Project:
    """A project with raw rows in its lake and nothing further."""
    project = make_project(tmp_path / "day", sales(stores=2, items=3, days=60))
    with open_instance(project.home) as instance:
        settings = project.settings()
        stop = RuntimeError("stop here")

        def after(report: object) -> None:
            if getattr(report, "stage", "") == "raw_covariates":
                raise stop

        with pytest.raises(RuntimeError, match="stop here"):
            Day(settings, instance, Progress(report=after)).run()
    return project


def test_two_ticks_of_a_sensor_never_start_the_same_work_and_in_the_middle_of_a_stage_it_waits(
    prepared: Project,
) -> None:
    settings = prepared.settings()
    definitions, assets = build(settings), build_assets(settings)
    repository = definitions.get_repository_def()
    sensor = repository.get_sensor_def(automation.SENSORS["store_item_datasets"])
    later = repository.get_sensor_def(automation.SENSORS["trained_models"])
    job = definitions.resolve_job_def(automation.JOBS["store_item_datasets"])

    def tick(which: dg.SensorDefinition) -> object:
        context = dg.build_sensor_context(instance, definitions=definitions, resources={"lake": build_lake(settings)})
        return which(context)

    with open_instance(prepared.home) as instance:
        asked = tick(sensor)
        assert isinstance(asked, dg.RunRequest)
        started = instance.create_run_for_job(
            job, run_config=dict(asked.run_config), tags=dict(asked.tags), status=dg.DagsterRunStatus.STARTED,
            asset_selection=frozenset({assets["store_item_datasets"].key}),
        )  # fmt: skip
        second = tick(sensor)
        assert isinstance(second, dg.SkipReason)
        assert second.skip_message == "store_item_datasets is running (6 keys)"
        downstream = tick(later)
        assert isinstance(downstream, dg.SkipReason)
        assert "store_item_datasets is running" in str(downstream.skip_message)
        instance.report_run_canceled(started)
        third = tick(sensor)
        assert isinstance(third, dg.RunRequest)
        assert third.tags[automation.DUE_TAG] == asked.tags[automation.DUE_TAG]
        assert isinstance(tick(later), dg.SkipReason)
