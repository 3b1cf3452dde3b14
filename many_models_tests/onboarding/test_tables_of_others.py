"""Kinds of tables that were met in public and misread once: each is made up here, small."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.onboarding.guess import infer_settings
from many_models.onboarding.value_types import infer_column
from many_models_tests.onboarding.test_files import workbook

if TYPE_CHECKING:
    from pathlib import Path

    from many_models.onboarding.inferred import InferredSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = pd.date_range("2025-01-01", periods=120)
SOLD = np.random.default_rng(1).integers(2, 30, 120)


def guessed(tmp_path: Path, frame: pd.DataFrame) -> InferredSettings:
    frame.to_csv(tmp_path / "t.csv", index=False)
    return infer_settings(str(tmp_path / "t.csv"), now=NOW)


def test_the_sheet_with_dates_is_read_and_a_longer_list_of_items_is_not(tmp_path: Path) -> None:
    sales = [
        ["Date", "Item", "Qty"],
        *([day.to_pydatetime(), "chair", int(sold)] for day, sold in zip(DAYS, SOLD, strict=True)),
    ]
    items = [["Item", "Rate", "Margin"], *([f"part {n}", 100 + n, n % 7] for n in range(200))]
    workbook(tmp_path / "t.xlsx", {"Items": items, "Sales": sales})
    found = infer_settings(str(tmp_path / "t.xlsx"), now=NOW)
    assert (found.timestamp.value, found.target.value, found.rows) == ("Date", "Qty", 120)
    assert found.readings[0].what == "sheet 'Sales'; sheets Items are left out"


def test_sales_that_grow_each_year_are_no_running_number(tmp_path: Path) -> None:
    years = pd.DataFrame({"Year": range(2015, 2023), "Sales": [1336, 1548, 1845, 2304, 2842, 3361, 3504, 4206]})
    found = guessed(tmp_path, years)
    assert (found.target.value, found.frequency.value) == ("Sales", "YS")
    totals = pd.DataFrame({"date": DAYS, "so far": SOLD.cumsum(), "sold": SOLD})
    assert guessed(tmp_path, totals).target.value == "sold"


@pytest.mark.slow
@pytest.mark.parametrize(("actual", "planned"), [("Observed", "Forecast"), ("Ist", "Budget"), ("actuals", "PLAN")])
def test_rows_of_a_forecast_or_a_budget_are_no_sales(tmp_path: Path, actual: str, planned: str) -> None:
    frame = pd.DataFrame({"date": DAYS, "sales": SOLD + 0.5, "type": np.where(np.arange(120) < 90, actual, planned)})
    found = guessed(tmp_path, frame)
    assert (found.last, found.known.value) == (DAYS[89].date(), ())
    assert f"rows whose type is {planned} are a plan or a forecast: left out" in found.warnings
    other = guessed(tmp_path, frame.replace({"type": {planned: "Return"}}))
    assert other.last == DAYS[-1].date()


def test_a_few_rows_say_nothing_of_weekdays(tmp_path: Path) -> None:
    few = pd.DataFrame(
        {"date": ["2022-05-12", "2023-12-06", "2024-02-13", "2025-04-07"], "amount": [6.0, 5.0, 4.5, 7.0]}
    )
    assert guessed(tmp_path, few).missing_on.value == {}


def receipts(seconds: bool = True) -> pd.DataFrame:
    """One row an item sold, at any second of the day, so that every date stands once."""
    rng = np.random.default_rng(2)
    at = DAYS[0] + pd.to_timedelta(np.sort(rng.choice(120 * 86400, 1500, replace=False)), "s")
    titles = rng.choice(["tea", "cake", "milk"], 1500)
    return pd.DataFrame({"title": titles, "amount": rng.integers(1, 4, 1500), "time_added": at})


@pytest.mark.slow
def test_receipts_that_differ_by_the_second_are_series_of_items(tmp_path: Path) -> None:
    found = guessed(tmp_path, receipts())
    assert (found.keys.value, found.target.value) == (("title",), "amount")
    assert (found.frequency.value, found.aggregate.value) == ("D", "sum")
    alone = guessed(tmp_path, receipts().drop(columns="title"))
    assert alone.keys.value == ("series",)


@pytest.mark.slow
def test_the_example_of_counted_rows_counts_rows(tmp_path: Path) -> None:
    frame = receipts().assign(
        receipt=np.arange(1500) // 2 + 1, date=lambda rows: rows["time_added"].dt.date.astype(str)
    )
    found = guessed(tmp_path, frame[["receipt", "date", "title"]])
    assert (found.aggregate.value, found.missing.value) == ("count", "zero")
    rare = frame[frame["title"].ne("milk") | (frame["receipt"] % 25 == 0)]
    reason = guessed(tmp_path, rare[["receipt", "date", "title"]]).missing.reason
    mean = float(reason.partition("its mean is ")[2].split()[0])
    assert mean < 1, reason


# --- Kinds that were looked for by hand -------------------------------------------------------------------------------
def column_of(*texts: str) -> tuple[str, list[object]]:
    """What a column of texts is, and its values."""
    found = infer_column("date", pa.chunked_array([pa.array(texts, pa.string())]))
    return found.kind, [str(value)[:10] if found.kind == "time" else value for value in found.levels[found.codes]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("28. Feb. 2025", "1. März 2025", "2. Mai 2025"), "2025-02-28 2025-03-01 2025-05-02"),
        (("31. Oktober 2024", "1. Dezember 2024", "7. Januar 2025"), "2024-10-31 2024-12-01 2025-01-07"),
        (("3 janv. 2025", "4 févr. 2025", "5 août 2025"), "2025-01-03 2025-02-04 2025-08-05"),
        (("3 de enero de 2025", "4 de abril de 2025", "5 de mayo de 2025"), "2025-01-03 2025-04-04 2025-05-05"),
        (("gen 2025", "mag 2025", "ott 2025"), "2025-01-01 2025-05-01 2025-10-01"),
        (("3 January 2025", "4 May 2025", "5 June 2025"), "2025-01-03 2025-05-04 2025-06-05"),
        (("2024Q4", "2025Q1", "2025Q2"), "2024-10-01 2025-01-01 2025-04-01"),
        (("Q4 2024", "q1/2025", "Q2-2025"), "2024-10-01 2025-01-01 2025-04-01"),
    ],
)
def test_months_in_other_languages_and_quarters_are_dates(words: tuple[str, ...], expected: str) -> None:
    assert column_of(*words) == ("time", expected.split())
    found = infer_column("date", pa.chunked_array([pa.array(words, pa.string())]))
    assert not found.type.or_else  # read in one way, and nobody is asked


def test_words_that_are_no_months_are_no_dates() -> None:
    assert column_of("Q5 2024", "Q0 2025", "Q9 2025")[0] == "text"
    assert column_of("3 Marke 2025", "4 Mais 2025", "5 Agora 2025")[0] == "text"


@pytest.mark.parametrize(("written", "value"), [("(5)", -5.0), ("\u22125", -5.0), ("1 234", 1234.0), ("7-", -7.0)])
def test_a_few_numbers_that_are_written_otherwise_are_read_too(written: str, value: float) -> None:
    kind, values = column_of(*map(str, range(2, 60)), written)
    assert (kind, values[-1], values[:2]) == ("number", value, [2.0, 3.0])


def test_sheets_with_columns_in_another_order_and_case_go_together(tmp_path: Path) -> None:
    rows = [[day.to_pydatetime(), "chair", int(sold)] for day, sold in zip(DAYS, SOLD, strict=True)]
    later = [[item, sold, day] for day, item, sold in rows[60:]]
    sheets = {"early": [["date", "item", "sold"], *rows[:60]], "late": [["Item", "Sold", "DATE"], *later]}
    found = infer_settings(str(workbook(tmp_path / "t.xlsx", sheets)), now=NOW)
    assert (found.rows, found.start, found.last) == (120, DAYS[0].date(), DAYS[-1].date())
    assert np.nansum(found.columns["sold"].levels[found.columns["sold"].codes]) == SOLD.sum()


def test_footnotes_and_a_repeated_header_are_no_series(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"item": np.where(np.arange(240) < 120, "tea", "milk"), "date": [*DAYS, *DAYS], "sold": [*SOLD] * 2}
    )
    lines = frame.to_csv(index=False).splitlines()
    (tmp_path / "t.csv").write_text("\n".join([*lines[:100], lines[0], *lines[100:], "Source: till 4,,", ""]))
    found = infer_settings(str(tmp_path / "t.csv"), now=NOW)
    assert found.series == 2
    assert not any("are one series" in told for told in found.warnings)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_names_on_the_first_row_of_their_group_hold_for_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """A pivot table as it is exported, in batches of rows; a column that is rarely filled is none."""
    monkeypatch.setattr("many_models.onboarding.readers.BATCH_ROWS", rows)
    monkeypatch.setattr("many_models.onboarding.workbooks.BATCH_ROWS", rows)
    table = list[list[object]]()
    for number, (store, item) in enumerate([("Ulm", "tea"), ("Ulm", "milk"), ("Rom", "tea"), ("Rom", "milk")]):
        for at, day in enumerate(DAYS[:40]):
            names = [store if at == 0 and item == "tea" else None, item if at == 0 else None]
            table.append([*names, day.to_pydatetime(), int(SOLD[at]) + number, "fair" if at % 9 == 4 else None])
    path = workbook(tmp_path / "t.xlsx", {"Report": [["store", "item", "date", "sold", "note"], *table]})
    found = infer_settings(str(path), now=NOW)
    assert (found.keys.value, found.series, found.rows) == (("store", "item"), 4, 160)
    assert "store, item hold down to the next one" in found.readings[-1].what
    column = found.columns["note"]
    assert column.missing == sum(row[-1] is None for row in table)
