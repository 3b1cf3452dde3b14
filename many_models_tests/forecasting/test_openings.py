"""The list of openings: rows of closed times are no demand, closed series are no silent ones, nothing is forecast."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from many_models.data.findings import of_strangers
from many_models.data.openings import Openings, from_source, sold_while_closed
from many_models.data.pack_file import in_memory, joined, parted
from many_models.data.release_index import PackId
from many_models.errors import InputError, IntegrityError
from many_models.forecasting import PackModel, prepare, train
from many_models.forecasting.explanation import explain
from many_models.forecasting.gaps import alive
from many_models.forecasting.openings import zero_where_closed
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.reporting.silence import while_open
from many_models.serving.loaded_pack import LoadedPack, Observation, Question
from many_models_tests.forecasting.histories import AS_OF, SPEC, sales, table

KEYS = ("store", "item")
TODAY = AS_OF.date()


def day(ahead: int) -> date:
    return TODAY + timedelta(days=ahead)


def listed(*rows: tuple[object, ...], told: list[str] | None = None) -> pa.Table:
    """The list of rows (store, item, opens, closes), as the lake holds it."""
    columns = zip(*rows, strict=True)
    return from_source(pa.table(dict(zip([*KEYS, "opens", "closes"], columns, strict=True))), KEYS, told)


def openings(*rows: tuple[object, ...], frequency: str = "D") -> Openings:
    return Openings.of(listed(*rows), KEYS, frequency)


def spans(*rows: tuple[object, ...], series: str = "new__tea", frequency: str = "D") -> list[tuple[str, str]]:
    found = openings(*rows, frequency=frequency).of_series([series]).get(series, ())

    def text(at: int) -> str:
        return "" if abs(at) == loader.FAR else str(loader.stamps(np.array([at]), frequency)[0])[:10]

    return [(text(first), text(last)) for first, last in found]


def test_a_series_is_open_while_all_that_names_it_is() -> None:
    rows = [
        ("new", "", "2023-05-02", None),
        (None, "tea", None, "2023-08-01"),
        ("new", "tea", "2023-06-01", "2024-01-01"),
        ("old", "tea", "2020-01-01", None),
    ]
    assert spans(*rows) == [("2023-06-01", "2023-08-01")]
    assert spans(*rows, series="new__milk") == [("2023-05-02", "")]
    assert spans(*rows, series="other__milk") == []


def test_two_rows_about_one_name_are_a_closed_time_between_them() -> None:
    assert spans(("new", None, None, "2023-02-10"), ("new", None, "2023-03-18", "")) == [
        ("", "2023-02-10"),
        ("2023-03-18", ""),
    ]


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [
        ("W-MON", ("2023-05-01", "2023-07-31")),
        ("MS", ("2023-05-01", "2023-08-01")),
        ("ME", ("2023-05-31", "2023-08-31")),
    ],
)
def test_a_period_that_is_open_in_part_is_open(frequency: str, expected: tuple[str, str]) -> None:
    assert spans(("new", None, "2023-05-04", "2023-08-02"), frequency=frequency) == [expected]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([("new", None, "2023-05-02", "2023-05-01")], "closes on 2023-05-01, before it opens on 2023-05-02"),
        ([("new", None, "2023-01-01", "2023-06-01"), ("new", "", "2023-05-02", None)], "opens within that time"),
        ([("new", None, "2023-01-01", None), ("new", None, "2023-05-02", None)], "open until ever"),
        ([("new", None, "spring", None)], "'spring' to None are not days"),
    ],
)
def test_rows_that_contradict_are_told_and_leave_the_others_as_they_are(
    bad: list[tuple[object, ...]], why: str
) -> None:
    told = list[str]()
    good = ("old", "tea", "2023-02-03", "2024-02-03")
    assert listed(good, *bad, told=told).equals(listed(good))
    assert len(told) == 1
    assert "cannot be used for 1 of its names, which are open throughout: new: " in told[0]
    assert why in told[0]


def test_a_list_without_keys_or_days_says_so() -> None:
    with pytest.raises(InputError, match="none of the keys store, item"):
        from_source(pa.table({"shop": ["new"], "opens": ["2023-01-01"]}), KEYS)
    with pytest.raises(InputError, match="neither opens nor closes, it has store"):
        from_source(pa.table({"store": ["new"]}), KEYS)


def test_names_without_sales_and_sales_of_closed_times_are_told() -> None:
    rows = listed(
        ("New ", None, "2023-01-01", None), ("gone", "tea", None, "2023-06-30"), ("x", None, None, "2023-01-01")
    )
    (told,) = of_strangers(rows, KEYS, ["new__tea", "gone__tea"], "the list of openings")
    assert "names New  (did you mean new?), x, and there are no sales of them" in told
    sold = {"gone__tea": (datetime(2023, 1, 1), datetime(2023, 7, 4)), "new__tea": (AS_OF, AS_OF)}
    (told,) = sold_while_closed(Openings.of(rows, KEYS, "D"), sold, "D")
    assert "says closed: gone__tea on 2023-07-04. They are not used" in told


# --- Datasets -------------------------------------------------------------------------------------------------------
NAMES = ("gone__tea", "new__tea", "rebuilt__tea", "same__tea")
LIST = [
    ("gone", None, None, day(-30)),
    ("new", None, day(-60), None),
    ("rebuilt", None, None, day(-120)),
    ("rebuilt", None, day(-20), day(3)),
    ("rebuilt", None, day(6), None),
]


@cache
def raw() -> pa.Table:
    """A table that is filled with zeros where a store was closed; the new one sold at fifty to try its tills."""
    y = np.array([sales(200, seed=at) for at in range(4)])
    y[0, -30:] = 0.0
    y[1, :140] = 0.0
    y[1, 100] = 50.0
    y[2, -120:-20] = 0.0
    return table(dict(zip(NAMES, y, strict=True)))


def prepared(*rows: tuple[object, ...]):
    return prepare(raw(), SPEC, AS_OF, openings=openings(*rows).of_series(NAMES) if rows else {})


def of_series(rows: pa.Table, name: str) -> pa.Table:
    return rows.filter(pc.equal(rows["series_id"], name))


def test_rows_before_the_opening_and_after_the_closing_are_no_history() -> None:
    found = prepared(*LIST)
    described = {row["series_id"]: row for row in found.series.to_pylist()}
    assert described["new__tea"]["first"].date() == day(-60)
    assert described["new__tea"]["high"] < 50.0
    assert described["gone__tea"]["last"].date() == day(-30)
    assert (described["gone__tea"]["active"], described["gone__tea"]["why"]) == (False, f"closed after {day(-30)}")
    assert found.outside == {"gone__tea": 30, "new__tea": 139, "rebuilt__tea": 99}


def test_a_time_between_two_openings_is_closed_without_a_value() -> None:
    rows = of_series(prepared(*LIST).rows, "rebuilt__tea").slice(80, 99)
    assert set(rows["state"].to_pylist()) == {"closed"}
    assert rows["y"].null_count == 99
    assert of_series(prepared(*LIST).rows, "rebuilt__tea")["state"].to_pylist().count("closed") == 99


def test_series_that_the_list_does_not_name_stay_exactly_as_they_are() -> None:
    with_list, without = prepared(*LIST), prepared()
    assert of_series(with_list.rows, "same__tea").equals(of_series(without.rows, "same__tea"))
    assert of_series(with_list.series, "same__tea").equals(of_series(without.series, "same__tea"))


def test_a_closed_time_is_no_silence_and_a_late_closing_ends_nothing() -> None:
    """Rows end 110 days ago, more than the 90 that end a daily series; it is closed for 100 of them, or not at all."""
    y = np.concatenate([sales(90), np.full(110, np.nan)])
    for rows, active in (((), False), ((("new", None, None, day(-105)), ("new", None, day(-5), None)), True),
                         ((("new", None, None, day(5)),), False)):  # fmt: skip
        of = openings(*rows).of_series(["new__tea"]) if rows else {}
        series = prepare(table({"new__tea": y}), SPEC, AS_OF, openings=of).series.to_pylist()[0]
        assert series["active"] == active
        first, last = (np.array([series[name]], "datetime64[us]") for name in ("first", "last"))
        stamp = np.datetime64(AS_OF, "us")
        assert alive(SPEC, ["new__tea"], np.array([90]), first, last, stamp, of).tolist() == [active]


def test_actuals_of_closed_times_judge_no_forecast() -> None:
    kept = while_open(raw(), openings(*LIST), SPEC)
    assert of_series(kept, "same__tea").num_rows == 200
    assert of_series(kept, "new__tea").num_rows == 61


# --- Models ---------------------------------------------------------------------------------------------------------
@cache
def trained(known: bool = True) -> PackModel:
    rows = prepared(*LIST).rows
    rows = rows.filter(pc.not_equal(rows["series_id"], "gone__tea"))
    return train(rows, SPEC, AS_OF, openings=openings(*LIST).of_series(NAMES) if known else {}).model


def test_nothing_is_forecast_while_closed_and_the_rest_is_as_without() -> None:
    """Closed on the fourth and the fifth day ahead."""
    found, without = (trained(known).predict(None) for known in (True, False))
    numbers = [name for name in found.column_names if name == "y_hat" or name[:2] in {"lo", "hi"}]
    closed = np.isin(np.arange(7), [3, 4])
    for name in NAMES[1:]:
        one, other = (of_series(rows, name) for rows in (found, without))
        for column in numbers:
            values, expected = one[column].to_numpy(), other[column].to_numpy()
            assert (values == np.where(closed & (name == "rebuilt__tea"), 0.0, expected)).all(), (name, column)
    assert of_series(without, "rebuilt__tea")["y_hat"].to_numpy().min() > 0


def test_an_older_model_forecasts_nothing_while_closed_either() -> None:
    predictions, changed = zero_where_closed(trained(known=False).predict(None), openings(*LIST).of_series(NAMES), "D")
    assert changed == {"rebuilt__tea"}
    assert predictions.equals(trained().predict(None))


def test_parts_of_a_forecast_add_up_where_it_is_closed() -> None:
    told = explain(trained(), None, None, series=["rebuilt__tea"]).to_pandas()
    predicted = of_series(trained().predict(None), "rebuilt__tea")["y_hat"].to_numpy()
    assert told.groupby("step")["value"].sum().to_numpy() == pytest.approx(predicted, abs=1e-6)


def test_packs_of_both_kinds_go_together_and_apart() -> None:
    two = [trained().select(["rebuilt__tea"]), trained(known=False).select(["same__tea"])]
    merged = PackModel.merge(two)
    assert merged.index["open"] == [*trained().select(["rebuilt__tea"]).spans, []]
    assert PackModel.from_files(merged.files()).predict(None).equals(pa.concat_tables([m.predict(None) for m in two]))


@pytest.mark.parametrize("spans", [[], [[[1, 2]]], [[[2, 1]], [], []], [[["x", 1]], [], []], [[[1]], [], []]])
def test_a_pack_with_odd_spans_is_refused(spans: object) -> None:
    with pytest.raises(IntegrityError, match="open does not have spans"):
        PackModel.from_files(PackModel({**trained().index, "open": spans}, trained().arrays).files())


def test_the_endpoint_answers_as_the_dataset_of_the_same_rows_is() -> None:
    """Sales on a closed day are no observation there either, and a gap in a closed time is none that means zero."""
    end = AS_OF + timedelta(days=8)
    y = np.array([20.0, 18.0, 25.0, 40.0, 0.0, 22.0, 19.0, 21.0])
    rows = pa.concat_tables([raw(), table({"rebuilt__tea": y}, last=end)])
    fresh = prepare(rows, SPEC, end, openings=openings(*LIST).of_series(NAMES)).rows
    expected = trained().predict(fresh, end, series=["rebuilt__tea"])
    block = in_memory(joined(trained().files()))
    pack = LoadedPack(PackId("pack/1", "0" * 64), block, parted(memoryview(block)))
    seen = [Observation(AS_OF + timedelta(days=at), value) for at, value in enumerate(y.tolist(), 1)]
    row = trained().series.index("rebuilt__tea")
    found = json.loads(pack.answer(Question("rebuilt__tea", observations=seen), row) + b"}")
    assert found["y_hat"] == pytest.approx(expected["y_hat"].to_pylist(), rel=1e-6)
