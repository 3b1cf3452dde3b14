"""A day on Azure's compute and registries, as far as stand-ins go. `test_spark35.py` runs it with pyspark 3.5.

Real: pyspark 3.5, azure-ai-ml's entities, Azurite, delta-rs, the pipeline's own commands, the service in what its
Dockerfile builds (`support/dockerfile.py`: no container engine). Played: the two workspaces, and the mount by which the
cluster finds the lake: it has the storage's credential, while the workers have none.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyspark
import pytest
import yaml
from azure.storage.blob import ContainerClient
from click.testing import CliRunner
from dagster_pyspark.resources import spark_session_from_config

from many_models.adapters.azure import machine_learning
from many_models.adapters.azure.blob_folder import BlobFolder
from many_models.adapters.azure.storage import KEY, AzureStorage
from many_models.adapters.compute.spark_session import connect
from many_models.adapters.lake.delta import DeltaLake
from many_models.cli.main import main
from many_models.wiring import build_production
from many_models_tests.stand_ins.azureml_models import Workspace
from many_models_tests.support.compute_tasks import wait_for
from many_models_tests.support.dockerfile import build, lend_kernels, wheel
from many_models_tests.support.ports import free_port
from many_models_tests.support.project import END, make_project, sales
from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from many_models_tests.stand_ins.azurite import Azurite
    from many_models_tests.support.project import Project

ROOT = Path(__file__).parents[2]
MASTER, QUICK = "local[2]", {"horizon": 7, "windows": 1, "trees": False}
STAGES = yaml.safe_load((ROOT / "deploy/azure-pipelines.yml").read_text())["stages"]
SHIM = """#!{python}
import json, sys, urllib.request
told = urllib.request.urlopen("http://127.0.0.1:{port}", json.dumps(sys.argv[1:]).encode(), timeout=600).read()
code, said = json.loads(told)
sys.stdout.write(said)
sys.exit(code)
"""


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch):
    """The session that the day takes; its workers have the environment of before: no credential of the storage."""
    monkeypatch.delenv(KEY, raising=False)
    session = connect(spark_session_from_config, MASTER, "", {})
    yield session
    session.stop()


def test_a_day_on_spark_azure_ml_and_azurite_is_that_of_embedded_parts(
    session, azurite: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every table is that of a serial day on MLflow without approval: forecasts, decisions, scores, accuracy.

    Packs' sha256 are left out: they were equal on one day and differed on another, for a reason that was not found.
    `test_spark_data.py` compares the files of the same tasks.
    """
    assert pyspark.__version__.startswith("3.5.")
    monkeypatch.setenv(KEY, azurite.key)
    root = azurite.container("computeday")
    rows = sales(stores=1, items=2, days=80)
    on_azure = {
        "lake": {"path": f"{root}/lake", "credential": "key", "endpoint": azurite.endpoint},
        "compute": {"kind": "spark", "spark_master": MASTER, "chunk": 2, "spark_data": "spark",
                    "spark_lake": str(tmp_path / "mount")},
        "registry": {"kind": "azureml", **registries(root)},
    }  # fmt: skip
    mounted(tmp_path / "mount", azurite, monkeypatch)
    played(root, azurite, monkeypatch)
    remote = make_project(tmp_path / "azure", rows, forecast=QUICK, promotion={"approval": True}, **on_azure)
    local = make_project(tmp_path / "disk", rows, forecast=QUICK)
    remote.run(END)
    assert not build_production(remote.settings()).live()
    approved(remote, tmp_path, monkeypatch)
    for project in (remote, local):
        project.run(END)
    expected, found = local.contents(), remote.contents()
    for contents in (expected, found):
        contents.pop("lake release_log")  # a proposal has a line of its own
    assert expected.keys() == found.keys()
    for name, table in expected.items():
        without = [one.drop(columns="sha256", errors="ignore") for one in (found[name], table)]
        pd.testing.assert_frame_equal(*without, obj=name)
    assert without_credential(session)
    live = build_production(remote.settings()).live()
    assert live is not None
    assert live.approval is not None
    assert live.approval.actor == "Ada"
    served = forecasts(remote, list(live.champions)[:1])
    assert served["release"] == live.release_id
    assert len(served["forecasts"][0]["y_hat"]) == QUICK["horizon"]


def registries(root: str) -> dict[str, str]:
    """The two workspaces by their resource ids, and their folders."""
    place = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces"
    names = ("staging", "production")
    return {name: f"{place}/{name}" for name in names} | {f"{name}_artifacts": f"{root}/{name}" for name in names}


def played(root: str, azurite: Azurite, patch: pytest.MonkeyPatch) -> None:
    """Two workspaces in the place of Azure ML; each refuses what the service refuses."""

    def workspace(name: str) -> Workspace:
        storage = AzureStorage(f"{root}/{name}", "key", lambda _: azurite.key, endpoint=azurite.endpoint)
        return Workspace(BlobFolder(storage), name="many_models_registry", busy_every=7)

    there = {name: workspace(name) for name in ("staging", "production")}
    patch.setattr(machine_learning, "connect", lambda _subscription, _group, name, *_: there[name])


