"""The entry script of an Azure ML parallel job: Azure ML calls `init` once a process and `run` for each mini-batch.

It runs beside Azure ML's own packages, which cannot live with ours in one environment (azureml-core wants packaging
< 26, azureml-dataset-runtime[pandas] numpy < 2). Where MANY_MODELS_PYTHON names the interpreter of another environment,
a process of that one does the work; else this process does. Nothing but the standard library is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKER = "from many_models.adapters.compute.azureml_worker import main; main()"
_state: dict[str, Any] = {}


def init() -> None:
    """Make this process a worker, or start one; raises where its environment does not fit."""
    if python := os.environ.get("MANY_MODELS_PYTHON"):
        _state["worker"] = _Other(python, sys.argv[1:])
        return
    try:
        from many_models.adapters.compute.azureml_worker import Worker
    except ImportError as error:
        version = next((b for a, b in zip(sys.argv, sys.argv[1:], strict=False) if a == "--version"), "")
        raise RuntimeError(
            f"many_models: the job's environment lacks {error.name}: install many_models=={version} in the environment "
            "or image that [azureml] names"
        ) from error
    try:
        _state["worker"] = Worker(sys.argv[1:])
    except Exception as error:
        raise RuntimeError(f"many_models: {error}") from error


def run(mini_batch: Sequence[str]) -> list[str]:
    """Do a mini-batch: paths of files, each of them a chunk's message."""
    return _state["worker"].run(mini_batch)


class _Other:
    """A worker in the environment of `python`; started again after it was killed, since Azure ML asks again."""

    def __init__(self, python: str, arguments: Sequence[str]) -> None:
        self._command = [python, "-c", WORKER, *arguments]
        self._process = self._started()

    def run(self, mini_batch: Sequence[str]) -> list[str]:
        if self._process.poll() is not None:
            self._process = self._started()
        return self._said(self._process, [str(file) for file in mini_batch])

    def _started(self) -> subprocess.Popen[str]:
        outside = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=outside)  # noqa: S603
        self._said(process, None)  # its versions fit, or it says which do not
        return process

    @staticmethod
    def _said(process: subprocess.Popen[str], asked: list[str] | None) -> list[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if asked is not None:
                process.stdin.write(json.dumps(asked) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"many_models: the worker's process ended with {process.wait()}; its log says why")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"many_models: {answer['error']}")
        return answer["done"]
