"""A registry on MLflow as tests open it: a clock that does not move, its files, a process that dies at a step."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from many_models.adapters.registry.mlflow_production import MlflowProduction
from many_models.adapters.registry.mlflow_store import MlflowStore
from many_models_tests.contracts.registry import NOW

if TYPE_CHECKING:
    from pathlib import Path


def clock():
    return NOW


class Folder(MutableMapping):
    """The data files of a stored model folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __getitem__(self, name):
        return (self.root / name).read_bytes()

    def __setitem__(self, name, data):
        (self.root / name).write_bytes(data)

    def __delitem__(self, name):
        (self.root / name).unlink()

    def __iter__(self):
        return (str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def __len__(self):
        return len(list(iter(self)))


def folder_of(registry, ref) -> Path:
    from many_models.adapters.registry.mlflow_folder import local_path

    path = local_path(registry._store.find(ref).source)
    assert path is not None
    return path


def reading_light(production, *, aliases=True) -> MlflowProduction:
    """A registry on the store of `production` that fails where reading would make a client of MLflow."""
    found = MlflowProduction(
        production._store.uri, production._store.artifacts, clock=clock, aliases=aliases, light=True
    )
    assert not found.needs_mlflow
    return found


def without_rows(monkeypatch) -> None:
    """Has SQLite be written through MLflow's client alone, as a server is."""
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "false")
    monkeypatch.setattr(MlflowStore, "_writes_rows", False)


def in_a_fork(work) -> int:
    """Runs `work` in a forked process; returns how it ended (a signal as a negative number)."""
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_self(at: str):
    def failpoint(step: str) -> None:
        if step == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return failpoint
