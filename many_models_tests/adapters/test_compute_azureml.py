"""Chunks as Azure ML parallel jobs: the contract over the real entry script, and what can happen to a job."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

import many_models
from many_models.adapters.azure import identity, machine_learning
from many_models.adapters.compute import azureml, exchange
from many_models.adapters.compute.azureml import AzureMLCompute, JobSettings
from many_models.adapters.compute.azureml_worker import require_same
from many_models.adapters.compute.exchange import FolderExchange
from many_models.adapters.compute.serial import SerialCompute
from many_models.adapters.lake.delta import DeltaLake
from many_models.data.lake_tables import DATASETS, RAW_SALES
from many_models.definitions import build_compute
from many_models.errors import AccessError, InputError, SettingsError, UnavailableError
from many_models.forecasting.spec import Custom, Spec
from many_models.operations.day import Day, open_instance
from many_models.ports import Filter
from many_models.settings import load_settings
from many_models.tasks import PrepareTask, TrainTask
from many_models_tests.contracts.compute import ComputeContract, done, failures, plainly
from many_models_tests.stand_ins.azureml_fake import Workspace
from many_models_tests.stand_ins.azureml_models import refusal
from many_models_tests.support.compute_tasks import (
    AsksWhoItIs,
    Harms,
    KillsItsNode,
    Leaves,
    Unloadable,
    UsesMine,
    chunked,
    describe,
    wait_for,
)
from many_models_tests.support.project import make_project, sales

if TYPE_CHECKING:
    from datetime import datetime

    from many_models.ports import Chunk

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::Warning:marshmallow", "ignore::Warning:azure")]
JOB = JobSettings(cluster="cpu", environment="many-models:1", workers=1)
ROOT = Path(many_models.__file__).parents[1]


@pytest.fixture
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


def on(workspace: Workspace, job: JobSettings = JOB, timeout: float = 60.0, followed=azureml.follow):
    folder = FolderExchange(str(workspace.folder / "exchange"))
    return AzureMLCompute(workspace.client, folder, job, timeout, followed, poll=0.02)


class TestAzureMLCompute(ComputeContract):
    ahead = 100  # results wait in storage, not in the driver's memory
    farewell, each = 1.0, 0.3
    examples = 5  # each is a job with processes of its own
    slots = 1

    @pytest.fixture
    def compute(self, workspace):
        return on(workspace)


def only(workspace: Workspace):
    (made,) = workspace.made.values()
    return made


def left_behind(workspace: Workspace) -> list[Path]:
    return [path for path in (workspace.folder / "exchange").rglob("*") if path.is_file()]


def test_the_job_is_one_parallel_step_as_the_settings_say(workspace, tmp_path):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/one.txt").write_text("1")
    job = JobSettings(
        instance_type="Standard_NC4as_T4_v3", instances=3, image="registry.example.com/many-models:1", workers=1,
        files=(tmp_path / "mine.py", tmp_path / "parts"), client_id="nodes", experiment="night",
    )  # fmt: skip
    assert list(on(workspace, job).run(describe, chunked(*[1] * 30))) == plainly(describe, chunked(*[1] * 30))
    assert on(workspace, replace(job, workers=0)).slots() == 24
    made = only(workspace)
    step = made.entity.jobs["chunks"]
    assert (made.entity.compute, made.entity.experiment_name) == ("serverless", "night")
    assert (step.resources.instance_type, step.resources.instance_count) == ("Standard_NC4as_T4_v3", 3)
    assert step.task.environment.image == "registry.example.com/many-models:1"
    assert step.identity.client_id == "nodes"
    assert (step.mini_batch_size, step.max_concurrency_per_instance) == (2, 1)
    assert (step.error_threshold, step.mini_batch_error_threshold) == (-1, -1)
    assert not step.component.is_deterministic
    sent = sorted(str(p.relative_to(made.folder / "code")) for p in (made.folder / "code").rglob("*") if p.is_file())
    assert [name for name in sent if "__pycache__" not in name] == ["entry.py", "mine.py", "parts/one.txt"]
    assert left_behind(workspace) == []


def test_a_module_of_the_users_travels_with_the_job(workspace, tmp_path):
    (tmp_path / "mine_for_azureml.py").write_text("SAID = b'from my own file'\n")
    job = JobSettings(cluster="cpu", environment="many-models:1", files=(tmp_path / "mine_for_azureml.py",), workers=1)
    ((_, result),) = on(workspace, job).run(UsesMine(), chunked(2))
    assert result.files["said"] == b"from my own file"
    ((_, result), (_, second)) = on(Workspace(tmp_path / "other")).run(UsesMine(), chunked(2))
    assert {f.kind for f in (*result.failures, *second.failures)} == {"ModuleNotFoundError"}


@pytest.mark.parametrize(("client_id", "asked"), [("nodes", "nodes"), ("", "the driver's")])
def test_workers_ask_as_the_identity_of_their_node(workspace, client_id, asked):
    """The driver's identity is not on the node: its first download would fail."""
    job = replace(JOB, client_id=client_id)
    ((_, result),) = on(workspace, job).run(AsksWhoItIs(), chunked(2))
    assert result.files["client_id"].decode() == asked


