"""A small project in its own folder: source database, settings, Dagster instance; and ways to look into it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

from many_models.operations.day import Day, StageReport, open_instance
from many_models.orchestration.due import ALL_STAGES
from many_models.settings import Settings, load_settings
from many_models.wiring import build_lake, build_warehouse
from many_models_tests.support.blank_registry import blank_registry

if TYPE_CHECKING:
    from pathlib import Path

    from many_models.ports import Filter

END = date(2024, 6, 30)
RUN_SPECIFIC = {"staging", "previous", "release_id", "actor", "decided_at", "model", "ref", "loaded_at"}


@dataclass(frozen=True)
class Project:
    """A folder with many_models.toml and sales.db."""

    root: Path

    def settings(self, until: date | None = None) -> Settings:
        settings = load_settings(self.root / "many_models.toml")
        if until is None:
            return settings
        end = datetime.combine(until, datetime.min.time())
        return settings.model_copy(update={"data": settings.data.model_copy(update={"until": end})})

    @property
    def home(self) -> Path:
        return self.root / "dagster"

    def run(self, until: date | None = None) -> list[StageReport]:
        with open_instance(self.home, self.settings().dagster.storage) as instance:
            return Day(self.settings(until), instance).run()

    def table(self, name: str, where: Filter | None = None) -> pd.DataFrame:
        return build_lake(self.settings()).read(name, where).to_pandas()

    def warehouse(self, query: str) -> pd.DataFrame:
        with closing(sqlite3.connect(self.root / "var" / "warehouse.db")) as connection:
            return pd.read_sql(query, connection)

    def source(self, statement: str, rows: list[tuple[object, ...]] | None = None) -> None:
        with closing(sqlite3.connect(self.root / "sales.db")) as connection, connection:
            connection.executemany(statement, rows) if rows is not None else connection.execute(statement)

    def partitions(self, asset: str) -> set[str]:
        with open_instance(self.home, self.settings().dagster.storage) as instance:
            return set(instance.get_materialized_partitions(dg.AssetKey(asset)))

    def contents(self) -> dict[str, pd.DataFrame]:
        """Every table of lake and warehouse without what differs from run to run, rows in a fixed order."""
        lake, warehouse = build_lake(self.settings()), build_warehouse(self.settings())
        found = {f"lake {name}": self.table(name) for name in lake.tables() - {"night_costs"}}  # seconds of runs
        for name in ("predictions", "decisions", "actuals", "accuracy"):
            found[f"warehouse {name}"] = warehouse.read(name).to_pandas()
        return {name: comparable(frame) for name, frame in sorted(found.items())}


def comparable(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` without run-specific columns, sorted."""
    frame = frame[sorted(set(frame.columns) - RUN_SPECIFIC)]
    return frame.sort_values(list(frame.columns), ignore_index=True, key=lambda c: c.map(repr))


def settings_text(**sections: dict[str, object]) -> str:
    """A many_models.toml; values are written as TOML."""

    def toml(value: object) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str):
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        if isinstance(value, list):
            return "[" + ", ".join(map(toml, value)) + "]"
        return str(value)

    lines = [f"[{s}]\n" + "\n".join(f"{k} = {toml(v)}" for k, v in values.items()) for s, values in sections.items()]
    return "\n\n".join(lines) + "\n"


# without trees, which cost more than all else that a first day of a few series learns: a test of them says so
SMALL: dict[str, dict[str, object]] = {
    "source": {"url": "sqlite:///sales.db", "table": "sales"},
    "data": {
        "keys": ["store", "item"],
        "timestamp": "date",
        "target": "sales",
        "frequency": "D",
        "start": date(2024, 1, 1),
    },
    "forecast": {"horizon": 7, "windows": 2, "pool_every": 100_000, "refit_every": 1, "trees": False},
    "compute": {"kind": "serial"},
}


def make_project(root: Path, rows: pd.DataFrame, **sections: dict[str, object]) -> Project:
    """A project whose sales table holds `rows`; `sections` change the settings SMALL. Its registries have their tables
    already, and nothing in them.
    """
    (root / "var/registry").mkdir(parents=True)
    for name in ("staging", "production"):
        (root / f"var/registry/{name}.db").write_bytes(blank_registry())
    with closing(sqlite3.connect(root / "sales.db")) as connection, connection:
        rows.to_sql("sales", connection, index=False)
    settings = {name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {**SMALL, **sections}}
    (root / "many_models.toml").write_text(settings_text(**settings))
    return Project(root)


def two_days(root: Path, rows: pd.DataFrame, **sections: dict[str, object]) -> tuple[Project, Project]:
    """A project below `root` after its last day but one, and a copy of it after its last day."""
    before = make_project(root / "before", rows, **sections)
    before.run(END - timedelta(days=1))
    after = Project(shutil.copytree(before.root, root / "after"))
    after.run(END)
    return before, after


def sales(stores: int = 2, items: int = 3, days: int = 120, end: date = END) -> pd.DataFrame:
    """Weekly patterns times a level, the same for the same arguments."""
    dates = [end - timedelta(days=back) for back in range(days - 1, -1, -1)]
    rows = [
        (
            f"s{store}",
            f"i{item}",
            day.isoformat(),
            float((10 + 5 * item + 3 * store) * (1 + day.weekday() % 3) + (day.day * 7) % 5),
        )
        for store in range(stores)
        for item in range(items)
        for day in dates
    ]
    return pd.DataFrame(rows, columns=["store", "item", "date", "sales"])


def stages_of(reports: list[StageReport]) -> dict[str, int]:
    """Stage → keys done, in order; a stage that ran twice fails."""
    assert len({report.stage for report in reports}) == len(reports), [report.stage for report in reports]
    assert [r.stage for r in reports] == [s for s in ALL_STAGES if s in {r.stage for r in reports}]
    return {report.stage: report.done for report in reports}
