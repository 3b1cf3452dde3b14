"""Kill -9 of the daemon at every stage, with and without the run that it has started: a new daemon ends the day."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd
import pytest

from many_models.operations.day import open_instance
from many_models.orchestration.automation import JOBS
from many_models.orchestration.due import STAGES
from many_models.orchestration.event_log import history
from many_models_tests.days.test_ui_day import end_session, wait_for
from many_models_tests.support.project import Project, make_project, sales

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from many_models.orchestration.due import Stage

ROOT = Path(__file__).resolve().parents[2]
TRAINED = dg.AssetKey("trained_models")
SERIES = {"s0__i0", "s0__i1", "s0__i2"}
OVER_SERIES = ("trained_models", "promoted_models", "predictions")
PATIENCE = 600
WAITING_DAY = "many_models_tests.support.waiting_day"


def small(root: Path, **sections: dict[str, object]) -> Project:
    """A project of three series."""
    return make_project(root, sales(stores=1, items=3, days=60), forecast={"windows": 1, "trees": False}, **sections)


@contextmanager
def daemons(project: Project) -> Generator[Callable[[], subprocess.Popen[bytes]]]:
    """A way to start a daemon on stages that wait, in its own session; at the end all their sessions are ended."""
    environment = os.environ | {
        "DAGSTER_HOME": str(project.home), "MANY_MODELS_CONFIG": str(project.root / "many_models.toml"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{project.root}",
    }  # fmt: skip
    started = list[subprocess.Popen[bytes]]()

    def start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "many_models_tests.support.quick_daemon", "run", "-m", WAITING_DAY]
        with (project.root / f"daemon-{len(started)}.log").open("w") as log:
            process = subprocess.Popen(
                words, cwd=project.root, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            end_session(process)


def waits_again(project: Project, stage: Stage, before: int = 0) -> int:
    """How many runs of `stage` have begun to wait, once there are more than `before`."""
    file = project.root / f"waiting-{stage}"
    now = file.stat().st_size if file.exists() else 0
    return now if now > before else 0


@pytest.mark.long(
    "orchestration/test_events.py::test_a_run_whose_process_was_killed_is_marked_failed_and_its_keys_are_due_again",
    "days/test_killed_runs.py::test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one",
)
@pytest.mark.timeout(3 * PATIENCE)
def test_a_day_whose_daemon_is_killed_in_the_middle_of_every_stage_ends_as_an_undisturbed_one(tmp_path):
    """In training, the next daemon is killed without its run, too: the run goes on, and the third starts no other."""
    project, clean = small(tmp_path / "beaten", dagster={"cron": "* * * * *"}), small(tmp_path / "clean")
    killed, orphan = dict["Stage", str](), ""
    with daemons(project) as start, open_instance(project.home) as instance:
        daemon = start()
        clean.run()  # while the schedule waits for the next minute
        for stage in STAGES:
            begun = wait_in(project, stage)
            killed[stage] = kill_in_the_middle_of(instance, stage, daemon)
            assert stage != "trained_models" or history.keys_in_flight(instance, TRAINED) == SERIES
            daemon = start()
            if stage == "trained_models":
                wait_in(project, stage, begun)
                orphan = kill_without_its_run(instance, killed[stage], daemon)
                daemon = start()
                assert_left_alone(instance, orphan)
            (project.root / f"go-{stage}").touch()
        wait_for("the load into the warehouse", lambda: loaded_and_idle(instance), PATIENCE)
        for stage in STAGES:
            after = the_run_after(instance, stage, killed[stage])
            assert stage != "trained_models" or after == orphan
            assert stage not in OVER_SERIES or made_once(instance, stage) == SERIES
            assert made_once(instance, stage) == (clean.partitions(stage) or {None})
    assert project.run() == []
    assert_as_clean(project, clean)


def wait_in(project: Project, stage: Stage, before: int = 0) -> int:
    """How many runs have waited in the middle of `stage`, once one more does."""
    return wait_for(f"the middle of {stage}", lambda: waits_again(project, stage, before), PATIENCE, 0.2)


def kill_without_its_run(instance: dg.DagsterInstance, killed: str, daemon: subprocess.Popen[bytes]) -> str:
    """Kill the daemon alone in the middle of the training that it has started after `killed`; that run goes on."""
    daemon.kill()
    daemon.wait()
    (orphan,) = history.runs_in_flight(instance, [JOBS["trained_models"]])
    assert instance.get_run_by_id(killed).status is dg.DagsterRunStatus.FAILURE
    return orphan.run_id


def assert_left_alone(instance: dg.DagsterInstance, orphan: str) -> None:
    """A daemon looks at what is due, and starts no second training beside the run that its predecessor left."""
    tick = time.time()
    wait_for("a tick of the next daemon", lambda: ticked_since(instance, tick), PATIENCE, 0.2)
    assert [run.run_id for run in history.runs_in_flight(instance, [JOBS["trained_models"]])] == [orphan]


def kill_in_the_middle_of(instance: dg.DagsterInstance, stage: Stage, daemon: subprocess.Popen[bytes]) -> str:
    """Kill the daemon, its code server, and the run of `stage` with its workers; the run, which is left as running."""
    os.killpg(daemon.pid, signal.SIGKILL)
    daemon.wait()
    (run,) = history.runs_in_flight(instance, list(JOBS.values()))
    assert (run.job_name, run.status) == (JOBS[stage], dg.DagsterRunStatus.STARTED)
    return run.run_id


def the_run_after(instance: dg.DagsterInstance, stage: Stage, killed: str) -> str:
    """The run that has done what the killed one did not; there is no other."""
    statuses = {run.run_id: run.status for run in instance.get_runs(dg.RunsFilter(job_name=JOBS[stage]))}
    assert statuses.pop(killed) is dg.DagsterRunStatus.FAILURE
    ((run_id, status),) = statuses.items()
    assert status is dg.DagsterRunStatus.SUCCESS
    return run_id


def made_once(instance: dg.DagsterInstance, stage: Stage) -> set[str | None]:
    """The partitions of `stage` that were materialized (None: it has none), each of them once."""
    made = instance.fetch_materializations(dg.AssetKey(stage), limit=1000).records
    found = {record.partition_key for record in made}
    assert len(made) == len(found), stage
    return found


def ticked_since(instance: dg.DagsterInstance, moment: float) -> bool:
    """Whether the sensor that starts training has looked since `moment`."""
    states = [state for state in instance.all_instigator_state() if state.instigator_name == "datasets_to_training"]
    return any(
        tick.timestamp > moment and tick.is_completed
        for state in states
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
    )


def loaded_and_idle(instance: dg.DagsterInstance) -> bool:
    """Whether the warehouse is loaded and nothing runs."""
    loaded = instance.get_latest_materialization_event(dg.AssetKey("warehouse_predictions"))
    return loaded is not None and not history.runs_in_flight(instance, list(JOBS.values()))


def assert_as_clean(project: Project, clean: Project) -> None:
    """Lake and warehouse hold what those of `clean` hold, whose day was not disturbed."""
    expected, found = clean.contents(), project.contents()
    assert set(found) == set(expected)
    for name, frame in expected.items():
        timed = [column for column in frame if column == "seconds"]
        pd.testing.assert_frame_equal(found[name].drop(columns=timed), frame.drop(columns=timed), obj=name)