def test_azure_mls_own_variable_names_the_identity_where_nothing_else_does(monkeypatch):
    asked = []
    monkeypatch.setattr("azure.identity.ManagedIdentityCredential", lambda client_id=None: asked.append(client_id))
    monkeypatch.setenv("DEFAULT_IDENTITY_CLIENT_ID", "azure's")
    for named in ("", "settings'"):
        identity.credential.cache_clear()
        identity.credential("managed_identity", named)
    identity.credential.cache_clear()
    assert asked == ["azure's", "settings'"]


TRAINER = """
import json
from pathlib import Path

import numpy as np

FACTOR = json.loads((Path(__file__).parent / "parts/factor.json").read_text())


class OfMine:
    def fit(self, history):
        self.mean = history["y"].mean()

    def predict(self, future):
        return np.full(len(future), FACTOR * self.mean)
"""


def datasets_of(lake: DeltaLake, chunks: list[Chunk], spec: Spec) -> datetime:
    """Datasets of series that are 8 and 12 in turn, as raw rows make them; their newest day."""
    days = pd.date_range("2024-01-01", periods=200)
    for chunk in chunks:
        names = np.repeat(chunk.series, 200)
        y = np.tile([8.0, 12.0], 100 * len(chunk.series))
        frame = pd.DataFrame({"series_id": names, "ds": np.tile(days, len(chunk.series)), "y": y})
        frame["ds"] = frame["ds"].astype("datetime64[us]")
        raw = pa.Table.from_pandas(frame.assign(pack=chunk.pack, year=2024), preserve_index=False)
        lake.replace(RAW_SALES.name, raw, Filter(among={"pack": [chunk.pack]}), ("pack",))
    for chunk, result in SerialCompute().run(PrepareTask(lake, spec, days[-1].to_pydatetime(), ("item",)), chunks):
        rows = result.tables["rows"]
        lake.replace(DATASETS.name, rows, Filter(among={"pack": [chunk.pack]}), DATASETS.partition_by)
    return days[-1].to_pydatetime()


