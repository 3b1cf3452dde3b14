"""Every raw row is either usable or quarantined with its reason; nothing is lost."""

from __future__ import annotations

import json
import math
import re
import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.data.row_checks import (
    EARLIEST,
    LARGEST_TARGET,
    REASONS,
    CheckedRows,
    Kind,
    check_columns,
    check_rows,
    empty_quarantine,
)
from many_models.errors import InputError
from many_models.keys import SeriesKey
from many_models.ports import SalesTable

SALES = SalesTable("sales", ("store", "item"), "date", "sales", ("price", "promotion"))
NOW = datetime(2024, 6, 1)
DAY = datetime(2024, 5, 1)


def raw_table(target: list[object], **columns: object) -> pa.Table:
    """One raw row for each value of the target, one day after the other, unless `columns` say otherwise."""
    count = len(target)
    whole: dict[str, object] = {
        "store": ["1"] * count,
        "item": ["a"] * count,
        "date": pa.array([DAY + timedelta(days=n) for n in range(count)], pa.timestamp("us")),
        "sales": target,
        "price": [1.5] * count,
        "promotion": [False] * count,
    }
    return pa.table(whole | columns)


def checked(raw: pa.Table, negatives: str = "quarantine", frequency: str = "D", now: datetime = NOW) -> CheckedRows:
    assert negatives in {"allow", "quarantine"}
    return check_rows(raw, SALES, now=now, negatives=negatives, frequency=frequency)  # pyright: ignore[reportArgumentType]


def only_reason(raw: pa.Table, **rules: object) -> dict[str, object]:
    quarantined = checked(raw, **rules).quarantined.to_pylist()  # pyright: ignore[reportArgumentType]
    assert len(quarantined) == 1
    return quarantined[0]


def test_good_rows_go_on_under_fixed_names() -> None:
    out = checked(raw_table([3, 4]))
    assert out.rows.to_pylist() == [
        {"series_id": "1__a", "ds": DAY, "y": 3.0, "price": 1.5, "promotion": 0.0},
        {"series_id": "1__a", "ds": DAY + timedelta(days=1), "y": 4.0, "price": 1.5, "promotion": 0.0},
    ]
    assert out.series.to_pylist() == [{"series_id": "1__a", "store": "1", "item": "a"}]
    assert out.quarantined.schema == empty_quarantine().schema
    assert out.reasons == {}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "missing_target"),
        (math.nan, "missing_target"),
        (math.inf, "infinite"),
        (-math.inf, "infinite"),
        (-0.5, "negative"),
        (LARGEST_TARGET * 2, "too_large"),
    ],
)
def test_a_number_that_cannot_be_used_is_quarantined(value: float | None, reason: str) -> None:
    out = checked(raw_table([1.0, value, 2.0]))
    assert out.rows["y"].to_pylist() == [1.0, 2.0]
    assert out.reasons == {reason: 1}
    (row,) = out.quarantined.to_pylist()
    assert (row["series_id"], row["ds"]) == ("1__a", DAY + timedelta(days=1))
    assert json.loads(row["row"])["date"] == "2024-05-02 00:00:00"
    assert "sales" in row["detail"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "missing_target"),
        ("  ", "missing_target"),
        ("NaN", "missing_target"),
        (None, "missing_target"),
        ("n/a", "not_a_number"),
        ("1,5", "not_a_number"),
        ("0x10", "not_a_number"),
        ("1_000", "not_a_number"),
        ("٣", "not_a_number"),
        ("1e999", "infinite"),
        ("-inf", "infinite"),
        ("Infinity", "infinite"),
        ("-3", "negative"),
    ],
)
def test_text_in_the_target_is_quarantined_for_what_it_is(text: str | None, reason: str) -> None:
    out = checked(raw_table(["1", text, " 2.50 "]))
    assert out.rows["y"].to_pylist() == [1.0, 2.5]
    assert out.reasons == {reason: 1}


@given(st.floats(min_value=0, max_value=1e14) | st.integers(min_value=0, max_value=10**14))
def test_a_number_written_as_text_is_the_number(number: float) -> None:
    assert checked(raw_table([str(number)])).rows["y"].to_pylist() == [float(number)]


def test_negatives_pass_where_the_settings_allow_them() -> None:
    assert checked(raw_table([-1.0]), negatives="allow").rows["y"].to_pylist() == [-1.0]


def test_a_day_to_come_is_quarantined_and_today_is_not() -> None:
    dates = pa.array([datetime(2024, 6, 1), datetime(2024, 6, 2)], pa.timestamp("us"))
    out = checked(raw_table([1, 1], date=dates), now=datetime(2024, 6, 1, 0, 30))
    assert out.rows["ds"].to_pylist() == [datetime(2024, 6, 1)]
    assert out.reasons == {"after_now": 1}


