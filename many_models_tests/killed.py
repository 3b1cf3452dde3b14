"""A day that kills its own process (kill -9) right before or after a named call of a port; run as a module by a test.

python -m many_models_tests.killed ROOT UNTIL RESOURCE METHOD ARGUMENT before|after
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import date, datetime
from pathlib import Path

from many_models.definitions import BUILDERS
from many_models.headless import Day, open_instance
from many_models_tests.project import Project


class Deadly:
    """Everything that `inner` is, but `method`, called with `argument` first, takes the process down."""

    def __init__(self, inner: object, method: str, argument: str, when: str) -> None:
        self._inner, self._method, self._argument, self._when = inner, method, argument, when

    def __getattr__(self, name: str) -> object:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        def call(*args: object, **kwargs: object) -> object:
            hit = self._argument in {"", str(args[0])}
            if hit and self._when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = found(*args, **kwargs)
            if hit:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def __reduce__(self) -> tuple[object, ...]:
        return (Deadly, (self._inner, self._method, self._argument, self._when))


def main(root: str, until: str, resource: str, method: str, argument: str, when: str) -> None:
    project = Project(Path(root))
    settings = project.settings(date.fromisoformat(until))
    deadly = Deadly(BUILDERS[resource](settings), method, argument, when)
    with open_instance(project.home) as instance:
        Day(settings, instance, resources={resource: deadly}).run()
    print(f"survived {datetime.now()}")  # noqa: T201, DTZ005  for the test that started it


if __name__ == "__main__":
    main(*sys.argv[1:])
