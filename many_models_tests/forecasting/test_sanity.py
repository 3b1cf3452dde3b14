"""What may be published: bounds of forecasts and intervals, and priors that one odd series does not move."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from many_models.forecasting import Spec, prepare, train
from many_models.forecasting.priors import LARGEST, priors_from
from many_models.forecasting.sanity import FALLBACK, Seen, bounded, kin_level
from many_models_tests.forecasting.histories import AS_OF, SPEC, rows_of, sales, table

PLAIN = Seen(0.0, 36.0, 400, 12.0)


def rows(**series: tuple[float, float, float]) -> pa.Table:
    lines = [
        {"series_id": name, "y_hat": y, "lo80": low, "hi80": high, "lo95": low, "hi95": high, "fallback": ""}
        for name, (y, low, high) in series.items()
        for _ in range(2)
    ]
    return pa.Table.from_pylist(lines)


def within(forecasts: pa.Table, **seen: Seen) -> pd.DataFrame:
    found, _ = bounded(forecasts, seen, 10.0, kin_level(seen))
    return found.to_pandas().drop_duplicates("series_id").set_index("series_id")


def test_a_forecast_beyond_all_that_a_series_did_becomes_its_usual_value_and_says_so():
    found, beyond = bounded(rows(a=(1e6, 10.0, 2e8), b=(20.0, 5.0, 40.0)), {"a": PLAIN, "b": PLAIN}, 10.0, 36.0)
    frame = found.to_pandas().drop_duplicates("series_id").set_index("series_id")
    assert beyond == ["a"]
    assert (frame.loc["a", "y_hat"], frame.loc["a", "fallback"]) == (12.0, FALLBACK)
    assert frame.loc["a", "hi95"] == 360.0
    assert frame.loc["b"].to_dict() == rows(b=(20.0, 5.0, 40.0)).to_pandas().iloc[0].drop("series_id").to_dict()


def test_bounds_are_cut_and_stay_in_order_around_the_forecast():
    found = within(rows(a=(30.0, -5.0, 9470.0)), a=PLAIN)
    assert found.loc["a", ["y_hat", "lo80", "hi95"]].tolist() == [30.0, 0.0, 360.0]
    returns = within(rows(a=(30.0, -5.0, 50.0)), a=Seen(-4.0, 36.0, 400, 12.0))
    assert returns.loc["a", "lo95"] == -5.0  # of a series that has returns itself


def test_a_new_series_may_do_what_is_usual_among_its_kin():
    kin = {f"k{at}": PLAIN for at in range(5)}
    new = Seen(0.0, 0.0, 3, 0.0)
    assert within(rows(new=(30.0, 10.0, 50.0)), new=new, **kin).loc["new", "fallback"] == ""
    assert within(rows(new=(2e8, 10.0, 3e8)), new=new, **kin).loc["new", "fallback"] == FALLBACK


@pytest.mark.parametrize(("value", "width"), [(3.0, 4.4), (0.0, 1.9), (0.2, 0.3), (1000.0, 1900.0)])
def test_a_series_with_one_observation_gets_an_interval_with_a_width(value: float, width: float):
    found = within(rows(a=(value, value, value)), a=Seen(value, value, 1, value)).loc["a"]
    assert found["lo95"] <= found["lo80"] <= found["y_hat"] < found["hi80"] < found["hi95"]
    assert found["lo95"] >= 0
    assert found["hi95"] - found["lo95"] >= width


def test_no_other_series_changes_what_is_published_of_one():
    alone = within(rows(b=(20.0, -1.0, 40.0)), b=PLAIN)
    with_poison = within(rows(a=(1e14, 0.0, 1e15), b=(20.0, -1.0, 40.0)), a=Seen(-1e9, 1e12, 400, 1.0), b=PLAIN)
    pd.testing.assert_frame_equal(alone, with_poison.loc[["b"]])


def test_datasets_say_what_a_series_did_without_its_outliers():
    y = sales(300)
    y[250] = 1e6
    (row,) = prepare(table({"a": y}), SPEC, AS_OF).series.to_pylist()
    usable = np.delete(y, 250)
    assert (row["low"], row["high"]) == (usable.min(), usable.max())
    assert row["usual"] == np.median(y[-28:])


def test_a_positive_series_has_no_negative_bounds_where_another_has_returns():
    both = rows_of({"returns": sales(200) - 15.0, "positive": sales(200, level=1.0, seed=4)}, spec_with_returns())
    model = train(both, spec_with_returns(), AS_OF).model
    forecasts = model.predict(None)
    raw = both.select(["series_id", "ds", "y"])
    described = prepare(raw, spec_with_returns(), AS_OF).series.to_pylist()
    seen = {r["series_id"]: Seen(r["low"], r["high"], r["observations"], r["usual"]) for r in described}
    found = bounded(forecasts, seen, 10.0, kin_level(seen))[0].to_pandas()
    assert found[found["series_id"] == "positive"].filter(regex="^lo").to_numpy().min() >= 0
    assert found[found["series_id"] == "returns"].filter(regex="^lo").to_numpy().min() < 0


def spec_with_returns() -> Spec:
    return replace(SPEC, nonnegative=False)


# --- Priors -----------------------------------------------------------------------------------------------------------
def priors(**levels: float) -> dict[str, float]:
    parts = {name: ("store", name) for name in levels}
    return {name: prior.level for name, prior in priors_from(levels, parts, ["store", "item"]).items()}


@pytest.mark.parametrize("others", [2, 5, 200])
def test_one_item_that_is_sold_in_millions_makes_no_new_item_sell_millions(others: int):
    found = priors(new=0.0, weighed=1e9, **{f"i{at}": 10.0 for at in range(others)})
    assert 0 < found["new"] <= 10.0 * LARGEST
    assert found["new"] == pytest.approx(10.0, rel=0.5) or others < 20


def test_a_prior_is_the_mean_of_the_others_of_the_item_before_that_of_the_store():
    levels = {"a1": 4.0, "a2": 8.0, "b1": 6.0}
    parts = {"a1": ("a", "1"), "a2": ("a", "2"), "b1": ("b", "1")}
    found = priors_from(levels, parts, ["store", "item"])
    assert {name: (prior.level, prior.origin) for name, prior in found.items()} == {
        "a1": (6.0, "item"), "b1": (4.0, "item"), "a2": (4.0, "store"),
    }  # fmt: skip
    assert priors(only=3.0) == {}