def test_now_with_a_zone_counts_in_utc() -> None:
    dates = pa.array([datetime(2024, 6, 1, 1)], pa.timestamp("us"))
    east = timezone(timedelta(hours=2))
    assert checked(raw_table([1], date=dates), frequency="h", now=datetime(2024, 6, 1, 2, tzinfo=east)).reasons == {
        "after_now": 1
    }
    assert checked(raw_table([1], date=dates), frequency="h", now=datetime(2024, 6, 1, 2, tzinfo=UTC)).reasons == {}


@pytest.mark.parametrize("text", ["31.12.2024", "", "2024-13-01", None, "💥"])
def test_rows_without_a_date_are_quarantined_whole(text: str | None) -> None:
    row = only_reason(raw_table([1], date=pa.array([text], pa.string())))
    assert (row["reason"], row["ds"], row["series_id"]) == ("bad_timestamp", None, "1__a")
    assert json.loads(str(row["row"]))["date"] == text


def test_what_databases_write_for_no_date_is_no_date() -> None:
    for never in (datetime(1899, 12, 30), datetime(1, 1, 1), EARLIEST - timedelta(days=1)):
        assert only_reason(raw_table([1], date=pa.array([never], pa.timestamp("us"))))["reason"] == "bad_timestamp"


def test_the_first_usable_row_of_a_day_is_kept_and_the_others_are_duplicates() -> None:
    same_day = pa.array([DAY] * 5, pa.timestamp("us"))
    out = checked(raw_table([None, 7.0, 7.0, 8.0, -1.0], date=same_day))
    assert out.rows["y"].to_pylist() == [7.0]
    assert out.quarantined["reason"].to_pylist() == ["missing_target", "duplicate", "duplicate", "negative"]
    same, other = out.quarantined["detail"].to_pylist()[1:3]
    assert "same in every column" in same
    assert "differs" in other


def test_the_same_day_in_two_series_is_no_duplicate() -> None:
    same_day = pa.array([DAY] * 3, pa.timestamp("us"))
    out = checked(raw_table([1, 2, 3], date=same_day, store=["1", "1", "2"], item=["a", "b", "a"]))
    assert out.rows["series_id"].to_pylist() == ["1__a", "1__b", "2__a"]


def test_the_time_of_day_is_cut_off_unless_the_frequency_is_finer() -> None:
    dates = pa.array([datetime(2024, 5, 1, 9, 30), datetime(2024, 5, 1, 17, 45)], pa.timestamp("us"))
    raw = raw_table([1, 2], date=dates)
    assert checked(raw, frequency="D").reasons == {"duplicate": 1}
    assert checked(raw, frequency="MS").rows["ds"].to_pylist() == [DAY]
    assert checked(raw, frequency="h").rows["ds"].to_pylist() == [datetime(2024, 5, 1, 9), datetime(2024, 5, 1, 17)]
    assert checked(raw, frequency="30min").rows["ds"].to_pylist() == dates.to_pylist()


def test_known_covariates_become_numbers_or_text_and_never_cost_a_row() -> None:
    raw = raw_table([1, 1, 1], price=["1.5", "free", "inf"], promotion=pa.array([True, None, False]))
    kinds: dict[str, Kind] = {"price": "number", "promotion": "number"}
    out = check_rows(raw, SALES, now=NOW, negatives="allow", frequency="D", kinds=kinds)
    assert out.rows["price"].to_pylist() == [1.5, None, None]
    assert out.rows["promotion"].to_pylist() == [1.0, None, 0.0]
    assert out.unread_known == {"price": 2}
    assert checked(raw).rows["price"].to_pylist() == ["1.5", "free", "inf"]


def test_a_part_of_a_text_column_that_holds_only_numbers_stays_text() -> None:
    raw = raw_table([1, 1], price=pa.array([3.0, None]), promotion=pa.nulls(2))
    out = check_rows(
        raw, SALES, now=NOW, negatives="allow", frequency="D", kinds={"price": "text", "promotion": "text"}
    )
    assert out.rows["price"].to_pylist() == ["3", None]
    assert out.rows.schema.field("promotion").type == pa.string()


def test_a_series_without_a_usable_row_is_not_listed() -> None:
    out = checked(raw_table([1, None], item=["a", "b"]))
    assert out.series["series_id"].to_pylist() == ["1__a"]
    assert out.quarantined["series_id"].to_pylist() == ["1__b"]


def test_an_empty_table_gives_empty_tables_of_the_same_types() -> None:
    full = checked(raw_table([1]))
    out = checked(raw_table([1]).slice(0, 0))
    assert out.rows.schema == full.rows.schema
    assert out.series.schema == full.series.schema
    assert out.quarantined.schema == full.quarantined.schema


