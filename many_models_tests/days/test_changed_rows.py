"""Rows that come late or are corrected long after their day: found by the column that tells what has changed."""

from __future__ import annotations

from datetime import date, timedelta

import pandas as pd
import pytest

from many_models.operations.day import open_instance
from many_models.orchestration.automation import raw_state
from many_models.orchestration.stage_state import made_versions
from many_models.reporting.accuracy import realised
from many_models.reporting.actuals import PERIODS, joined
from many_models.wiring import build_lake, build_source, build_warehouse
from many_models_tests.support.project import END, Project, make_project, sales

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


def accuracy_by_hand(project: Project) -> pd.DataFrame:
    """The slow way: all predictions of the lake against all of its sales."""
    lake = build_lake(project.settings())
    return realised(lake.read("predictions"), lake.read("raw_sales")).to_pandas()


def loaded(project: Project) -> tuple[pd.DataFrame, pd.DataFrame]:
    warehouse = build_warehouse(project.settings())
    accuracy, actuals = (warehouse.read(name).to_pandas() for name in ("accuracy", "actuals"))
    rows = accuracy.drop(columns=["store", "item"]).sort_values(["series_id", "cutoff"], ignore_index=True)
    return rows, actuals.set_index(["series_id", "ds"])["y"]


@pytest.mark.long(
    "days/test_changed_rows.py::test_rows_that_come_late_or_are_corrected_are_copied_however_old_they_are",
    "contracts/warehouse.py::test_reports_count_accuracy_as_it_is_counted_by_hand",
)
def test_a_correction_of_any_age_reaches_the_warehouse_s_actuals_and_the_accuracy_of_the_forecasts_of_it(tmp_path):
    project = project_of(tmp_path, changed="written_at")
    for day in (date(2024, 5, 20), date(2024, 5, 21), END):
        project.run(day)
    before, actuals = loaded(project)
    pd.testing.assert_frame_equal(before, accuracy_by_hand(project))
    assert before.groupby("series_id").size().to_dict() == {"s0__i0": 2, "s0__i1": 2}
    days = pd.date_range("2024-05-10", END)  # those of six weeks in which nothing was loaded, too
    assert set(days) <= set(actuals["s0__i0"].index)

    corrected = date(2024, 5, 28)  # seven days after the second cutoff, more than two horizons before the newest
    project.source("UPDATE sales SET sales = 99, written_at = '2024-07-01' WHERE date = ?", [(corrected.isoformat(),)])
    project.run(END)
    after, actuals = loaded(project)
    assert actuals["s0__i1", pd.Timestamp(corrected)] == 99
    pd.testing.assert_frame_equal(after, accuracy_by_hand(project))
    touched = set(before.loc[before["wape"] != after["wape"], "cutoff"].dt.date)
    assert touched == {date(2024, 5, 21)}
    periods = build_warehouse(project.settings()).read(PERIODS).to_pandas().set_index("period")["version"]
    with open_instance(project.home, "sqlite") as instance:
        copied = made_versions(instance, "raw_sales")
    assert periods.to_dict() == {day: version for day, version in copied.items() if day >= periods.index.min()}


def test_spans_are_joined_when_they_overlap_or_nearly_do():
    day = [pd.Timestamp("2024-01-01").to_pydatetime() + timedelta(days=at) for at in range(20)]
    spans = [(day[9], day[10]), (day[0], day[2]), (day[1], day[5]), (day[6], day[7])]
    assert joined(spans) == [(day[0], day[5]), (day[6], day[7]), (day[9], day[10])]
    assert joined(spans, timedelta(days=1)) == [(day[0], day[7]), (day[9], day[10])]
    assert joined(spans, timedelta(days=2)) == [(day[0], day[10])]
