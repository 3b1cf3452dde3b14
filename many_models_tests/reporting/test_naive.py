"""The seasonal naive beside forecasts, against a slow way of its own."""

from __future__ import annotations

from datetime import datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_models.forecasting import Spec
from many_models.reporting.naive import with_naive

END = datetime(2024, 3, 31)
STAMP = pa.timestamp("us")


def tables(spec: Spec, series: list[str], gone: set[int]) -> tuple[pa.Table, pa.Table]:
    """Forecasts of a whole horizon, and the season before them without the rows that are `gone`."""
    season = spec.steps_per_season
    past = pd.date_range(
        end=pd.date_range(end=END, periods=1, freq=spec.frequency)[0], periods=season, freq=spec.frequency
    )
    coming = pd.date_range(past[-1], periods=spec.horizon + 1, freq=spec.frequency)[1:]
    sold = [
        {"series_id": name, "ds": ds.to_pydatetime(), "y": float(number * 1000 + at)}
        for number, name in enumerate(series)
        for at, ds in enumerate(past)
        if number * season + at not in gone
    ]
    asked = [
        {"series_id": name, "ds": ds.to_pydatetime(), "step": step}
        for name in series
        for step, ds in enumerate(coming, 1)
    ]
    kinds = [("series_id", pa.string()), ("ds", STAMP)]
    sales = pa.Table.from_pylist(sold, pa.schema([*kinds, ("y", pa.float64())]))
    return pa.Table.from_pylist(asked, pa.schema([*kinds, ("step", pa.int64())])), sales


@given(
    st.sampled_from(["D", "h", "W-SUN", "MS", "ME", "QS", "B"]), st.integers(1, 60), st.sets(st.integers(0, 60)),
    st.sampled_from(["zero", "unknown"]),
)  # fmt: skip
def test_each_forecast_has_the_observation_of_the_last_season(frequency, horizon, gone, missing):
    spec = Spec(frequency=frequency, horizon=horizon, missing=missing)
    asked, sales = tables(spec, ["a", "b"], gone)
    season = spec.steps_per_season
    found = with_naive(asked, sales, spec)
    assert found.drop_columns(["naive"]).equals(asked)
    for at, value in enumerate(found["naive"].to_pylist()):
        number, place = at // horizon, at % horizon % season
        lacks = number * season + place in gone
        assert value == ((0.0 if missing == "zero" else None) if lacks else number * 1000 + place)


def test_another_series_with_odd_rows_changes_nothing():
    spec = Spec(frequency="D", horizon=9)
    asked, sales = tables(spec, ["a", "b"], set())
    odd = pa.table(
        {"series_id": ["c", "c"], "ds": pa.array([END, END - timedelta(days=400)], STAMP), "y": [1e300, None]},
        sales.schema,
    )
    assert with_naive(asked, pa.concat_tables([odd, sales]), spec).equals(with_naive(asked, sales, spec))


def test_a_missing_row_means_zero_for_the_stores_that_the_settings_name():
    spec = Spec(frequency="D", horizon=3, missing_at=(("a", "zero"),))
    asked, sales = tables(spec, ["a", "b"], set())
    found = with_naive(asked, sales.slice(0, 0), spec)
    assert found["naive"].to_pylist() == [0.0 if name == "a" else None for name in asked["series_id"].to_pylist()]


def test_without_sales_nothing_is_known():
    spec = Spec(frequency="D", horizon=3)
    asked, sales = tables(spec, ["a"], set())
    assert with_naive(asked, sales.slice(0, 0), spec)["naive"].null_count == asked.num_rows


@pytest.mark.parametrize("missing", ["zero", "unknown"])
def test_an_observation_that_is_null_is_as_one_that_lacks(missing):
    spec = Spec(frequency="D", horizon=7, missing=missing)
    asked, sales = tables(spec, ["a"], set())
    none = sales.set_column(2, "y", pa.nulls(sales.num_rows, pa.float64()))
    assert with_naive(asked, none, spec)["naive"].to_pylist() == [0.0 if missing == "zero" else None] * 7