def test_a_trainer_of_the_users_is_fitted_on_the_gpu_nodes_that_the_settings_name(workspace, tmp_path, monkeypatch):
    (tmp_path / "trainer_of_mine.py").write_text(TRAINER)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/factor.json").write_text("1.5")
    text = (ROOT / "deploy/compute/azureml.toml").read_text()
    text = re.sub(r'cluster = "CLUSTER".*', 'instance_type = "Standard_NC4as_T4_v3"\npoll = 0.1', text)
    text = text.replace("files = []", 'files = ["trainer_of_mine.py", "parts"]').replace("workers = 0 ", "workers = 1 ")
    (tmp_path / "many_models.toml").write_text(text)
    monkeypatch.setattr(machine_learning, "connect", lambda *_: workspace.client())
    monkeypatch.setattr(exchange, "BlobExchange", lambda _: FolderExchange(str(workspace.folder / "exchange")))
    compute = build_compute(load_settings(tmp_path / "many_models.toml"))

    custom = (Custom("of_mine", "trainer_of_mine:OfMine", seconds=120.0),)
    spec = Spec(frequency="D", horizon=7, windows=2, custom=custom)
    lake, chunks = DeltaLake(tmp_path / "lake"), chunked(2, 2, 1)
    as_of = datasets_of(lake, chunks, spec)
    results = list(compute.run(TrainTask(lake, spec, as_of), chunks))
    assert failures(results) == {}
    scores = pa.concat_tables([result.tables["scores"] for _, result in results]).to_pandas()
    mine = scores[scores["candidate"] == "of_mine"]
    assert sorted(set(mine["series_id"])) == ["s0", "s1", "s2", "s3", "s4"]
    assert mine["problem"].isna().all()
    assert mine["wape"].to_numpy() == pytest.approx(0.5, abs=0.06)  # 15 for what is 10 in the mean
    step = only(workspace).entity.jobs["chunks"]
    assert step.resources.instance_type == "Standard_NC4as_T4_v3"
    with pytest.raises(ModuleNotFoundError):  # it is nowhere but in the job
        importlib.import_module("trainer_of_mine")


@pytest.mark.parametrize(
    ("how", "kind", "timeout"),
    [
        ("kill", "WorkerLost", 60),
        pytest.param(
            "hang",
            "WorkerTimeout",
            12,
            marks=pytest.mark.long("adapters/test_compute_spark.py::test_a_series_that_hangs_costs_only_itself"),
        ),
    ],
)
def test_a_series_that_kills_or_hangs_its_process_costs_only_itself(workspace, how, kind, timeout):
    results = list(on(workspace, timeout=timeout).run(Harms(("s2",), how), chunked(2, 2, 1)))
    assert done(results) == ["s0", "s1", "s3", "s4"]
    assert (failures(results)["s2"].kind, failures(results)["s2"].permanent) == (kind, False)
    assert set(only(workspace).tries.values()) == {1}


def kills_its_node(workspace: Workspace, folder: Path, times: int) -> KillsItsNode:
    return KillsItsNode(str(folder), "s2", times, f"{workspace.folder / 'exchange'}|run-*/results/000000")


def test_a_lost_node_costs_a_retry_of_what_it_had_not_finished(workspace, tmp_path):
    chunks = chunked(*[2] * 8)  # two in a mini-batch
    results = list(on(workspace).run(kills_its_node(workspace, tmp_path, 2), chunks))
    assert done(results) == [name for chunk in chunks for name in chunk.series]
    assert sorted(only(workspace).tries.values()) == [1, 1, 1, 3]
    assert len(list(tmp_path.glob("[0-9]-*"))) == 8  # no chunk was done twice


def test_a_mini_batch_that_fails_three_times_fails_its_unfinished_chunks_and_no_others(workspace, tmp_path):
    results = list(on(workspace).run(kills_its_node(workspace, tmp_path, 3), chunked(*[2] * 8)))
    assert failures(results).keys() == {"s2", "s3"}
    failure = failures(results)["s2"]
    assert (failure.kind, failure.permanent) == ("WorkerLost", False)
    assert f"failed 3 times in Azure ML job {only(workspace).name}" in failure.reason
    assert done(results) == [f"s{at}" for at in range(16) if at not in {2, 3}]
    assert left_behind(workspace) == []


