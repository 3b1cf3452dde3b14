"""A run that the queue could not launch has not crashed: it waits in the queue until the code server answers."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import DagsterEvent
from dagster._core.origin import RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._daemon.run_coordinator import QueuedRunCoordinatorDaemon

from many_models.operations.day import open_instance
from many_models.orchestration.automation import failed_runs
from many_models.orchestration.due import (
    LAUNCH_PAUSE,
    LONGEST_PAUSE,
    MAX_ATTEMPTS,
    FailedRun,
    attempts,
    next_launch,
)
from many_models.orchestration.stage_run import DUE_TAG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNREACHABLE = DagsterUserCodeUnreachableError("Deadline Exceeded")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as instance:
        yield instance


def dequeue(instance: dg.DagsterInstance, run_id: str) -> None:
    """What the daemon does with a run whose turn it is, in a new daemon each time."""
    daemon: Any = QueuedRunCoordinatorDaemon(interval_seconds=2)
    daemon._dequeue_run(instance, None, instance.get_run_by_id(run_id), instance.get_concurrency_config(), None)


TAGS = {DUE_TAG: "keys at versions"}
QUEUED = dg.DagsterRunStatus.QUEUED


@dg.job
def train_models() -> None: ...


def enqueue(instance: dg.DagsterInstance) -> str:
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("many_models"), "shop").get_job_origin("train_models")
    code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("many_models.definitions", "defs"))
    run = instance.create_run_for_job(
        train_models, tags=TAGS, status=QUEUED,
        remote_job_origin=origin, job_code_origin=code.get_job_origin("train_models"),
    )  # fmt: skip
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run.run_id)
    return run.run_id


def failing(error: Exception) -> Callable[..., None]:
    def launch_run(*_: Any) -> None:
        raise error

    return launch_run


@pytest.mark.slow
def test_launches_without_an_answer_count_as_no_crash(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the old settings the first one failed the run: after three of them on a slow machine the stage waited for a
    person.
    """
    run_id = enqueue(instance)
    with monkeypatch.context() as patch:
        patch.setattr(type(instance.run_launcher), "launch_run", failing(UNREACHABLE))
        for _ in range(MAX_ATTEMPTS + 1):
            dequeue(instance, run_id)
            assert instance.get_run_ids(dg.RunsFilter(statuses=[QUEUED])) == [run_id]
            assert not failed_runs(instance, dg.RunRequest(tags=TAGS))

    launched = list[str]()
    monkeypatch.setattr(
        type(instance.run_launcher), "launch_run", lambda _, asked: launched.append(asked.dagster_run.run_id)
    )
    dequeue(instance, run_id)
    assert launched == [run_id]


@pytest.mark.slow
def test_a_run_that_could_not_be_launched_takes_no_attempt(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the launcher raised: three launches without room for a pod once stopped the stage until a person came.
    The pause before the next launch grows.
    """
    monkeypatch.setattr(type(instance.run_launcher), "launch_run", failing(ValueError("no room for a pod")))
    pauses = list[timedelta]()
    for number in range(MAX_ATTEMPTS + 1):
        run_id = enqueue(instance)
        dequeue(instance, run_id)
        failed = failed_runs(instance, dg.RunRequest(tags=TAGS))
        assert len(failed) == number + 1
        assert attempts(failed) == 0
        record = instance.get_run_record_by_id(run_id)
        pauses.append(next_launch(failed) - record.update_timestamp)  # type: ignore[operator,union-attr]
    assert pauses == [LAUNCH_PAUSE * 2**number for number in range(MAX_ATTEMPTS + 1)]


def run(minute: int, *, began: bool = True, transient: bool = True) -> FailedRun:
    return FailedRun(began, transient, datetime(2024, 7, 1, 6, minute, tzinfo=UTC))


def test_only_runs_that_began_take_attempts_and_a_permanent_error_all() -> None:
    mixed = [run(4, began=False), run(3), run(2, began=False), run(1)]
    assert attempts(mixed) == 2
    assert attempts([*mixed, run(0, transient=False)]) == MAX_ATTEMPTS
    assert attempts([run(0, began=False, transient=False)]) == 0
    assert next_launch(mixed) == run(4).ended + LAUNCH_PAUSE
    assert next_launch(mixed[1:]) is None
    assert next_launch([]) is None
    assert next_launch([run(30 - minute, began=False) for minute in range(30)]) == run(30).ended + LONGEST_PAUSE


def test_the_cluster_waits_for_its_code_server_as_a_folder_does() -> None:
    """The instance of the manifests has the queue of the template."""
    template = yaml.safe_load((ROOT / "many_models/templates/dagster.yaml").read_text())
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/manifests.yaml").read_text())
    files = [document.get("data", {}) for document in documents if document and document["kind"] == "ConfigMap"]
    (cluster,) = [yaml.safe_load(data["dagster.yaml"]) for data in files if "dagster.yaml" in data]
    assert cluster["run_queue"] == template["run_queue"]
