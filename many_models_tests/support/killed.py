"""A day that kills its own process (kill -9) right before or after a named call of a port; run as a module by a test.

python -m many_models_tests.support.killed ROOT UNTIL RESOURCE METHOD ARGUMENT before|after
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from many_models.definitions import BUILDERS
from many_models.operations.day import Day, open_instance
from many_models_tests.support.followed import Followed
from many_models_tests.support.project import Project


@dataclass(frozen=True)
class Kill:
    """Takes the process down at a call with `argument` first; "" stands for any."""

    argument: str
    when: str

    def __call__(self, argument: str, when: str) -> None:
        if self.argument in {"", argument} and when == self.when:
            os.kill(os.getpid(), signal.SIGKILL)


def main(root: str, until: str, resource: str, method: str, argument: str, when: str) -> None:
    project = Project(Path(root))
    settings = project.settings(date.fromisoformat(until))
    deadly = Followed(BUILDERS[resource](settings), method, Kill(argument, when))
    with open_instance(project.home) as instance:
        Day(settings, instance, resources={resource: deadly}).run()
    print(f"survived {datetime.now()}")  # noqa: T201, DTZ005  for the test that started it


if __name__ == "__main__":
    main(*sys.argv[1:])
