"""A day that kills its own process (kill -9) right before or after a named call of a port.

The processes are forked from one that has imported everything: a day that dies early costs no five seconds of imports.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING

from many_models.definitions import BUILDERS
from many_models.operations.day import Day, open_instance
from many_models_tests.support.followed import Followed
from many_models_tests.support.project import Project

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path


PRELOADED = [  # what a day imports inside its functions
    "deltalake",
    "mlflow",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "many_models.adapters.lake.delta",
    "many_models.adapters.registry.mlflow_production",
    "many_models.forecasting.kernels",  # with numba
    "many_models.forecasting.pack.mm_pack_v1",
    "many_models.forecasting.train",
    "many_models.orchestration.event_log.storage_sqlite",
    "many_models.tasks",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]


@dataclass(frozen=True)
class Kill:
    """Takes the process down at a call with `argument` first; "" stands for any."""

    argument: str
    when: str

    def __call__(self, argument: str, when: str) -> None:
        if self.argument in {"", argument} and when == self.when:
            os.kill(os.getpid(), signal.SIGKILL)


def run_day(root: Path, until: date, point: tuple[str, str, str, str], log: Path) -> None:
    """Run the day that is to die at `point`: resource, method, argument, before or after."""
    resource, method, argument, when = point
    with log.open("w") as out, redirect_stdout(out), redirect_stderr(out):
        project = Project(root)
        settings = project.settings(until)
        deadly = Followed(BUILDERS[resource](settings), method, Kill(argument, when))
        with open_instance(project.home) as instance:
            Day(settings, instance, resources={resource: deadly}).run()


@dataclass(frozen=True)
class Died:
    """How the process ended (a negative signal number, or its exit code) and what it printed."""

    returncode: int | None
    output: str


def killed_run(project: Project, until: date, point: tuple[str, str, str, str], patience: float = 900) -> Died:
    """Run a day of `project` in its own process that kills itself at `point`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *PRELOADED])
    log = project.root / "killed.log"
    process = context.Process(target=run_day, args=(project.root, until, point, log))
    process.start()
    process.join(patience)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"{point}: not within {patience} s\n{log.read_text()[-2000:]}")
    return Died(process.exitcode, log.read_text()[-2000:] if log.exists() else "")