def mounted(mount: Path, azurite: Azurite, patch: pytest.MonkeyPatch) -> None:
    """The lake under `mount` as a cluster sees it: a file is there when Spark reads a snapshot that has it."""
    snapshot = DeltaLake.snapshot

    def seen(self: DeltaLake, table: str, packs):
        found = snapshot(self, table, packs)
        with ContainerClient.from_connection_string(azurite.connection_string, "computeday") as container:
            for file in found.files:
                place = mount / table / file
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    place.write_bytes(container.download_blob(f"lake/{table}/{file}").readall())
        return found

    patch.setattr(DeltaLake, "snapshot", seen)


def without_credential(session) -> bool:
    """Whether no worker has the storage's credential in its environment."""

    def look(batches):
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"key": [os.environ.get("AZURE_STORAGE_KEY", "")]})

    return {row["key"] for row in session.range(4).mapInArrow(look, "key string").collect()} == {""}


# --- The pipeline's own commands -----------------------------------------------------------------------------------
def approved(project: Project, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What the pipeline does after a night: it shows what waits, and makes exactly that live."""
    patch.setenv("MANY_MODELS_CONFIG", str(project.root / "many_models.toml"))
    with command_of_this_process(folder) as path:
        told = bash(script("look"), path)
        proposal = re.findall(r"variable=proposal;isOutput=true\](\S+)", told)[0]
        bash(script("promote"), path, PROPOSAL=proposal, ASKED_BY="Ada", WHY="looked at")


def script(stage: str) -> str:
    (job,) = [job for one in STAGES if one["stage"] == stage for job in one["jobs"]]
    steps = job["strategy"]["runOnce"]["deploy"]["steps"] if "deployment" in job else job["steps"]
    (text,) = [step["inputs"]["inlineScript"] for step in steps if step.get("task") == "AzureCLI@2"]
    return text


def bash(text: str, path: str, **variables: str) -> str:
    environment = {**os.environ, "PATH": path, **variables}
    command = ["bash", "-e", "-c", text]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


class CommandHandler(BaseHTTPRequestHandler):
    """Runs the command `many-models` in this process: the played workspaces are here."""

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        result = CliRunner().invoke(main, words)
        told = json.dumps([result.exit_code, result.output]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)


@contextmanager
def command_of_this_process(folder: Path) -> Iterator[str]:
    """A PATH on which `many-models` is the command of this process."""
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), CommandHandler)) as server:
        shim = folder / "bin/many-models"
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(SHIM.format(python=sys.executable, port=server.server_address[1]))
        shim.chmod(0o755)
        yield f"{shim.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"


# --- The service as its image starts it ----------------------------------------------------------------------------
COMPILES = "/app/venv/bin/python -W ignore -m many_models.forecasting.precompile"


def forecasts(project: Project, series: list[str]) -> dict:
    """What the service answers that runs in what deploy/serving/Dockerfile builds, started by its entry point.

    Only the compiled loops are not the image's own: they are lent by this repository's cache, which saves a minute.
    """
    program, place = Path(os.environ["MANY_MODELS_PROGRAM"]), project.root / "image"
    uv, dist = program.with_name("uv"), project.root / "dist"
    wheel(uv, dist, program.with_name("python"))
    image = build(ROOT / "deploy/serving/Dockerfile", place, uv, dist, {COMPILES: "mkdir -p /app/numba"})
    lend_kernels(image, place / "app/numba")
    assert sorted(one.name for one in (place / "app").iterdir()) == ["numba", "venv"]
    settings = Path(image.here("/etc/many_models/many_models.toml"))
    settings.parent.mkdir(parents=True)
    settings.write_text((project.root / "many_models.toml").read_text())
    port, log = free_port(), project.root / "serve.log"
    environment = {"MANY_MODELS_SERVE_API_KEYS": "a-key-of-the-test-that-is-long-enough", KEY: os.environ[KEY],
                   "MANY_MODELS__SERVE__HOST": "127.0.0.1", "MANY_MODELS__SERVE__PORT": str(port),
                   "MANY_MODELS__SERVE__LAKE": "false"}  # fmt: skip
    server = image.start(env=environment, log=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: ready(server, url, log), "the service", 300.0)
        asked = urllib.request.Request(
            f"{url}/v1/forecasts", json.dumps({"series": [{"series_id": name} for name in series]}).encode()
        )
        asked.add_header("Content-Type", "application/json")
        asked.add_header("Authorization", "Bearer a-key-of-the-test-that-is-long-enough")
        with urllib.request.urlopen(asked, timeout=120) as response:
            return json.load(response)
    finally:
        server.terminate()
        server.wait(60)


def ready(server: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert server.poll() is None, log.read_text()[-3000:]
    try:
        urllib.request.urlopen(f"{url}/health/ready", timeout=5).close()
    except OSError:
        return False
    return True
