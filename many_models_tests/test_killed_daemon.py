"""Kill -9 of the daemon, with and without the run that it has started: a new daemon ends the day all the same."""

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

from many_models import events
from many_models.headless import Day, Progress, open_instance
from many_models_tests.project import Project, make_project, sales
from many_models_tests.test_ui_day import end_session, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ROOT = Path(__file__).resolve().parents[1]
TRAINED = dg.AssetKey("trained_models")
STAGES = ("trained_models", "promoted_models", "predictions", "warehouse_predictions")
PATIENCE = 600
WAITING = """
import time
from pathlib import Path


class Waits:
    "The last value, fitted once the file `go` is there; each fit that waits is a letter in the file `waiting`."

    def fit(self, history):
        folder = Path(__file__).parent
        made_up = history["ds"].iloc[0].year < 2000  # to warm up on
        if not made_up and not (folder / "go").exists():
            with (folder / "waiting").open("a") as file:
                file.write("w")
        while not made_up and not (folder / "go").exists():
            time.sleep(0.05)
        self.last = history["y"].iloc[-1]

    def predict(self, future):
        return [self.last] * len(future)
"""
CUSTOM = f'\n[forecast.custom.waits]\nuse = "waiting:Waits"\nseconds = {PATIENCE}\n'


class StopError(Exception):
    """The stages before training are done."""


def project_at(root: Path) -> Project:
    """A project that waits with its training until the file `go` is there; the stages before it are done."""
    project = make_project(root, sales(stores=1, items=3, days=60), forecast={"windows": 1, "trees": False})
    (root / "waiting.py").write_text(WAITING)
    with (root / "many_models.toml").open("a") as file:
        file.write(CUSTOM)
    (root / "go").touch()  # learning together fits, too

    def after(report: object) -> None:
        if getattr(report, "stage", "") == "pooled_models":
            raise StopError

    with open_instance(project.home) as instance, pytest.raises(StopError):
        Day(project.settings(), instance, Progress(report=after)).run()
    (root / "go").unlink()
    return project


@contextmanager
def daemons(project: Project) -> Generator[Callable[[], subprocess.Popen[bytes]]]:
    """A way to start a daemon, in a session of its own; at the end all their sessions are ended."""
    environment = os.environ | {
        "DAGSTER_HOME": str(project.home), "MANY_MODELS_CONFIG": str(project.root / "many_models.toml"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{project.root}",
    }  # fmt: skip
    started = list[subprocess.Popen[bytes]]()

    def start() -> subprocess.Popen[bytes]:
        words = [sys.executable, "-m", "dagster._daemon", "run", "-m", "many_models.definitions"]
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


def waits_again(project: Project, before: int) -> int:
    """How many fits have begun to wait, once there are more than `before`."""
    file = project.root / "waiting"
    now = file.stat().st_size if file.exists() else 0
    return now if now > before else 0


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
def test_a_new_daemon_ends_the_day_of_one_that_was_killed_in_the_middle_of_training(tmp_path):
    project = project_at(tmp_path / "beaten")
    with daemons(project) as start, open_instance(project.home) as instance:
        first = start()
        begun = wait_for("training", lambda: waits_again(project, 0), PATIENCE)
        os.killpg(first.pid, signal.SIGKILL)  # the daemon, its code server, and the run with its workers
        first.wait()
        (killed,) = events.runs_in_flight(instance, ["train_models"])
        assert events.keys_in_flight(instance, TRAINED) == {"s0__i0", "s0__i1", "s0__i2"}

        second = start()
        wait_for("the second training", lambda: waits_again(project, begun), PATIENCE)
        second.kill()  # the daemon alone: the run goes on
        second.wait()
        (orphan,) = events.runs_in_flight(instance, ["train_models"])
        assert instance.get_run_by_id(killed.run_id).status is dg.DagsterRunStatus.FAILURE

        start()
        tick = time.time()
        wait_for("a tick of the third daemon", lambda: ticked_since(instance, tick), PATIENCE)
        assert [run.run_id for run in events.runs_in_flight(instance, ["train_models"])] == [orphan.run_id]
        (project.root / "go").touch()
        wait_for("the load into the warehouse", lambda: loaded_and_idle(instance), PATIENCE)

        statuses = {run.run_id: run.status for run in instance.get_runs(dg.RunsFilter(job_name="train_models"))}
        of_training = {killed.run_id: dg.DagsterRunStatus.FAILURE, orphan.run_id: dg.DagsterRunStatus.SUCCESS}
        assert {run_id: statuses[run_id] for run_id in of_training} == of_training
        assert len(statuses) == 2
        for stage in STAGES[:3]:  # nothing twice
            made = instance.fetch_materializations(dg.AssetKey(stage), limit=100).records
            assert sorted(record.partition_key for record in made) == ["s0__i0", "s0__i1", "s0__i2"]
    assert project.run() == []
    assert_as_clean(project, tmp_path / "clean")


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
    return loaded is not None and not events.runs_in_flight(instance, ["train_models"])


def assert_as_clean(project: Project, root: Path) -> None:
    """Lake and warehouse hold what a project holds whose day nobody has disturbed."""
    clean = project_at(root)
    (root / "go").touch()
    clean.run()
    expected, found = clean.contents(), project.contents()
    assert set(found) == set(expected)
    for name, frame in expected.items():
        timed = [column for column in frame if column == "seconds"]
        pd.testing.assert_frame_equal(found[name].drop(columns=timed), frame.drop(columns=timed), obj=name)
