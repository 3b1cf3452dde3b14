"""A run that the queue could not launch has not crashed: it waits in the queue until the code server answers."""

from __future__ import annotations

import sys
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
from many_models.orchestration.automation import crashes
from many_models.orchestration.due import MAX_ATTEMPTS
from many_models.orchestration.stage_run import DUE_TAG

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with open_instance(tmp_path) as instance:
        yield instance


def dequeue(instance: dg.DagsterInstance, run_id: str) -> None:
    """What the daemon does with a run whose turn it is, in a new daemon each time."""
    daemon: Any = QueuedRunCoordinatorDaemon(interval_seconds=2)
    daemon._dequeue_run(instance, None, instance.get_run_by_id(run_id), instance.get_concurrency_config(), None)


def test_launches_without_an_answer_count_as_no_crash(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the old settings the first one failed the run: after three of them on a slow machine the stage waited for a
    person.
    """

    def no_answer(*_: Any) -> None:
        raise DagsterUserCodeUnreachableError("Deadline Exceeded")

    @dg.job
    def train_models() -> None: ...

    tags = {DUE_TAG: "keys at versions"}
    origin = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("many_models"), "shop").get_job_origin("train_models")
    code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("many_models.definitions", "defs"))
    queued = dg.DagsterRunStatus.QUEUED
    run = instance.create_run_for_job(
        train_models, tags=tags, status=queued,
        remote_job_origin=origin, job_code_origin=code.get_job_origin("train_models"),
    )  # fmt: skip
    instance.report_dagster_event(DagsterEvent.job_enqueue(run), run.run_id)
    with monkeypatch.context() as patch:
        patch.setattr(type(instance.run_launcher), "launch_run", no_answer)
        for _ in range(MAX_ATTEMPTS + 1):
            dequeue(instance, run.run_id)
            assert instance.get_run_ids(dg.RunsFilter(statuses=[queued])) == [run.run_id]
            assert not crashes(instance, dg.RunRequest(tags=tags))

    launched = list[str]()
    monkeypatch.setattr(
        type(instance.run_launcher), "launch_run", lambda _, asked: launched.append(asked.dagster_run.run_id)
    )
    dequeue(instance, run.run_id)
    assert launched == [run.run_id]


def test_the_cluster_waits_for_its_code_server_as_a_folder_does() -> None:
    """The instance of the manifests has the queue of the template."""
    template = yaml.safe_load((ROOT / "many_models/templates/dagster.yaml").read_text())
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/manifests.yaml").read_text())
    files = [document.get("data", {}) for document in documents if document and document["kind"] == "ConfigMap"]
    (cluster,) = [yaml.safe_load(data["dagster.yaml"]) for data in files if "dagster.yaml" in data]
    assert cluster["run_queue"] == template["run_queue"]
