"""People's changes: one counts for each series and day, levels are spread, and what cannot count is listed."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from many_models.decisions.overrides import NO_CHANGE, Changed, change, entered_by, final_table, value_added
from many_models.errors import InputError

CUTOFF = datetime(2024, 6, 30)
DS = np.array(["2024-07-01", "2024-07-02", "2024-07-03"], "datetime64[us]")
SERIES = ["s0__i0", "s0__i1", "s1__i0"]
VALUES = {name: {"store": name[:2], "item": name[4:]} for name in SERIES}
Y_HAT = np.array([[10.0, 10, 10], [30.0, 30, 30], [5.0, 5, 5]])


def row(**values: object) -> dict[str, object]:
    return {
        "store": None, "item": None, "from": "2024-07-01", "to": "2024-07-01", "action": "set", "value": "8",
        "author": "ann", "reason": "fair", "entered_at": "2024-06-01", "expires": None,
    } | values  # fmt: skip


def changed(*rows: dict[str, object]) -> Changed:
    texts = [{name: None if value is None else str(value) for name, value in row.items()} for row in rows]
    return change(pa.Table.from_pylist(texts), ["store", "item"], SERIES, VALUES, Y_HAT, DS, CUTOFF)


def reasons(found: Changed) -> str:
    return " | ".join(f"{p['row']}: {p['reason']}" for p in found.problems.to_pylist())


def test_set_add_and_multiply_change_their_own_days_and_nothing_else() -> None:
    found = changed(
        row(store="s0", item="i0"),
        row(store="s0", item="i1", action="add", value=-5.0, **{"from": "2024-07-02", "to": "2024-07-03"}),
        row(store="s1", item="i0", action="multiply", value="2"),
    )
    assert found.final.tolist() == [[8, 10, 10], [30, 25, 25], [10, 5, 5]]
    assert (found.by == NO_CHANGE).sum() == 5
    assert found.problems.num_rows == 0


def test_a_level_is_spread_by_the_models_proportions() -> None:
    found = changed(
        row(store="s0", value=80), row(action="add", value=45.0, **{"from": "2024-07-03", "to": "2024-07-03"})
    )
    assert found.final[:, 0].tolist() == [20.0, 60.0, 5.0]
    assert found.final[:, 2].tolist() == [20.0, 60.0, 10.0]


def test_the_more_special_then_the_newer_one_counts_and_conflicts_are_listed() -> None:
    found = changed(
        row(store="s0", item="i0", value=1, entered_at="2024-06-02", author="new"),
        row(store="s0", item="i0", value=2, entered_at="2024-06-01", author="old"),
        row(store="s0", value=400, entered_at="2024-06-09", author="boss"),
    )
    assert found.final[0, 0] == 1.0
    assert found.final[1, 0] == 300.0
    said = reasons(found)
    assert "old): overruled for 1 series and days by the newer row 1" in said
    assert "boss): overruled for 1 series and days by the more special" in said


def test_bad_past_and_expired_overrides_change_nothing_and_the_rest_goes_on() -> None:
    good = row(store="s1", item="i0")
    alone = changed(good)
    found = changed(
        good, row(item="gone"), row(action="double"), row(value="lots"), row(to="2024-06-01"), row(to="the 7th"),
        row(expires="2024-06-15"), row(**{"from": "2024-07-05", "to": "2024-07-01"}), row(value=None), row(value=-3),
    )  # fmt: skip
    np.testing.assert_array_equal(found.final, alone.final)
    said = reasons(found)
    for words in ("no series that is forecast", "action is 'double'", "): value is 'lots', needed a number",
                  "): to is 'the 7th', needed a day as 2024-12-31", "expired on 2024-06-15",
                  "before it begins", "from, to and value are needed", "needed 0 or more"):  # fmt: skip
        assert words in said, words


def test_a_change_whose_key_has_a_misspelt_column_is_none_of_all_items() -> None:
    bad = {("Items" if name == "item" else name): value for name, value in row(store="s0", item="i1", id=7).items()}
    found = changed(bad, bad | {"store": "s1", "Items": None})
    assert found.by.tolist() == [[NO_CHANGE] * 3, [NO_CHANGE] * 3, [0, NO_CHANGE, NO_CHANGE]]
    assert reasons(found) == "row 1 (s0, ann): nothing reads its column Items: name it item, or leave the column out"


def test_a_change_by_an_attribute_that_no_level_names_is_none_of_all_items() -> None:
    """The other row fills in no such attribute, and holds."""
    rows = pa.Table.from_pylist([row(brand="A"), row(store="s1", brand=None)])
    found = change(rows, ["store", "item"], SERIES, VALUES, Y_HAT, DS, CUTOFF, attributes=["brand", "store"])
    assert {int(by) for by in found.by.flat} == {NO_CHANGE, 0}
    assert reasons(found).endswith(
        "nothing reads its column brand: name it in hierarchy.levels, or leave the column out"
    )


def test_the_last_day_of_hourly_data_is_meant_with_all_its_hours() -> None:
    hours = np.datetime64("2024-07-01T12:00", "us") + np.arange(24) * np.timedelta64(1, "h")
    rows = pa.Table.from_pylist([row(store="s0", item="i0", value="3")])
    found = change(
        rows, ["store", "item"], SERIES, VALUES, np.full((3, 24), 7.0), hours, datetime(2024, 7, 1, 11)
    )  # fmt: skip
    assert found.final[0].tolist() == [3.0] * 12 + [7.0] * 12
    assert found.problems.num_rows == 0


def test_a_change_within_a_period_that_began_earlier_is_told() -> None:
    weeks = np.array(["2024-07-01", "2024-07-08", "2024-07-15"], "datetime64[us]")
    texts = [row(store="s0", **{"from": "2024-07-03", "to": "2024-07-05"}),
             row(store="s1", **{"from": "2024-08-05", "to": "2024-08-09"})]  # fmt: skip
    found = change(pa.Table.from_pylist(texts), ["store", "item"], SERIES, VALUES, Y_HAT, weeks, datetime(2024, 6, 24))
    assert (found.by == NO_CHANGE).all()
    (problem,) = found.problems.to_pylist()  # the other one waits for its cutoff
    assert "no period of the data begins from 2024-07-03 to 2024-07-05" in problem["reason"]


def test_a_table_without_the_needed_columns_is_an_error() -> None:
    with pytest.raises(InputError, match="lacks from, to"):
        change(pa.table({"item": ["a"], "action": ["set"], "value": [1]}), ["item"], SERIES, VALUES, Y_HAT, DS, CUTOFF)


def test_the_final_forecast_is_beside_the_models() -> None:
    table = final_table(changed(row(store="s0", item="i0")), SERIES, Y_HAT, DS, CUTOFF).to_pylist()
    assert [(r["y_hat"], r["final"], r["author"]) for r in table[:2]] == [(10.0, 8.0, "ann"), (10.0, 10.0, None)]


def test_value_added_against_a_loop_over_the_rows() -> None:
    """Three made-up roles: one good, one bad, one noisy."""
    rng = np.random.default_rng(0)
    y = rng.uniform(5, 15, 300)
    model = y * rng.uniform(0.7, 1.3, 300)
    role = np.array(["good", "bad", "noisy"])[np.arange(300) % 3]
    final = np.where(
        role == "good", (model + y) / 2, np.where(role == "bad", model * 1.5, model * rng.uniform(0.95, 1.05, 300))
    )
    days = np.datetime64("2024-01-01", "us") + np.arange(300) * np.timedelta64(1, "D")
    rows = pa.table({
        "series_id": ["a"] * 300, "ds": pa.array(days),
        "y": y, "naive": pa.array([None, *y[:-1]], pa.float64()), "y_hat": model, "final": final, "author": role,
        "reason": ["promotion"] * 300,
    })  # fmt: skip
    found = value_added(rows).to_pandas()
    for name in ("good", "bad", "noisy"):
        mine = [i for i in range(300) if role[i] == name]
        people = sum(abs(final[i] - y[i]) for i in mine) / sum(y[i] for i in mine)
        own = found[found["author"] == name]
        assert own["abs_error_people"].sum() / own["abs_actual"].sum() == pytest.approx(people)
    by = found.groupby("author")[["abs_error_model", "abs_error_people"]].sum()
    assert by.loc["good", "abs_error_people"] < 0.6 * by.loc["good", "abs_error_model"]
    assert by.loc["bad", "abs_error_people"] > 1.5 * by.loc["bad", "abs_error_model"]
    assert set(found[found["author"] == "noisy"]["size"]) == {"small"}
    assert found["periods"].sum() == 300
    unknown = found["wape_naive"].isna()  # of the first day the day before is not there
    assert found[unknown][["author", "month"]].to_numpy().tolist() == [["good", "2024-01"]]
    assert found[unknown]["bias_naive"].isna().all()
    assert found["wape_model"].notna().all()


def test_only_what_was_written_in_time_counts_for_the_past() -> None:
    """Of a row without a usable date no one knows whether it was hindsight."""
    rows = pa.table({
        "author": ["early", "that day", "late", "unknown", "odd"],
        "entered_at": ["2024-06-01", "2024-06-30", "2024-07-01", None, "soon"],
    })  # fmt: skip
    assert entered_by(rows, CUTOFF)["author"].to_pylist() == ["early", "that day"]
    assert not entered_by(rows.drop_columns(["entered_at"]), CUTOFF).num_rows
