"""Rows that come late or are corrected long after their day: found by the column that tells what has changed."""

from __future__ import annotations

from datetime import date

import pytest

from many_models.automation import raw_state
from many_models.definitions import build_source
from many_models.headless import open_instance
from many_models_tests.project import END, Project, make_project, sales

QUICK = {"horizon": 7, "windows": 1, "trees": False}
CORRECT = "UPDATE sales SET sales = 99, written_at = '2024-07-01 05:00' WHERE date = '2024-04-02' AND item = 'i1'"
LATE = "INSERT INTO sales VALUES ('s0', 'i0', '2024-03-23', 77, '2024-07-01 05:01')"


def project_of(tmp_path, items: int = 2, **data: str) -> Project:
    rows = sales(stores=1, items=items, days=100).assign(written_at="2024-06-30 23:00")
    rows = rows[~((rows["date"] == "2024-03-23") & (rows["item"] == "i0"))]
    return make_project(tmp_path, rows, data={**DATA, **data}, forecast=QUICK)


DATA: dict[str, object] = {
    "keys": ["store", "item"],
    "timestamp": "date",
    "target": "sales",
    "frequency": "D",
    "start": date(2024, 1, 1),
}


def due(project: Project) -> tuple[str, ...]:
    settings = project.settings(END)
    with open_instance(project.home, settings.dagster.storage) as instance:
        return raw_state(settings, instance, build_source(settings)).due()


@pytest.mark.slow
def test_rows_that_come_late_or_are_corrected_are_copied_however_old_they_are(tmp_path):
    project = project_of(tmp_path, changed="written_at")
    project.run(END)
    assert due(project) == ()
    project.source(CORRECT)
    project.source(LATE)
    assert due(project) == ("2024-03-23", "2024-04-02")
    reports = project.run(END)
    assert {report.stage: report.done for report in reports}["raw_sales"] == 2
    raw = project.table("raw_sales").set_index(["series_id", "ds"])["y"]
    assert raw["s0__i1", "2024-04-02"] == 99
    assert raw["s0__i0", "2024-03-23"] == 77
    history = project.table("store_item_datasets").set_index(["series_id", "ds"])["y"]
    assert history["s0__i0", "2024-03-23"] == 77
    assert due(project) == ()


@pytest.mark.slow
def test_without_such_a_column_the_source_is_looked_at_again_for_some_days_only(tmp_path):
    project = project_of(tmp_path, items=1)
    project.run(END)
    correct = CORRECT.replace("i1", "i0")
    project.source(correct)
    assert due(project) == ()
    project.source(correct.replace("2024-04-02", "2024-06-25"))
    assert due(project) == ("2024-06-25",)
