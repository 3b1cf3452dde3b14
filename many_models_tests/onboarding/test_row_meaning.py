"""What several rows of a period mean, and what a period without a row means: by evidence."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from many_models.onboarding.guess import infer_settings
from many_models.onboarding.questions import questions_of
from many_models.onboarding.report_page import report_page
from many_models.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from many_models.onboarding.inferred import InferredSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sales(days: int = 400, rate: float = 20.0, series: int = 8, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    dates = pd.date_range("2024-01-01", periods=days)
    frames = [
        pd.DataFrame({"store": f"s{n % 2}", "item": f"i{n}", "date": dates, "units": rng.poisson(rate, days)})
        for n in range(series)
    ]
    return pd.concat(frames, ignore_index=True)


def guessed(tmp_path: Path, frame: pd.DataFrame, **given: object) -> InferredSettings:
    path = tmp_path / "t.parquet"
    frame.to_parquet(path, index=False)
    return infer_settings(str(path), now=NOW, **{"keys": ["store", "item"], **given})  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 2.0])
def test_rows_only_when_sold_mean_zero(tmp_path: Path, rate: float) -> None:
    frame = sales(rate=rate, days=700)
    found = guessed(tmp_path, frame[frame["units"] > 0])
    assert found.missing.value == "zero"
    assert f"its mean is {rate:.1g}"[:13] in found.missing.reason or rate > 0.1
    assert "where it is not known" in found.missing.reason


def test_weekdays_without_rows_are_closed(tmp_path: Path) -> None:
    frame = sales()
    found = guessed(tmp_path, frame[frame["date"].dt.dayofweek != 6])
    assert found.missing_on.value == {"sunday": "closed"}
    assert found.missing.value == "unknown"


def test_closed_weekdays_beside_rows_only_when_sold(tmp_path: Path) -> None:
    frame = sales(rate=0.4, days=700)
    found = guessed(tmp_path, frame[(frame["date"].dt.dayofweek < 5) & (frame["units"] > 0)])
    assert found.missing_on.value == {"saturday": "closed", "sunday": "closed"}
    assert found.missing.value == "zero"


def test_days_without_a_row_of_a_whole_store_are_closed(tmp_path: Path) -> None:
    frame = sales()
    rng = np.random.default_rng(2)
    shut = {store: set(rng.choice(frame["date"].unique(), 40, replace=False)) for store in ("s0", "s1")}
    gone = [day in shut[store] for store, day in zip(frame["store"], frame["date"].to_numpy(), strict=True)]
    assert guessed(tmp_path, frame[~np.array(gone)]).missing.value == "closed"


def mixed(tills: set[str], gaps: float = 0.1) -> pd.DataFrame:
    """Four stores that sell half a unit a day; `tills` write rows for sales alone, the others lose some rows."""
    frame = sales(rate=0.5, series=12).assign(
        store=lambda rows: "s" + rows["item"].str[1:].astype(int).mod(4).astype(str)
    )
    lost = np.random.default_rng(3).random(len(frame)) < gaps
    return frame[np.where(frame["store"].isin(tills), frame["units"] > 0, ~lost)]


@pytest.mark.slow
def test_a_till_beside_stores_that_write_zeros_has_its_own_meaning(tmp_path: Path) -> None:
    found = guessed(tmp_path, mixed({"s2"}))
    assert (found.missing.value, found.missing_at.value) == ("unknown", {"s2": "zero"})
    (question,) = [asked for asked in questions_of(found) if asked.about == "missing"]
    assert question.options[0].text == "unknown: not known: not learned from; at s2: nothing was sold"
    assert "1 of 4 values of store write rows for sales only (s2)" in question.text
    assert "<td>missing_at</td><td>s2 zero</td>" in report_page(found)
    (tmp_path / "many_models.toml").write_text(found.to_toml("sqlite:///x.db"))
    assert load_settings(tmp_path / "many_models.toml").data.missing_at == {"s2": "zero"}
    everywhere = guessed(tmp_path, mixed({"s2"}), **question.options[1].change)
    assert (everywhere.missing.value, everywhere.missing_at.value) == ("zero", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tills", "gaps", "missing", "at"),
    [
        ({"s2"}, 0.0, "unknown", {"s2": "zero"}),
        ({"s0", "s1", "s2"}, 0.1, "zero", {"s3": "unknown"}),
        ({"s0", "s1", "s2"}, 0.0, "zero", {}),
        ({"s0", "s1", "s2", "s3"}, 0.0, "zero", {}),
        (set(), 0.1, "unknown", {}),
    ],
)
def test_each_store_has_its_own_evidence(
    tmp_path: Path, tills: set[str], gaps: float, missing: str, at: dict[str, str]
) -> None:
    found = guessed(tmp_path, mixed(tills, gaps))
    assert (found.missing.value, found.missing_at.value) == (missing, at)


@pytest.mark.slow
def test_lost_records_and_recorded_zeros_are_unknown(tmp_path: Path) -> None:
    frame = sales()
    lost = (frame["item"].isin(["i1", "i4"])) & frame["date"].between("2024-05-01", "2024-08-01")
    assert guessed(tmp_path, frame[~lost]).missing.value == "unknown"
    zeros = sales(rate=0.5)
    kept = np.random.default_rng(3).random(len(zeros)) > 0.2
    assert guessed(tmp_path, zeros[kept]).missing.value == "unknown"


@pytest.mark.slow
def test_a_measure_that_is_never_near_zero_is_not_zero_where_it_is_missing(tmp_path: Path) -> None:
    frame = sales(rate=900.0)
    second = frame["date"].dt.dayofyear % 2 == 0
    assert guessed(tmp_path, frame[second]).missing.value == "unknown"
    random = np.random.default_rng(6).random(len(frame)) > 0.3
    assert guessed(tmp_path, frame[random]).missing.value == "unknown"


def test_a_full_table_is_neither_asked_about_nor_aggregated(tmp_path: Path) -> None:
    found = guessed(tmp_path, sales())
    assert (found.missing.value, found.missing.confidence, found.aggregate.value) == ("unknown", "sure", "")
    assert questions_of(found) == []


def receipts(minutes: bool = True) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    frame = sales(days=120, rate=1.0, series=4).loc[lambda rows: rows.index.repeat(4)].reset_index(drop=True)
    frame["units"] = rng.integers(1, 5, len(frame))
    if minutes:
        frame["date"] += pd.to_timedelta(rng.integers(8 * 60, 20 * 60, len(frame)), unit="min")
    frame["receipt_id"] = np.arange(len(frame))
    frame["unit_price"] = rng.uniform(1, 9, len(frame)).round(2)
    return frame


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [True, False])
def test_receipts_are_summed_up_to_days(tmp_path: Path, *, minutes: bool) -> None:
    found = guessed(tmp_path, receipts(minutes), keys=())
    assert (found.keys.value, found.target.value) == (("store", "item"), "units")
    assert (found.frequency.value, found.aggregate.value, found.missing.value) == ("D", "sum", "zero")
    assert found.known.value == ()  # the price differs from receipt to receipt


@pytest.mark.slow
def test_two_rows_a_day_are_days_and_a_row_at_nine_is_a_day(tmp_path: Path) -> None:
    frame = sales(days=200)
    two = pd.concat([frame.assign(date=frame["date"] + pd.Timedelta(hours=hour)) for hour in (9, 18)])
    found = guessed(tmp_path, two)
    assert (found.frequency.value, found.aggregate.value) == ("D", "sum")
    found = guessed(tmp_path, frame.assign(date=frame["date"] + pd.Timedelta(hours=9)))
    assert (found.frequency.value, found.aggregate.value) == ("D", "sum")


def test_a_coarser_frequency_is_summed_up_to(tmp_path: Path) -> None:
    assert guessed(tmp_path, sales(days=200), frequency="W-MON").aggregate.value == "sum"


def test_an_export_loaded_twice_is_not_summed_up(tmp_path: Path) -> None:
    frame = sales(days=100)
    found = guessed(tmp_path, pd.concat([frame, frame]))
    assert found.aggregate.value == ""
    assert "loaded twice" in found.aggregate.reason


def test_one_row_on_another_weekday_leaves_weekly_data_weekly(tmp_path: Path) -> None:
    frame = sales(days=30)
    frame["date"] = pd.Timestamp("2024-01-01") + (frame["date"] - frame["date"].min()) * 7
    frame.loc[frame["date"] == frame["date"].unique()[7], "date"] += pd.Timedelta(days=1)
    found = guessed(tmp_path, frame)
    assert (found.frequency.value, found.aggregate.value) == ("W-MON", "sum")


def test_months_on_the_thirtieth_are_months(tmp_path: Path) -> None:
    frame = sales(days=36)
    ends = pd.date_range("2021-01-01", periods=36, freq="MS")
    day = {
        date: end + pd.Timedelta(days=min(29, end.days_in_month - 1))
        for date, end in zip(frame["date"].unique(), ends, strict=True)
    }
    found = guessed(tmp_path, frame.assign(date=frame["date"].map(day)))
    assert (found.frequency.value[0], found.aggregate.value) == ("M", "sum")


def test_a_typing_error_in_a_year_does_not_move_the_start(tmp_path: Path) -> None:
    frame = sales()
    frame.loc[3, "date"] = pd.Timestamp("1926-01-04")
    found = guessed(tmp_path, frame)
    assert str(found.start) == "2024-01-01"
    assert any("1926-01-04" in warning and "typing errors" in warning for warning in found.warnings)


@pytest.mark.slow
def test_the_plan_in_the_same_table_becomes_a_table_of_the_future(tmp_path: Path) -> None:
    frame = sales().assign(promo=lambda rows: (rows["date"].dt.day < 4).astype(int))
    frame["units"] = frame["units"].astype(float)
    frame.loc[frame["date"] > "2025-01-20", "units"] = np.nan
    found = guessed(tmp_path, frame)
    assert (found.covariates_table.value, found.known.value, str(found.last)) == (
        "sales_plan",
        ("promo",),
        "2025-01-20",
    )
    assert not any("missing values" in warning for warning in found.warnings)


@pytest.mark.slow
def test_names_written_in_two_ways_are_one_series(tmp_path: Path) -> None:
    frame = sales(series=4)
    late = frame["date"] > "2024-08-01"
    frame.loc[late & (frame["item"] == "i1"), "item"] = "I1 "
    frame["store"] = frame["store"].where(~late, frame["store"].str.upper())
    found = guessed(tmp_path, frame)
    assert found.series == 4
    assert found.variants == {"item": {"I1 ": "i1"}, "store": {"S0": "s0", "S1": "s1"}}
    both = pd.concat([sales(series=4), sales(series=4).assign(item=lambda rows: rows["item"].str.upper())])
    two = guessed(tmp_path, both)
    assert two.variants == {}  # both sell on the same days: two items
    assert any("names in item that differ in case, blanks or accents alone" in told for told in two.warnings)
    assert not any("that differ in case" in told for told in found.warnings)


@pytest.mark.slow
def test_a_strong_promotion_is_no_leak_and_a_random_flag_not_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    frame = sales(rate=100.0, series=2)
    frame["promo"] = (rng.random(len(frame)) < 0.15).astype(int)
    frame["units"] = 100 + 900 * frame["promo"] + rng.integers(0, 3, len(frame))
    frame["flag"] = (rng.random(len(frame)) < 0.5).astype(int)
    found = guessed(tmp_path, frame)
    assert found.known.value == ("promo",)


@pytest.mark.slow
def test_the_settings_have_what_rows_mean(tmp_path: Path) -> None:
    found = guessed(tmp_path, receipts(), keys=())
    (tmp_path / "many_models.toml").write_text(found.to_toml("sqlite:///x.db"))
    data = load_settings(tmp_path / "many_models.toml").data
    assert (data.aggregate, data.missing, data.missing_on) == ("sum", "zero", {})
    frame = sales()
    closed = guessed(tmp_path, frame[frame["date"].dt.dayofweek != 6])
    (tmp_path / "many_models.toml").write_text(closed.to_toml("sqlite:///x.db"))
    assert load_settings(tmp_path / "many_models.toml").data.missing_on == {"sunday": "closed"}


@pytest.mark.slow
def test_questions_are_asked_where_the_answer_changes_forecasts(tmp_path: Path) -> None:
    frame = sales(rate=0.3, days=600)
    found = guessed(tmp_path, frame[frame["units"] > 0])
    asked = {question.about: question for question in questions_of(found)}
    assert asked["missing"].options[1].change in ({"missing": "closed"}, {"missing": "unknown"})
    assert "its mean is" in asked["missing"].text
    assert "aggregate" in {question.about for question in questions_of(guessed(tmp_path, receipts(), keys=()))}


# --- Rows that are sales ----------------------------------------------------------------------------------------------
def orders(rng: np.random.Generator, days: int = 400, rate: float = 0.05, series: int = 30) -> pd.DataFrame:
    """A row for each order line: many a day in all, of one series one in twenty days."""
    parts = [
        pd.DataFrame({"date": pd.Timestamp("2024-01-01") + pd.Timedelta(days=day), "item": f"i{item}"}, index=[0])
        for day in range(days)
        for item in range(series)
        for _ in range(rng.poisson(rate))
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.slow
def test_rows_without_a_quantity_are_counted_and_not_summed_up_by_their_receipt(tmp_path: Path) -> None:
    frame = orders(np.random.default_rng(1), days=200, rate=1.5, series=6)
    found = guessed(tmp_path, frame.assign(ticket=1 + np.arange(len(frame)) // 2), keys=["item"])
    assert (found.target.value, found.aggregate.value, found.missing.value) == ("ticket", "count", "zero")


def test_orders_of_any_size_are_sales_and_days_without_one_are_zero(tmp_path: Path) -> None:
    """Quantities of 20 to 50 an order are never near zero, and yet a day without an order sold nothing."""
    rng = np.random.default_rng(2)
    frame = orders(rng).drop_duplicates(ignore_index=True)
    frame = frame.assign(order_number=1000 + rng.permutation(len(frame)), quantity=rng.integers(20, 50, len(frame)))
    found = guessed(tmp_path, frame, keys=["item"])
    assert (found.target.value, found.missing.value) == ("quantity", "zero")
    assert "order_number" in found.missing.reason


def test_a_second_order_of_a_day_is_added_and_not_quarantined(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frame = orders(rng, rate=0.03, series=80)
    frame["quantity"] = rng.integers(1, 6, len(frame))
    found = guessed(tmp_path, frame, keys=["item"])
    assert 0 < frame.duplicated(["date", "item"]).mean() < 0.02
    assert (found.aggregate.value, found.missing.value) == ("sum", "zero")
    assert not any("quarantined" in text for text in found.warnings)


def test_a_few_repeated_rows_of_a_full_table_stay_duplicates(tmp_path: Path) -> None:
    frame = sales()
    again = frame.iloc[[3, 50, 90, 120]].assign(units=lambda rows: rows["units"] + 1)
    assert guessed(tmp_path, pd.concat([frame, again])).aggregate.value == ""


def test_lines_below_the_table_leave_one_series_one(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"Month": pd.date_range("2015-01-01", periods=80, freq="MS").strftime("%Y-%m"), "Sold": range(80)}
    )
    text = frame.assign(Sold=lambda rows: rows["Sold"] % 12 + 5).to_csv(index=False)
    (tmp_path / "sales.csv").write_text(text + ",\nSold by month 2015-2021,\n")
    found = infer_settings(str(tmp_path / "sales.csv"), now=NOW)
    assert (found.series, found.target.value, found.frequency.value) == (1, "Sold", "MS")
