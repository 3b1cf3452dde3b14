"""What a year of days leaves on the disk beside the data: events, runs, the lake's history, model versions.

`python -m benchmarks.year [--small] [--json]` runs some days of two small sizes through Dagster, with the reference's
length of history and number of items in a store, deletes after each day all that the job `upkeep` may ever delete, and
so has three numbers for each part: what stays when all is deleted, by how much that grows a day, and what a day adds
until it is deleted. A year at 10,000 series is counted from them: what stays, 365 days of its growth, and as many days'
additions as the settings keep; through the two sizes goes a line. The data themselves (the rows that the lake's newest
versions hold, the source, the warehouse) do not count. Of SQLite's files the pages in use are counted, and of what of
events stays so many more as may be free before `upkeep` gives them back; a day's additions use what others have left.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks._report import Figure, flags, machine, show
from benchmarks.reference_day import END, FULL, Sales, Size, project, run_day
from many_models.orchestration.event_log.retention import WORTH_A_VACUUM, prune_events
from many_models.settings import load_settings

STORES, LATER_DAYS, TARGET_SERIES, YEAR = (1, 3), 4, 10_000, 365
SMALL = Size(1, 20, 200, 3, 0, 0)
PARTS = ("events and runs", "history of the lake", "staging registry", "production registry")
MEGA, GIGA = 1e6, 1e9


@dataclass(frozen=True)
class Left:
    """Bytes of one part: what stays at the end, its growth a day, and what a day adds until it is deleted."""

    stays: float
    grows: float
    adds: float

    def after_a_year(self, days_kept: int) -> float:
        """What there is after a year."""
        return self.stays + YEAR * self.grows + days_kept * self.adds


def days_kept(folder: Path) -> dict[str, int]:
    """How many days' additions of each part there are at most: those that are kept, and one not yet deleted."""
    settings = load_settings(folder / "many_models.toml")
    lake_days = -(-settings.retention.lake_hours // 24)
    kept = (settings.retention.events_days, lake_days, settings.registry.keep_versions, settings.registry.keep_releases)
    return {part: days + 1 for part, days in zip(PARTS, kept, strict=True)}


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each part as it stands."""
    lake, registry = folder / "var" / "lake", folder / "var" / "registry"
    return {
        "events and runs": _bytes(folder / "dagster"),
        "history of the lake": _bytes(lake) - _live(lake),
        "staging registry": sum(_bytes(path) for path in registry.glob("staging*")),
        "production registry": sum(_bytes(path) for path in registry.glob("production*")),
    }


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(_pages_in_use(file) if file.suffix == ".db" else file.stat().st_size for file in files if file.is_file())


def _pages_in_use(file: Path) -> int:
    with closing(sqlite3.connect(file)) as database:
        asked = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in asked)
    return (pages - free) * size


def _live(lake: Path) -> int:
    """Bytes of the files that the tables' newest versions name."""
    import pyarrow as pa
    from deltalake import DeltaTable

    tables = [DeltaTable(str(folder)) for folder in lake.iterdir() if DeltaTable.is_deltatable(str(folder))]
    return sum(sum(pa.table(table.get_add_actions(flatten=True))["size_bytes"].to_pylist()) for table in tables)


def delete_all(folder: Path) -> None:
    """What the job `upkeep` does once everything superseded is old enough."""
    from many_models.operations.day import open_instance
    from many_models.orchestration.upkeep import staging_in_use
    from many_models.wiring import build_lake, build_production, build_staging

    settings = load_settings(folder / "many_models.toml")
    lake, production = build_lake(settings), build_production(settings)
    with open_instance(folder / "dagster") as instance:
        prune_events(instance, datetime.now(UTC) + timedelta(hours=1))
    lake.prune(timedelta(0))
    production.prune(1)
    build_staging(settings).prune(1, staging_in_use(lake, production))


def measured(size: Size, folder: Path) -> dict[str, Left]:
    """Each part after a first day and `size.more` later ones."""
    sales: Sales = project(folder, size.stores, size)
    run_day(folder)
    delete_all(folder)
    kept, added = [sizes(folder)], list[dict[str, int]]()
    for day in range(1, size.more + 1):
        sales.add(END + timedelta(days=day), 1)
        run_day(folder)
        added.append(sizes(folder))
        delete_all(folder)
        kept.append(sizes(folder))
    days = np.arange(len(kept))
    room = {part: 1 / (1 - WORTH_A_VACUUM) if part == "events and runs" else 1.0 for part in PARTS}
    return {
        part: Left(
            room[part] * kept[-1][part],
            room[part] * max(float(np.polyfit(days, [there[part] for there in kept], 1)[0]), 0.0),
            float(np.mean([after[part] - before[part] for before, after in zip(kept, added, strict=False)])),
        )
        for part in PARTS
    }


def figures_of(found: dict[int, dict[str, Left]], kept: dict[str, int]) -> list[Figure]:
    """A year of each part at TARGET_SERIES, by a line through the sizes; and all together."""
    figures, total = list[Figure](), 0.0
    few, many = sorted(found)
    for part in PARTS:
        year = {series: left[part].after_a_year(kept[part]) for series, left in found.items()}
        each = (year[many] - year[few]) / (many - few)
        at_target = max(year[few] + each * (TARGET_SERIES - few), 0.0)
        total += at_target
        most = found[many][part]
        figures += [
            Figure(f"{part}, {many:,} series: stays", most.stays / MEGA, "MB", ""),
            Figure("  its growth", most.grows / MEGA, "MB a day", ""),
            Figure(f"  a day's additions, of which {kept[part]} are there", most.adds / MEGA, "MB a day", ""),
            Figure(f"  after a year of {TARGET_SERIES:,} series", at_target / GIGA, "GB", ""),
        ]
    name = f"all after a year of {TARGET_SERIES:,} series, counted from {few:,} and {many:,}"
    return [*figures, Figure(name, total / GIGA, "GB", "at most 10")]


def main() -> None:
    """Measures, and prints a table or JSON."""
    parser = flags(__doc__ or "", f"{SMALL.items} and {SMALL.items * STORES[1]} series of {SMALL.days} days")
    parser.add_argument("--days", type=int, help="of history")
    parser.add_argument("--more", type=int, help="days after the first one")
    options = parser.parse_args()
    base = SMALL if options.small else Size(1, FULL.items, FULL.days, LATER_DAYS, 0, 0)
    days, more = options.days or base.days, options.more or base.more
    found = dict[int, dict[str, Left]]()
    kept = dict[str, int]()
    with tempfile.TemporaryDirectory() as temporary:
        for stores in STORES:
            size = Size(stores, base.items, days, more, 0, 0)
            folder = Path(temporary) / f"of-{stores}"
            found[size.series] = measured(size, folder)
            kept = days_kept(folder)
            shutil.rmtree(folder)
    show(figures_of(found, kept), machine("dagster", "deltalake", "mlflow"), as_json=options.json)


if __name__ == "__main__":
    main()
