"""Datasets from day to day: what is the same is not written again; they are those that a first run would make."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from many_models.adapters.lake import delta_maintenance
from many_models.adapters.lake.delta import DeltaLake
from many_models.data import lake_tables
from many_models.operations.day import Day, StageReport, open_instance
from many_models.ports import Filter
from many_models.wiring import build_lake
from many_models_tests.days.test_day import rerun
from many_models_tests.support.killed import killed_run
from many_models_tests.support.project import END, Project, comparable, make_project, sales, stages_of

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

pytestmark = pytest.mark.slow
YESTERDAY = END - timedelta(days=1)


class FirstStages(Day):
    """A day that ends with the datasets: what follows is not looked at."""

    def _next(self, *ports):
        found = super()._next(*ports)
        return found if found and found[0].stage in {"raw_sales", "raw_covariates", "store_item_datasets"} else None


def run(project: Project, *until: date) -> list[StageReport]:
    """Make the datasets of one day after the other; the reports of the last one."""
    reports = list[StageReport]()
    with open_instance(project.home) as instance:
        for day in until:
            reports = FirstStages(project.settings(day), instance).run()
    return reports


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two packs of two series, as of yesterday."""
    project = make_project(tmp_path_factory.mktemp("begun") / "p", sales(stores=2, items=2, days=90))
    run(project, YESTERDAY)
    return project


@pytest.fixture
def project(begun: Project, tmp_path: Path) -> Project:
    """A copy of it."""
    return Project(shutil.copytree(begun.root, tmp_path / "longer"))


def files(project: Project) -> dict[str, set[str]]:
    """Pack → the files of its datasets."""
    from deltalake import DeltaTable

    folder = project.root / "var" / "lake" / lake_tables.DATASETS.name
    paths = DeltaTable(folder).file_uris()
    return {pack: {path for path in paths if f"pack={pack}/" in path} for pack in ("s0", "s1")}


def assert_as_made_anew(project: Project, root: Path) -> None:
    """The datasets are those of a project whose first day is the newest."""
    anew = make_project(root, pd.DataFrame(project_rows(project), columns=["store", "item", "date", "sales"]))
    run(anew, END)
    for table in (lake_tables.DATASETS, lake_tables.SERIES):
        pd.testing.assert_frame_equal(comparable(project.table(table.name)), comparable(anew.table(table.name)))


def project_rows(project: Project) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(project.root / "sales.db")) as connection:
        return connection.execute("select store, item, date, sales from sales").fetchall()


def test_a_new_day_adds_files_and_rewrites_none(project: Project, tmp_path: Path) -> None:
    before = files(project)
    assert stages_of(run(project, END))["store_item_datasets"] == 4
    after = files(project)
    assert all(before[pack] < after[pack] for pack in before)
    newest = project.table(lake_tables.DATASETS.name, Filter(since=pd.Timestamp(END).to_pydatetime()))
    assert len(newest) == 4
    assert_as_made_anew(project, tmp_path / "anew")


def test_a_corrected_row_rewrites_its_own_pack_and_the_other_one_goes_on(project: Project, tmp_path: Path) -> None:
    before = files(project)
    project.source(f"update sales set sales = 99 where store = 's0' and item = 'i1' and date = '{YESTERDAY}'")
    run(project, END)
    after = files(project)
    assert not before["s0"] & after["s0"]
    assert before["s1"] < after["s1"]
    assert_as_made_anew(project, tmp_path / "anew")


def test_a_dataset_asked_for_by_hand_is_remade_whatever_the_lake_holds(project: Project, tmp_path: Path) -> None:
    run(project, END)
    lake = build_lake(project.settings())
    lake.replace(lake_tables.DATASETS.name, spoilt(project), Filter(among={"pack": ["s0"]}))
    with open_instance(project.home) as instance:
        rerun(project, instance, "store_item_datasets", ["s0__i0", "s0__i1"], END)
    assert_as_made_anew(project, tmp_path / "anew")


def test_a_table_of_datasets_that_was_deleted_is_remade(project: Project, tmp_path: Path) -> None:
    shutil.rmtree(project.root / "var" / "lake" / lake_tables.DATASETS.name)
    run(project, END)
    assert_as_made_anew(project, tmp_path / "anew")


def spoilt(project: Project) -> object:
    rows = build_lake(project.settings()).read(lake_tables.DATASETS.name, Filter(among={"pack": ["s0"]}))
    return rows.slice(0, rows.num_rows // 2)


@pytest.mark.long(
    "days/test_longer_histories.py::test_a_corrected_row_rewrites_its_own_pack_and_the_other_one_goes_on",
    "days/test_killed_runs.py::test_a_first_day_killed_while_it_makes_its_tables_ends_as_a_clean_one",
)
def test_a_replaced_history_that_a_killed_run_left_undescribed_is_not_gone_on_from(
    project: Project, tmp_path: Path
) -> None:
    """The run dies between the new rows and their description; then the source takes its correction back."""
    change = "update sales set sales = {} where store = 's0' and item = 'i0' and date = '2024-06-27'"
    (was,) = [row[3] for row in project_rows(project) if row[:3] == ("s0", "i0", "2024-06-27")]
    project.source(change.format(77))
    died = killed_run(project, END, ("lake", "replace", lake_tables.DATASETS.name, "after"))
    assert died.returncode == -signal.SIGKILL, died.output
    rows = project.table(lake_tables.DATASETS.name)
    assert 77 in set(rows["y"])
    project.source(change.format(was))
    run(project, END)
    assert_as_made_anew(project, tmp_path / "anew")


@pytest.mark.long(
    "contracts/lake.py::test_pruning_changes_no_row_whatever_the_partitions_are_called",
    "days/test_longer_histories.py::test_a_new_day_adds_files_and_rewrites_none",
)
def test_upkeep_puts_the_files_of_many_days_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four are many here; contracts/lake.py has as many as it takes otherwise."""
    monkeypatch.setattr(delta_maintenance, "MANY_FILES", 3)
    project = make_project(tmp_path / "many", sales(stores=2, items=2, days=90), forecast={"windows": 1})
    run(project, *(END - timedelta(days=back) for back in range(4, -1, -1)))
    before = project.table(lake_tables.DATASETS.name)
    assert len(files(project)["s0"]) > delta_maintenance.MANY_FILES
    lake = build_lake(project.settings())
    assert isinstance(lake, DeltaLake)
    lake.prune(timedelta(0))
    assert len(files(project)["s0"]) == 1
    pd.testing.assert_frame_equal(comparable(project.table(lake_tables.DATASETS.name)), comparable(before))
