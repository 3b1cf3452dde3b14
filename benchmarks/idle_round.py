"""What a round of all sensors costs when nothing is due: with the shared look, and with a whole look for each sensor.
`python -m benchmarks.idle_round [--small] [--azurite] [--json]`.

CPU and opened tables are of a local lake with 10,000 series. `--azurite` measures requests instead: the lake is on the
emulator of Azure storage, behind a proxy that adds 30 ms to each request. They do not depend on the number of series.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import dagster as dg

from benchmarks._report import Figure, flags, machine, show
from benchmarks._slow_proxy import slow
from benchmarks.reference_day import END, SETTINGS, Sales, run_day
from many_models.adapters.azure.storage import KEY
from many_models.adapters.lake import delta
from many_models.definitions import build
from many_models.operations.day import open_instance
from many_models.orchestration import automation
from many_models.settings import FILE_NAME, load_settings
from many_models.wiring import build_lake
from many_models_tests.stand_ins.azurite import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.settings import Settings

DAYS = 60
ROUNDS = 3
STORES_SECONDS = 3  # instead of a minute, so that every measured round asks the lake
DELAY = 0.03
FULL, SMALL, AT_AZURE = (100, 100), (2, 10), (2, 10)


@dataclass(frozen=True)
class Round:
    """One evaluation of every sensor: seconds of wall clock and CPU, opens of lake tables, requests to storage."""

    wall: float
    cpu: float
    opens: int
    requests: int = 0
    size: int = 0  # bytes of the requests' and answers' bodies


def project(folder: Path, stores: int, items: int, lake: str = "") -> Settings:
    """A project in `folder` whose day is done."""
    folder.mkdir()
    first = END - timedelta(days=DAYS - 1)
    Sales(folder / "sales.db", stores, items).add(first, DAYS)
    (folder / FILE_NAME).write_text(SETTINGS.format(start=first.isoformat()) + lake)
    run_day(folder)
    return load_settings(folder / FILE_NAME)


class Sensors:
    """All sensors of a project, evaluated in turn as the daemon's code server does."""

    def __init__(
        self, settings: Settings, *, shared: bool, passed: Callable[[], tuple[int, int]] = lambda: (0, 0)
    ) -> None:
        self._settings, self._shared, self._passed = settings, shared, passed
        self._definitions = build(settings)
        self._opens = 0

    def round(self, instance: dg.DagsterInstance) -> Round:
        """Evaluate every sensor. Raises RuntimeError where one finds something due."""
        before = self._passed()
        self._opens, wall, cpu = 0, time.perf_counter(), time.process_time()
        for name in automation.SENSORS.values():
            if not self._shared:
                self._definitions = build(self._settings)
            lake = build_lake(self._settings)
            context = dg.build_sensor_context(instance, definitions=self._definitions, resources={"lake": lake})
            said = self._definitions.get_repository_def().get_sensor_def(name)(context)
            if not isinstance(said, dg.SkipReason):
                raise RuntimeError(f"{name} found something due: {said}")  # noqa: TRY004  not a mistake in types
        spent = time.perf_counter() - wall, time.process_time() - cpu
        requests, size = self._passed()
        return Round(*spent, self._opens, requests - before[0], size - before[1])

    def _later(self, instance: dg.DagsterInstance) -> Round:
        """A round after the time in which the lake is not looked at."""
        time.sleep(STORES_SECONDS)
        return self.round(instance)

    def best(self, instance: dg.DagsterInstance) -> Round:
        """The quickest of some rounds, after one that fills what is kept."""
        kept: Callable[[delta.DeltaLake, str], Any] = vars(delta.DeltaLake)["_open"]

        def counted(lake: delta.DeltaLake, table: str) -> Any:
            self._opens += 1
            return kept(lake, table)

        with mock.patch.object(delta.DeltaLake, "_open", counted):
            self.round(instance)
            return min((self._later(instance) for _ in range(ROUNDS)), key=lambda found: found.cpu)


def compare(settings: Settings, passed: Callable[[], tuple[int, int]] = lambda: (0, 0)) -> tuple[Round, Round]:
    """A round with the shared look, with its look at the lake, and one with a whole look for each sensor."""
    with open_instance(settings.root / "dagster") as instance:
        shared = Sensors(settings, shared=True, passed=passed).best(instance)
        return shared, Sensors(settings, shared=False, passed=passed).best(instance)


def local(folder: Path, stores: int, items: int) -> list[Figure]:
    """The figures of a lake on this machine's disk."""
    shared, whole = compare(project(folder / "local", stores, items))
    series = stores * items
    return [
        Figure(f"CPU of an idle round, {series:,} series", shared.cpu, "s", "at most 0.3"),
        Figure("tables of the lake that it opens", shared.opens, "opens", "at most 12"),
        Figure("CPU with a whole look for each sensor", whole.cpu, "s", f"{whole.cpu / shared.cpu:.0f} times as much"),
        Figure("tables that this opens", whole.opens, "opens", ""),
    ]


def at_azure(folder: Path) -> list[Figure]:
    """The figures of a lake on Azurite, DELAY seconds away; the day itself is not slowed down."""
    with running(folder / "azurite") as azurite:
        os.environ[KEY] = azurite.key
        section = f'\n[lake]\npath = "{azurite.container("idle")}/lake"\ncredential = "key"\nendpoint = '
        settings = project(folder / "azure", *AT_AZURE, f'{section}"{azurite.endpoint}"\n')
        with slow(azurite.endpoint, DELAY) as proxy:
            text = (settings.root / FILE_NAME).read_text().replace(azurite.endpoint, proxy.endpoint)
            (settings.root / FILE_NAME).write_text(text)
            shared, whole = compare(load_settings(settings.root / FILE_NAME), lambda: proxy.passed)
    return [
        Figure("an idle round on Azurite, 30 ms a request", shared.wall, "s", "at most 2"),
        Figure("its requests", shared.requests, "requests", "at most 25"),
        Figure("their bytes", shared.size / 1024, "KiB", ""),
        Figure("with a whole look for each sensor", whole.wall, "s", f"{whole.wall / shared.wall:.0f} times as long"),
        Figure("requests of that", whole.requests, "requests", ""),
        Figure("their bytes", whole.size / 1024, "KiB", ""),
    ]


def main() -> None:
    """Measure and print."""
    automation.STORES_SECONDS = STORES_SECONDS
    parser = flags(__doc__ or "", "20 series instead of 10,000")
    parser.add_argument("--azurite", action="store_true", help="requests to Azurite, 30 ms away, instead")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = at_azure(folder) if args.azurite else local(folder, *(SMALL if args.small else FULL))
    show(figures, machine("dagster", "deltalake"), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
