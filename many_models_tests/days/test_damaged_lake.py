"""A file of the lake that is damaged or gone: it is named, the other series go on, and `doctor --mend` has it made."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from deltalake import DeltaTable

from many_models.adapters.lake.delta_damage import ASIDE
from many_models.data import lake_tables
from many_models.errors import DamagedTableError, ManyModelsError
from many_models.operations import doctor
from many_models.operations.day import open_instance
from many_models.wiring import build_lake, build_production, build_staging, build_warehouse
from many_models_tests.support.project import END, Project, comparable, sales, two_days

if TYPE_CHECKING:
    from many_models.operations.day import StageReport

pytestmark = pytest.mark.slow

FIRST, SECOND = END - timedelta(days=1), END
WHOLE = ("raw_sales", "raw_versions", "series", "champions", "pooled_models", "series_keys")  # of all series together


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Project]:
    """A project of two stores after its first day, and after its second."""
    rows = sales(stores=2, items=2, days=80)
    return two_days(tmp_path_factory.mktemp("damaged"), rows, forecast={"horizon": 3, "windows": 1})


@pytest.fixture
def project(days: tuple[Project, Project], tmp_path: Path) -> Project:
    return Project(shutil.copytree(days[0].root, tmp_path / "p"))


def damage(project: Project, table: str, pack: str = "") -> Path:
    """Random bytes in the place of half a file of the table; of one that holds `pack`."""
    path = project.root / "var" / "lake" / table
    file = next(Path(uri) for uri in sorted(DeltaTable(str(path)).file_uris()) if pack in uri)
    content = file.read_bytes()
    quarter = len(content) // 4
    file.write_bytes(content[:quarter] + b"\xa5" * (2 * quarter) + content[3 * quarter :])
    return file


def mend(project: Project) -> list[str]:
    settings = project.settings()
    ports = build_lake(settings), build_staging(settings), build_production(settings), build_warehouse(settings)
    with open_instance(project.home) as instance:
        stores = doctor.Stores(instance, *ports)
        assert doctor.examine(stores)
        return doctor.mend(stores)


def failed_in(reports: list[StageReport], stage: str) -> StageReport:
    return next(report for report in reports if report.stage == stage and report.failed)


@pytest.mark.parametrize("table", ["store_item_datasets", "trained_models"])
def test_a_damaged_file_of_one_store_is_named_and_the_others_go_on(
    project: Project, days: tuple[Project, Project], table: str
) -> None:
    file = damage(project, table, "pack=s1")
    failed = failed_in(project.run(SECOND), table)
    assert (failed.done, failed.failed) == (2, 2)
    assert file.name in failed.error
    assert "doctor --mend" in failed.error
    pd.testing.assert_frame_equal(forecasts(project, "s0"), forecasts(days[1], "s0"))
    status = build_lake(project.settings()).read("series_status").to_pylist()
    assert {row["kind"] for row in status} == {"DamagedTableError"}
    assert not any(row["set_aside"] for row in status)


def forecasts(project: Project, store: str = "s") -> pd.DataFrame:
    """What the warehouse has of the second day for stores whose name begins so."""
    query = "SELECT * FROM predictions WHERE cutoff_date = ? AND series_id LIKE ?"
    with closing(sqlite3.connect(project.root / "var" / "warehouse.db")) as connection:
        return comparable(pd.read_sql(query, connection, params=(SECOND.isoformat(), f"{store}%")))


@pytest.mark.parametrize("table", ["store_item_datasets", "raw_sales"])
def test_mended_the_day_ends_as_it_would_have(project: Project, days: tuple[Project, Project], table: str) -> None:
    damage(project, table)
    with ExitStack() as expected:
        if table in WHOLE:
            expected.enter_context(pytest.raises(ManyModelsError, match="doctor --mend"))
        project.run(SECOND)
    said = mend(project)
    assert any(table in line for line in said), said
    assert list((project.root / "var" / "lake" / table / ASIDE).iterdir())
    project.run(SECOND)
    found, wanted = project.contents(), days[1].contents()
    for name in ("lake raw_sales", "lake store_item_datasets", "lake series"):
        pd.testing.assert_frame_equal(found[name], wanted[name], obj=name)
    columns = ["series_id", "ds"]  # what is promoted may differ: decided again, or from scores that are gone
    pd.testing.assert_frame_equal(forecasts(project)[columns], forecasts(days[1])[columns])
    assert not build_lake(project.settings()).damaged()


@pytest.mark.parametrize("table", WHOLE)
def test_a_damaged_file_of_all_series_stops_the_run_with_its_name(project: Project, table: str) -> None:
    file = damage(project, table)
    with pytest.raises(ManyModelsError, match=rf"{file.name}.*doctor --mend") as caught:
        project.run(SECOND)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("table", ["raw_versions"])
def test_a_damaged_log_of_a_table_is_named_and_mended(
    project: Project, days: tuple[Project, Project], table: str
) -> None:
    log = project.root / "var" / "lake" / table / "_delta_log"
    newest = max(log.glob("*.json"))
    newest.write_bytes(b"x" * newest.stat().st_size)
    with pytest.raises(DamagedTableError, match=rf"{table}.*_delta_log.*doctor --mend"):
        project.run(SECOND)
    mend(project)
    project.run(SECOND)
    pd.testing.assert_frame_equal(project.contents()[f"lake {table}"], days[1].contents()[f"lake {table}"])


def test_a_cost_that_cannot_be_recorded_does_not_stop_the_load(project: Project) -> None:
    """What a night cost is for people who like to know; its table once held up the forecasts of all series."""
    loaded = project.contents()
    for file in (project.root / "var/lake/night_costs/_delta_log").glob("*.json"):
        file.write_text("no log\n")
    (project.root / "var/warehouse.db").unlink()
    reports = project.run(FIRST)
    assert [(report.stage, report.error) for report in reports] == [("warehouse_predictions", "")]
    for name, frame in project.contents().items():
        pd.testing.assert_frame_equal(frame, loaded[name], obj=name)


def test_datasets_of_an_older_day_are_made_again_without_a_gap(
    project: Project, days: tuple[Project, Project], tmp_path: Path
) -> None:
    """The table of series is newer than the datasets: no run goes on from histories that are not there."""
    late = Project(shutil.copytree(days[1].root, tmp_path / "late"))
    folder = late.root / "var" / "lake" / lake_tables.DATASETS.name
    shutil.rmtree(folder)
    shutil.copytree(project.root / "var" / "lake" / lake_tables.DATASETS.name, folder)
    late.run(SECOND)
    name = f"lake {lake_tables.DATASETS.name}"
    pd.testing.assert_frame_equal(late.contents()[name], days[1].contents()[name])
