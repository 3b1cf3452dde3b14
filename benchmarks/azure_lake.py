"""A day with the lake on Azure storage's emulator against the same day on local disk: the demo's 500 series.
`python -m benchmarks.azure_lake [--small] [--json]`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._report import Figure, flags, machine, show
from many_models.adapters.azure.storage import KEY
from many_models.onboarding.demo import write_source
from many_models.onboarding.demo_settings import demo_settings
from many_models.operations.day import Day, open_instance
from many_models.settings import FILE_NAME, Settings, load_settings
from many_models.wiring import build_lake
from many_models_tests.stand_ins.azurite import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models_tests.stand_ins.azurite import Azurite

LAST = date(2024, 6, 30)
CONTAINER = "benchmark"
DEMO = 500


class TimedLake:
    """A lake that counts the seconds spent in it."""

    def __init__(self, settings: Settings) -> None:
        self._lake = build_lake(settings)
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Callable[..., object]:
        method: Callable[..., object] = getattr(self._lake, name)

        def timed(*args: object, **kwargs: object) -> object:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def day(root: Path, series: int, days: int, lake: str) -> tuple[float, float]:
    """Seconds of a first day in `root`, in all and in the lake; `lake` is that section of the settings."""
    root.mkdir()
    facts = write_source(root / "sales.db", series=series, days=days, end=LAST, seed=1)
    text = demo_settings(start=facts.first, url="sqlite:///sales.db")
    if series < DEMO:  # a small day is about the lake, not about what is learned
        text = text.replace("[forecast]\n", "[forecast]\ntrees = false\n")
    (root / FILE_NAME).write_text(text.replace("[compute]\n", '[compute]\nkind = "serial"\n') + lake)
    settings = load_settings(root / FILE_NAME)
    timed = TimedLake(settings)
    began = time.perf_counter()
    with open_instance(root / "dagster") as instance:
        Day(settings, instance, resources={"lake": timed}).run()
    return time.perf_counter() - began, timed.seconds


def remote_lake(azurite: Azurite, turn: int) -> str:
    """The section of the settings for a lake on Azurite, in a container of its own."""
    place = f"{azurite.container(f'{CONTAINER}{turn}')}/lake"
    return f'\n[lake]\npath = "{place}"\ncredential = "key"\nendpoint = "{azurite.endpoint}"\n'


def measure(series: int, days: int, folder: Path) -> list[Figure]:
    """Both days, twice in turn (the quicker of each counts), and their ratios; a small day warms up what both need."""
    day(folder / "warm", 10, 60, "")
    with running(folder / "azurite") as azurite:
        os.environ[KEY] = azurite.key
        found = [
            day(folder / f"{place}_{turn}", series, days, section)
            for turn in range(2)
            for place, section in (("disk", ""), ("azure", remote_lake(azurite, turn)))
        ]
    local, local_lake = min(found[0::2])
    remote, azurite_lake = min(found[1::2])
    size = f"{series} series, {days} days"
    return [
        Figure(f"day with the lake on disk, {size}", local, "s", ""),
        Figure(f"day with the lake on Azurite, {size}", remote, "s", ""),
        Figure("lake on Azurite, whole day", remote / local, "× local disk", "at most 3"),
        Figure("time in the lake, on disk", local_lake, "s", ""),
        Figure("time in the lake, on Azurite", azurite_lake, "s", ""),
        Figure("lake on Azurite, time in the lake alone", azurite_lake / local_lake, "× local disk", "at most 3"),
    ]


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", "10 series and 60 days instead of 500 and 1,095")
    options = parser.parse_args()
    series, days = (10, 60) if options.small else (DEMO, 1095)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(series, days, Path(folder))
    show(figures, machine("deltalake"), as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
