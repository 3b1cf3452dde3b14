"""Several rows of a series and period as one, and periods of the data's frequency."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.data.aggregation import aggregate, is_coarse, labels, period_of
from many_models.data.row_checks import check_rows
from many_models.errors import InputError
from many_models.ports import SalesTable

NOW = datetime(2025, 6, 1)
SALES = SalesTable("sales", ("store",), "at", "quantity", aggregate=(("quantity", "sum"),))
COARSE = ["W-MON", "W-SUN", "W-WED", "MS", "ME", "QS", "QE", "YS", "YE", "B"]


def receipts(*rows: tuple[str, str, object], **more: list[object]) -> pa.Table:
    store, at, quantity = zip(*rows, strict=True)
    moments = pa.array([datetime.fromisoformat(text) for text in at], pa.timestamp("us"))
    return pa.table({"store": list(store), "at": moments, "quantity": list(quantity), **more})


def checked(raw: pa.Table, sales: SalesTable = SALES, frequency: str = "D", negatives: str = "quarantine"):
    return check_rows(raw, sales, now=NOW, negatives=negatives, frequency=frequency)


def values(raw: pa.Table, sales: SalesTable = SALES, frequency: str = "D") -> list[tuple[str, datetime, float]]:
    found = checked(raw, sales, frequency).rows.sort_by([("series_id", "ascending"), ("ds", "ascending")])
    return list(zip(*(found[name].to_pylist() for name in ("series_id", "ds", "y")), strict=True))


DAY, NEXT = datetime(2024, 5, 1), datetime(2024, 5, 2)
FOUR = receipts(("A", "2024-05-01 09:00", 2), ("A", "2024-05-01 18:00", 3), ("B", "2024-05-01 10:00", 5),
                ("A", "2024-05-02 00:00", 7))  # fmt: skip


def test_receipts_of_a_day_are_summed():
    assert values(FOUR) == [("A", DAY, 5.0), ("A", NEXT, 7.0), ("B", DAY, 5.0)]
    assert checked(FOUR).quarantined.num_rows == 0


def test_without_aggregation_receipts_after_the_first_are_duplicates():
    plain = checked(FOUR, replace(SALES, aggregate=()))
    assert plain.reasons == {"duplicate": 1}


@pytest.mark.parametrize(
    ("how", "first_day"),
    [("sum", 5.0), ("mean", 2.5), ("min", 2.0), ("max", 3.0), ("first", 2.0), ("last", 3.0), ("count", 2.0),
     ("count_distinct", 2.0)],
)  # fmt: skip
def test_every_way_to_aggregate_a_target(how: str, first_day: float):
    shuffled = FOUR.take(pa.array([1, 3, 0, 2]))  # first and last are told by time, not by the order of rows
    assert values(shuffled, replace(SALES, aggregate=(("quantity", how),)))[0] == ("A", DAY, first_day)


def test_rows_can_be_counted_by_a_column_of_texts():
    sales = replace(SALES, target="order", aggregate=(("order", "count_distinct"),))
    raw = FOUR.append_column("order", pa.array(["o1", "o1", "o2", None]))
    assert values(raw, sales) == [("A", DAY, 1.0), ("B", DAY, 1.0)]
    assert checked(raw, sales).reasons == {"missing_target": 1}
    assert values(raw, replace(sales, aggregate=(("order", "count"),))) == [("A", DAY, 2.0), ("B", DAY, 1.0)]


def test_returns_lower_the_sum_and_only_a_negative_sum_is_quarantined():
    raw = receipts(("A", "2024-05-01 09:00", 5), ("A", "2024-05-01 10:00", -2), ("B", "2024-05-01 10:00", -1))
    found = checked(raw)
    assert found.rows["y"].to_pylist() == [3.0]
    assert found.reasons == {"negative": 1}
    assert "the sum of quantity is -1.0" in found.quarantined["detail"][0].as_py()
    assert found.series["store"].to_pylist() == ["A"]
    assert sorted(checked(raw, negatives="allow").rows["y"].to_pylist()) == [-1.0, 3.0]


def test_a_bad_receipt_is_quarantined_alone():
    raw = pa.table({"store": ["A"] * 4, "at": pa.array([DAY] * 4, pa.timestamp("us")), "quantity": ["1", "x", "", "4"]})
    found = checked(raw)
    assert found.rows["y"].to_pylist() == [5.0]
    assert found.reasons == {"not_a_number": 1, "missing_target": 1}


def test_covariates_are_aggregated_by_kind_or_as_the_settings_say():
    raw = receipts(*((("A", f"2024-05-01 0{hour}:00", 1)) for hour in range(1, 4)),
                   price=[1.0, 2.0, 6.0], promo=[0, 1, 0], event=["a", None, "b"])  # fmt: skip
    sales = replace(SALES, known=("price", "promo", "event"))
    (row,) = checked(raw, sales).rows.to_pylist()
    assert (row["price"], row["promo"], row["event"]) == (3.0, 1.0, "b")
    dearest = replace(sales, aggregate=(("price", "max"), ("quantity", "sum")))
    assert checked(raw, dearest).rows["price"].to_pylist() == [6.0]


@pytest.mark.parametrize(
    ("frequency", "stamp"),
    [
        ("D", "2024-05-01"),
        ("W-MON", "2024-04-29"),
        ("MS", "2024-05-01"),
        ("ME", "2024-05-31"),
        ("QE", "2024-06-30"),
        ("YS", "2024-01-01"),
    ],
)
def test_quarters_of_an_hour_feed_any_coarser_frequency(frequency: str, stamp: str):
    moments = [f"2024-05-01 {minutes // 60:02}:{minutes % 60:02}" for minutes in range(0, 24 * 60, 15)]
    raw = receipts(*(("A", moment, 1) for moment in moments))
    assert values(raw, frequency=frequency) == [("A", datetime.fromisoformat(stamp), 96.0)]
    assert len(values(raw, frequency="h")) == 24


# --- Periods ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("frequency", [*COARSE, "D"])
def test_every_day_belongs_to_the_one_period_that_has_its_label(frequency: str):
    days = pd.date_range("2019-12-20", "2021-01-10")
    marks = labels(days.to_numpy("datetime64[us]"), frequency)
    for day, mark in zip(days, marks.tolist(), strict=True):
        first, after = period_of(day.to_pydatetime(), frequency)
        assert first <= day < after
        assert first <= mark < after
        assert labels(np.array([first, after - timedelta(days=1)], "datetime64[us]"), frequency).tolist() == [mark] * 2
        assert labels(np.array([first - timedelta(days=1)], "datetime64[us]"), frequency)[0] != np.datetime64(mark)
        assert labels(np.array([mark], "datetime64[us]"), frequency).tolist() == [mark]
    assert is_coarse(frequency) == (frequency != "D")


def test_labels_are_those_of_pandas_where_it_labels_by_first_or_last_day():
    days = pd.date_range("2019-12-20", "2021-01-10")
    for frequency in ("MS", "ME", "QS", "QE", "YS", "YE"):
        told = pd.Series(1, days).resample(frequency).sum()
        mine = pd.Series(labels(days.to_numpy("datetime64[us]"), frequency)).value_counts().sort_index()
        assert mine.index.tolist() == told.index.tolist()
        assert mine.tolist() == told.tolist()


def test_months_dated_on_the_30th_are_taken_as_their_months():
    """The 30th is not in February: dates of months, weeks or quarters need not be the label's own."""
    raw = receipts(("A", "2024-01-30", 1), ("A", "2024-02-29", 2), ("A", "2024-03-30", 3))
    months = [datetime(2024, month, 1) for month in (1, 2, 3)]
    assert [ds for _, ds, _ in values(raw, replace(SALES, aggregate=()), "MS")] == months
    assert [ds for _, ds, _ in values(raw, replace(SALES, aggregate=()), "ME")] == [
        datetime(2024, 1, 31), datetime(2024, 2, 29), datetime(2024, 3, 31),
    ]  # fmt: skip


def test_one_week_dated_on_another_weekday_stays_a_week():
    raw = receipts(("A", "2024-04-29", 1), ("A", "2024-05-07", 2), ("A", "2024-05-13", 3))
    mondays = [datetime(2024, 4, 29), datetime(2024, 5, 6), datetime(2024, 5, 13)]
    assert [ds for _, ds, _ in values(raw, replace(SALES, aggregate=()), "W-MON")] == mondays


def test_an_aggregation_that_the_column_cannot_take_is_refused():
    rows = pa.table({"g": ["a", "a"], "v": [1.0, 2.0]})
    assert aggregate(rows, ["g"], {"v": "sum"})["v"].to_pylist() == [3.0]
    with pytest.raises((InputError, pa.ArrowException)):
        aggregate(rows.set_column(1, "v", pa.array(["x", "y"])), ["g"], {"v": "sum"})
