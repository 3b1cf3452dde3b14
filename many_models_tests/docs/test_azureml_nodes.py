"""deploy/compute/azureml: what a node of Azure ML holds. The runner's environment is built from its lock file, and the
entry script does a mini-batch from it by a worker in ours.
"""

from __future__ import annotations

import json
import os
import pickle
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from many_models.adapters.compute.azureml_worker import Message
from many_models.adapters.compute.exchange import FolderExchange
from many_models.adapters.compute.results import done_of, unpacked
from many_models_tests.support.compute_tasks import chunked, describe

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NODES = ROOT / "deploy/compute/azureml"
ENTRY = ROOT / "many_models/templates/azureml_entry.py"
UV = Path(sys.executable).with_name("uv")
BATCH = """
import json, sys
sys.path.insert(0, sys.argv.pop(1))
batches = json.loads(sys.argv.pop(1))
import azureml_entry
azureml_entry.init()
print(json.dumps([azureml_entry.run(batch) for batch in batches]))
"""


def node(
    python: str | Path, batches: list[list[str]], *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What Azure ML does on a node: `init`, then `run` for each mini-batch, with the runner's interpreter."""
    command = [python, "-c", BATCH, str(ENTRY.parent), json.dumps(batches), *arguments]
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def arguments_of(python: str = "") -> list[str]:
    version = metadata.version("many_models")
    return ["--version", version, "--python", python or platform.python_version(), "--client-id", "nodes"]


def messages(folder: Path) -> list[str]:
    """A mini-batch of three chunks: its files."""
    exchange = FolderExchange(str(folder))
    for at, chunk in enumerate(chunked(2, 1, 3)):
        told = Message(pickle.dumps(describe), chunk, exchange, f"results/{at:06d}", "notes", 60.0, 1)
        exchange.put(f"chunks/{at:06d}", pickle.dumps(told))
    return [str(folder / "chunks" / f"{at:06d}") for at in range(3)]


def check_results(folder: Path) -> None:
    for at, chunk in enumerate(chunked(2, 1, 3)):
        rows = unpacked(FolderExchange(str(folder)).get(f"results/{at:06d}"))
        assert done_of(chunk, rows) == [(chunk, describe(chunk))]


def test_the_image_has_the_two_environments_apart() -> None:
    docker = (NODES / "Dockerfile").read_text()
    assert "MANY_MODELS_PYTHON=/app/venv/bin/python" in docker
    assert re.search(r"^ENV PATH=/opt/runner/bin:\$PATH", docker, re.MULTILINE)
    assert re.findall(r"^COPY (.+) \./$", docker, re.MULTILINE) == [
        "deploy/compute/azureml/runner.lock deploy/serving/requirements.lock dist/many_models-*.whl"
    ]
    ours = (ROOT / "deploy/serving/requirements.lock").read_text()
    for package in ("azure-identity", "azure-storage-blob", "deltalake", "lightgbm", "skops"):
        assert re.search(rf"^{package}==", ours, re.MULTILINE), package


def test_the_entry_script_does_a_mini_batch_by_a_worker_elsewhere(tmp_path: Path) -> None:
    """Here the runner's Python has no package but the standard library."""
    batch = messages(tmp_path)
    script = [sys.executable, "-S", "-c", "import importlib.util as u; print(u.find_spec('many_models'))"]
    bare = {"PYTHONPATH": "", "PATH": os.environ["PATH"]}
    assert subprocess.run(script, env=bare, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "None\n"
    done = node(sys.executable, [batch[:2], batch[2:]], *arguments_of(), MANY_MODELS_PYTHON=sys.executable)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["000000", "000001"], ["000002"]]
    check_results(tmp_path)


def test_another_python_and_a_missing_package_are_said_in_the_log(tmp_path: Path) -> None:
    wrong = node(sys.executable, [messages(tmp_path)], *arguments_of("3.99.1"), MANY_MODELS_PYTHON=sys.executable)
    assert wrong.returncode
    assert "many_models: the job's environment runs Python" in wrong.stderr
    (tmp_path / "bare").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "bare").chmod(0o755)
    bare = node(sys.executable, [[]], *arguments_of(), MANY_MODELS_PYTHON=str(tmp_path / "bare"))
    assert bare.returncode
    assert "many_models: the worker's process ended with 1; its log says why" in bare.stderr


if sys.version_info[:2] == (3, 11):  # the Python of the image's runner

    def test_the_runners_environment_is_built_from_its_lock_and_works(tmp_path: Path) -> None:
        """An empty environment, the lock file, `pip check`; Azure ML's packages and the entry script in one process."""
        home = tmp_path / "runner"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        python = home / "bin/python"
        install = [UV, "pip", "sync", "--quiet", "--python", python, "--require-hashes", NODES / "runner.lock"]
        subprocess.run(install, check=True, timeout=900)
        checked = subprocess.run([UV, "pip", "check", "--python", python], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        batch = messages(tmp_path)
        together = BATCH.replace("import azureml_entry", "import azureml.core, mltable, numpy, azureml_entry")
        command = [python, "-W", "ignore", "-c", together, str(ENTRY.parent), json.dumps([batch]), *arguments_of()]
        environment = {**os.environ, "PYTHONPATH": "", "MANY_MODELS_PYTHON": sys.executable}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        assert json.loads(done.stdout.splitlines()[-1]) == [["000000", "000001", "000002"]]
        check_results(tmp_path)
