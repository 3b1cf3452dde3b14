"""What a round of all sensors costs when nothing is due: with the shared look, and with a whole look for each sensor.
`python -m benchmarks.idle_round [--small] [--json]`.

CPU and opened tables are of a local lake with 10,000 series.
"""

from __future__ import annotations

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
from benchmarks.reference_day import END, SETTINGS, Sales, run_day
from many_models.adapters.lake import delta
from many_models.definitions import build
from many_models.operations.day import open_instance
from many_models.orchestration import automation
from many_models.settings import FILE_NAME, load_settings
from many_models.wiring import build_lake

if TYPE_CHECKING:
    from collections.abc import Callable

    from many_models.settings import Settings

DAYS = 60
ROUNDS = 3
STORES_SECONDS = 3  # instead of a minute, so that every measured round asks the lake
FULL, SMALL = (100, 100), (2, 10)


@dataclass(frozen=True)
class Round:
    """One evaluation of every sensor: seconds of wall clock and CPU, opens of lake tables."""

    wall: float
    cpu: float
    opens: int


def project(folder: Path, stores: int, items: int) -> Settings:
    """A project in `folder` whose day is done."""
    folder.mkdir()
    first = END - timedelta(days=DAYS - 1)
    Sales(folder / "sales.db", stores, items).add(first, DAYS)
    (folder / FILE_NAME).write_text(SETTINGS.format(start=first.isoformat()))
    run_day(folder)
    return load_settings(folder / FILE_NAME)


class Sensors:
    """All sensors of a project, evaluated in turn as the daemon's code server does."""

    def __init__(self, settings: Settings, *, shared: bool) -> None:
        self._settings, self._shared = settings, shared
        self._definitions = build(settings)
        self._opens = 0

    def round(self, instance: dg.DagsterInstance) -> Round:
        """Evaluate every sensor. Raises RuntimeError where one finds something due."""
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
        return Round(*spent, self._opens)

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


def compare(settings: Settings) -> tuple[Round, Round]:
    """A round with the shared look, with its look at the lake, and one with a whole look for each sensor."""
    with open_instance(settings.root / "dagster") as instance:
        shared = Sensors(settings, shared=True).best(instance)
        return shared, Sensors(settings, shared=False).best(instance)


def main() -> None:
    """Measure and print."""
    automation.STORES_SECONDS = STORES_SECONDS
    args = flags(__doc__ or "", "20 series instead of 10,000").parse_args()
    stores, items = SMALL if args.small else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared, whole = compare(project(folder / "local", stores, items))
    series = stores * items
    figures = [
        Figure(f"CPU of an idle round, {series:,} series", shared.cpu, "s", "at most 0.3"),
        Figure("tables of the lake that it opens", shared.opens, "opens", "at most 12"),
        Figure("CPU with a whole look for each sensor", whole.cpu, "s", f"{whole.cpu / shared.cpu:.0f} times as much"),
        Figure("tables that this opens", whole.opens, "opens", ""),
    ]
    show(figures, machine("dagster", "deltalake"), as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
