"""The entry script of an Azure ML parallel job: Azure ML calls `init` once a process and `run` for each mini-batch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.adapters.compute.azureml_worker import Worker

_state: dict[str, Worker] = {}


def init() -> None:
    """Make this process a worker; raises where its environment does not fit."""
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