PARTS = st.text(max_size=4) | st.sampled_from(
    ["", "__", "_", "a__b", "/", "'", '"', "🍎", "..", "%", "\x00", "...", "a, b"]
)
VALUES = st.one_of(st.none(), st.floats(), st.floats(min_value=0, max_value=1e3), st.integers(0, 3).map(float))
ROWS = st.lists(st.tuples(PARTS, PARTS | st.none(), st.integers(0, 40), VALUES), max_size=40)


@pytest.mark.slow
@given(ROWS, st.booleans())
def test_no_row_is_lost_whatever_the_keys_hold(
    rows: list[tuple[str, str | None, int, float | None]], as_text: bool
) -> None:
    target = [row[3] for row in rows]
    raw = raw_table(
        target,
        store=pa.array([row[0] for row in rows], pa.string()),
        item=pa.array([row[1] for row in rows], pa.string()),
        date=pa.array([DAY + timedelta(days=row[2]) for row in rows], pa.timestamp("us")),
        sales=pa.array([None if y is None else str(y) for y in target], pa.string())
        if as_text
        else pa.array(target, pa.float64()),
    )
    out = checked(raw)
    assert _slow_check(rows) == (
        list(zip(*(out.rows[name].to_pylist() for name in ("series_id", "ds", "y")), strict=True)),
        list(zip(*(out.quarantined[name].to_pylist() for name in ("series_id", "ds", "reason")), strict=True)),
    )
    for series in out.series.to_pylist():
        assert SeriesKey.parse(series["series_id"]).parts == (series["store"], series["item"])
    assert len(set(out.series["series_id"].to_pylist())) == out.series.num_rows
    assert set(out.reasons) <= set(REASONS)
    for row in out.quarantined["row"].to_pylist():
        assert list(json.loads(row, parse_constant=_refuse)) == list(SALES.columns)


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def _slow_check(rows: list[tuple[str, str | None, int, float | None]]) -> tuple[list[object], list[object]]:
    """The rules once more, one row at a time."""
    good: list[object] = []
    bad: list[object] = []
    seen: set[tuple[str, int]] = set()
    for store, item, day, y in rows:
        series_id = SeriesKey((store, item or "")).series_id
        ds = DAY + timedelta(days=day)
        if ds > NOW:
            reason = "after_now"
        elif y is None or math.isnan(y):
            reason = "missing_target"
        elif math.isinf(y):
            reason = "infinite"
        elif abs(y) > LARGEST_TARGET:
            reason = "too_large"
        elif y < 0:
            reason = "negative"
        elif (series_id, day) in seen:
            reason = "duplicate"
        else:
            seen.add((series_id, day))
            good.append((series_id, ds, y))
            continue
        bad.append((series_id, ds, reason))
    return good, bad


def test_missing_columns_are_all_named_with_what_is_there() -> None:
    with pytest.raises(InputError) as caught:
        check_columns({"Store": "string", "itm": "string", "date": "timestamp[us]", "sales": "double"}, SALES)
    text = str(caught.value)
    assert "no column 'store' (did you mean 'Store'?)" in text
    assert "no column 'item' (did you mean 'itm'?)" in text
    assert "no column 'price';" in text
    assert "'Store', 'itm', 'date', 'sales'" in text


GOOD = {
    "store": "string",
    "item": "int64",
    "date": "timestamp[us]",
    "sales": "double",
    "price": "double",
    "promotion": "bool",
}


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ("sales", "timestamp[us]"),
        ("sales", "bool"),
        ("sales", "binary"),
        ("date", "int64"),
        ("date", "double"),
        ("item", "double"),
        ("store", "binary"),
        ("price", "list<item: double>"),
    ],
)
def test_a_column_of_a_wrong_type_is_named_with_its_type(column: str, kind: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"{column!r} is {kind}")):
        check_columns({**GOOD, column: kind}, SALES)


def test_what_sqlite_calls_text_may_still_be_numbers() -> None:
    assert check_columns({**GOOD, "sales": "string", "date": "string", "price": "string"}, SALES) == {
        "price": "text",
        "promotion": "number",
    }
    assert check_columns({**GOOD, "price": "decimal128(10, 2)"}, SALES)["price"] == "number"


@pytest.mark.slow
def test_a_million_rows_take_about_a_second() -> None:
    days, series = 1000, 1000
    dates = np.datetime64("2020-01-01", "us") + np.arange(days) * np.timedelta64(1, "D")
    raw = raw_table(
        list(range(1000)) * series,
        store=np.repeat(np.arange(10), days * series // 10).astype(str),
        item=np.tile(np.repeat(np.arange(100), days), 10).astype(str),
        date=np.tile(dates, series),
    )
    started = time.process_time()
    out = checked(raw)
    assert out.rows.num_rows == days * series
    assert time.process_time() - started < 5  # 0.5 s on an idle core