def test_a_cancelled_job_keeps_what_is_finished_and_fails_the_rest_for_this_time(workspace):
    workspace.preempt_after = 2
    results = list(on(workspace).run(describe, chunked(*[1] * 8)))  # two in a mini-batch
    assert done(results) == ["s0", "s1", "s2", "s3"]
    assert failures(results).keys() == {"s4", "s5", "s6", "s7"}
    failure = failures(results)["s4"]
    assert (failure.kind, failure.permanent) == ("JobCanceled", False)
    assert "was cancelled or pre-empted for good; run it again" in failure.reason
    assert [chunk.number for chunk, _ in results] == list(range(8))


def test_a_job_that_is_cancelled_before_anything_is_done_is_one_error(workspace):
    workspace.preempt_after = 0
    with pytest.raises(UnavailableError, match=r"Azure ML job many_models-run-\w+ .*was cancelled"):
        list(on(workspace).run(describe, chunked(1, 1)))
    assert left_behind(workspace) == []


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A Python with everything but the package itself."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (where,) = (folder / "venv/lib").glob("python*/site-packages")
    (where / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv/bin/python"


def test_an_environment_without_the_package_is_said_with_what_to_install(tmp_path, bare):
    workspace = Workspace(tmp_path, str(bare), path="")
    with pytest.raises(InputError, match=r"the job's environment lacks many_models: install many_models==\d"):
        list(on(workspace).run(describe, chunked(1)))


def test_another_version_of_the_package_in_the_environment_is_said(workspace, monkeypatch):
    monkeypatch.setattr(azureml.metadata, "version", lambda _: "99.1")
    with pytest.raises(InputError, match=r"the job's environment has many_models \S+, needed 99\.1 .*install"):
        list(on(workspace).run(describe, chunked(1)))


def test_another_python_in_the_environment_is_said():
    with pytest.raises(InputError, match=r"runs Python 3\.\d+\.\d+, needed 3\.99\.1"):
        require_same(azureml.metadata.version("many_models"), "3.99.1")


def test_a_task_that_workers_cannot_load_is_said(workspace):
    with pytest.raises(InputError, match="cannot load the task: ImportError: no package of that name"):
        list(on(workspace).run(Unloadable(), chunked(1)))


def test_a_workspace_that_is_away_for_a_while_is_asked_again(workspace):
    workspace.away = 5
    assert list(on(workspace).run(describe, chunked(1, 1))) == plainly(describe, chunked(1, 1))
    assert workspace.away == 0


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        (ClientAuthenticationError("no login"), AccessError, "AzureML Data Scientist"),
        (HttpResponseError("busy"), UnavailableError, "does not take the job: busy"),
        (refusal(400, "ClusterCoreQuotaReached", "over the quota"), UnavailableError, "Quotas, Machine Learning"),
    ],
)
def test_a_workspace_that_takes_no_job_is_said(workspace, monkeypatch, raised, error, said):
    def refuse(_: object):
        raise raised

    monkeypatch.setattr(workspace, "create", refuse)
    with pytest.raises(error, match=said):
        list(on(workspace).run(describe, chunked(1)))


def test_a_cluster_that_is_not_there_is_a_setting_to_mend(workspace):
    gone = on(workspace, JobSettings(cluster="gone", environment="e:1"))
    for use in (gone.check, lambda: list(gone.run(describe, chunked(1)))):
        with pytest.raises(SettingsError, match=r"no compute named gone; mend \[azureml\]"):
            use()


def test_a_run_that_is_closed_cancels_its_job_and_waits_for_its_end(workspace, tmp_path):
    running = on(workspace).run(Leaves(str(tmp_path), 0.2), chunked(*[1] * 400))
    next(running)
    running.close()
    assert workspace.cancelled == [only(workspace).name]
    assert only(workspace).status == "Canceled"
    assert left_behind(workspace) == []


@pytest.fixture
def piped(workspace) -> AzureMLCompute:
    """Imported here: azure.ai.ml takes seconds, which the collection of the tests needs not wait for."""
    from many_models.orchestration.azureml_pipes import follow_with_pipes

    return on(workspace, followed=follow_with_pipes)


