"""Stages that would lose more than `data.max_loss` refuse that, say so, and do it when they are told."""

from __future__ import annotations

import shutil
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest

from many_models.data import losses
from many_models.errors import PermanentError
from many_models.ports import Filter
from many_models.wiring import build_lake, build_production, build_warehouse
from many_models_tests.support.project import END, Project, make_project, sales

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow
ITEMS = ("i0", "i1", "i2", "i3")
LATER = END + timedelta(days=40)


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Four items after their first day."""
    project = make_project(
        tmp_path_factory.mktemp("losses") / "p", sales(stores=1, items=4, days=90),
        data={"ended_after": 20, "complete_share": 0.0}, forecast={"horizon": 7, "windows": 1, "trees": False},
    )  # fmt: skip
    project.run(END)
    return project


@pytest.fixture
def project(first_day: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of the first day; a loss counts from three rows on, so that few series are enough."""
    monkeypatch.setattr(losses, "COUNTS_FROM", 3)
    return Project(shutil.copytree(first_day.root, tmp_path / "p"))


def sell(project: Project, items: tuple[str, ...], since: date, until: date) -> None:
    days = [since + timedelta(days=number) for number in range((until - since).days + 1)]
    rows: list[tuple[object, ...]] = [("s0", item, f"{day}", 7.0) for item in items for day in days]
    project.source("INSERT INTO sales VALUES (?, ?, ?, ?)", rows)


def served(project: Project) -> set[str]:
    live = build_production(project.settings()).live()
    return set(live.champions) if live else set()


def refused(project: Project, stage: str) -> set[str]:
    rows = project.table("series_status")
    return set(rows[(rows["stage"] == stage) & (rows["kind"] == losses.KIND)]["series_id"])


def forecast_at(project: Project, day: date) -> set[str]:
    return set(project.table("predictions", Filter(among={"cutoff_date": [f"{day}"]}))["series_id"])


def test_a_history_that_shrinks_in_the_lake_is_refused_for_its_series_alone(project, monkeypatch):
    """Rows are deleted of one series in raw_sales; told so, the next run takes the short history."""
    lake, tomorrow = build_lake(project.settings()), END + timedelta(days=1)
    rows = lake.read("raw_sales").to_pandas()
    kept = rows[(rows["series_id"] != "s0__i1") | (rows["ds"] >= f"{END - timedelta(days=30)}")]
    table = lake.read("raw_sales").take(kept.index.to_numpy())
    lake.replace("raw_sales", table, Filter(), ("year",))
    sell(project, ITEMS, tomorrow, tomorrow)
    project.run(tomorrow)
    assert refused(project, "store_item_datasets") == {"s0__i1"}
    assert project.table("store_item_datasets").groupby("series_id").size().to_dict() == {
        f"s0__{item}": 90 + (item != "i1") for item in ITEMS
    }
    assert forecast_at(project, tomorrow) == {"s0__i0", "s0__i2", "s0__i3"}
    assert project.run(tomorrow) == []
    monkeypatch.setenv("MANY_MODELS__DATA__MAX_LOSS", "1")
    project.run(tomorrow)
    assert refused(project, "store_item_datasets") == set()
    assert project.table("store_item_datasets").groupby("series_id").size()["s0__i1"] == 32
    assert forecast_at(project, tomorrow) == {f"s0__{item}" for item in ITEMS}


def test_most_of_a_release_does_not_leave_at_once(project, monkeypatch):
    """One item sells on, the others end: they stay in the release until a person says that they have ended."""
    sell(project, ("i0",), END + timedelta(days=1), LATER)
    project.run(LATER)
    ended = {"s0__i1", "s0__i2", "s0__i3"}
    assert served(project) == {"s0__i0", *ended}
    assert refused(project, "promoted_models") == refused(project, "predictions") == ended
    assert forecast_at(project, LATER) == {"s0__i0"}
    (reason,) = set(project.table("series_status").query("stage == 'promoted_models'")["reason"])
    assert "3 of the 4 series" in reason
    assert "MAX_LOSS=1" in reason
    monkeypatch.setenv("MANY_MODELS__DATA__MAX_LOSS", "1")
    project.run(LATER)
    assert served(project) == {"s0__i0"}
    assert not len(project.table("series_status"))


def test_the_warehouse_keeps_forecasts_that_the_lake_has_lost(project, monkeypatch):
    lake, warehouse = build_lake(project.settings()), build_warehouse(project.settings())
    before = warehouse.read("predictions")
    lost = lake.read("predictions", Filter(among={"series_id": ["s0__i0"]}))
    lake.replace("predictions", lost, Filter(among={"cutoff_date": [f"{END}"]}), ("cutoff_date",))
    warehouse.load(f"cutoff {END}", "of another day", [])
    with pytest.raises(
        PermanentError, match=r"'predictions' of the warehouse holds 4 series .* lake has 1, .*MAX_LOSS=1"
    ):
        project.run(END)
    assert warehouse.read("predictions").sort_by("series_id").equals(before.sort_by("series_id"))
    monkeypatch.setenv("MANY_MODELS__DATA__MAX_LOSS", "1")
    project.run(END)
    assert set(warehouse.read("predictions")["series_id"].to_pylist()) == {"s0__i0"}