def asset_over(compute, chunks, seen):
    @dg.asset
    def trained(context):
        for _, result in compute.run(describe, chunks):
            seen.append(result)

    return trained


def test_pipes_follows_the_job_and_its_notes_come_into_the_runs_log(workspace, piped):
    seen = []
    chunks = chunked(*[1] * 8)
    with dg.instance_for_test() as instance:
        trained = asset_over(piped, chunks, seen)
        result = dg.materialize([trained], instance=instance)
        log = [event.user_message for event in instance.all_logs(result.run_id)]
    assert seen == [value for _, value in plainly(describe, chunks)]
    name = only(workspace).name
    assert f"[pipes] Azure ML job {name} observed state transition to Completed" in log
    assert "[pipes] external process successfully opened dagster pipes." in log
    assert len([line for line in log if line.startswith("[azure ml] ") and "2 chunks, 2 series" in line]) == 4
    variables = only(workspace).entity.jobs["chunks"].environment_variables
    assert {"DAGSTER_PIPES_CONTEXT", "DAGSTER_PIPES_MESSAGES"} <= variables.keys()


INTERRUPTED = """
import sys, threading, time
from pathlib import Path
import dagster as dg
from many_models.orchestration.azureml_pipes import follow_with_pipes
from many_models_tests.stand_ins.azureml_fake import Workspace
from many_models_tests.support.compute_tasks import Leaves, chunked
from many_models_tests.adapters.test_compute_azureml import on

folder = Path(sys.argv[1])
workspace = Workspace(folder / "workspace")

@dg.asset
def trained(context):
    for _ in on(workspace, followed=follow_with_pipes).run(Leaves(str(folder / "left"), 0.3), chunked(*[1] * 400)):
        (folder / "begun").touch()

try:
    with dg.instance_for_test() as instance:
        dg.materialize([trained], instance=instance)
except BaseException as error:
    print(type(error).__name__)
(made,) = workspace.made.values()
print(made.status, workspace.cancelled == [made.name])
"""


@pytest.mark.long(
    "adapters/test_compute_azureml.py::test_a_run_that_is_closed_cancels_its_job_and_waits_for_its_end",
    "contracts/compute.py::test_an_interruption_stops_workers_in_the_middle_of_their_chunks_and_is_raised",
)
def test_an_interrupted_run_cancels_its_job_and_the_interruption_goes_on(tmp_path):
    (tmp_path / "left").mkdir()
    words = [sys.executable, "-W", "ignore", "-c", INTERRUPTED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    wait_for(lambda: (tmp_path / "begun").exists() or process.poll() is not None, "a chunk that is done", 300)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=250)
    assert said.splitlines() == ["DagsterExecutionInterruptedError", "Canceled True"]


@pytest.mark.long(
    "contracts/compute.py::test_results_are_those_of_a_plain_loop_in_order",
    "days/test_day.py::test_the_first_day_carries_every_series_from_the_source_to_the_warehouse",
)
def test_a_whole_day_on_azure_ml_ends_in_the_tables_of_a_serial_one(workspace, piped, tmp_path):
    rows, forecast = sales(stores=2, items=2, days=80), {"windows": 1, "trees": True}
    serial = make_project(tmp_path / "serial", rows, forecast=forecast)
    remote = make_project(tmp_path / "remote", rows, forecast=forecast, compute={"chunk": 2})
    expected = serial.run() and serial.contents()
    with open_instance(remote.home, remote.settings().dagster.storage) as instance:
        assert Day(remote.settings(), instance, resources={"compute": piped}).run()
    found = remote.contents()
    assert expected.keys() == found.keys()
    for name in expected:
        pd.testing.assert_frame_equal(expected[name], found[name], obj=name)
    assert {made.status for made in workspace.made.values()} == {"Completed"}
    assert len(workspace.made) == 3  # datasets, training, predictions
