"""The table `drift` from a small lake: the newest window of the backtest first, then forecasts that have come true."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data import lake_tables
from many_models.orchestration.assets import drift
from many_models.ports import Filter, Source
from many_models.settings import Settings

SERIES = [f"s__{i:02d}" for i in range(40)]
STEPS, WINDOWS, SHIFT_DAYS = 28, 3, 14
CUTOFF = datetime(2024, 6, 30)
SETTINGS = Settings.model_validate({
    "data": {"keys": ["store", "item"]}, "drift": {"watch": True}, "forecast": {"horizon": STEPS, "windows": WINDOWS},
})  # fmt: skip


def rows(sold: np.ndarray) -> pa.Table:
    """The datasets of `sold` (series × days, NaN closed), which end at the cutoff."""
    days = [CUTOFF - timedelta(days=back) for back in range(sold.shape[1] - 1, -1, -1)]
    return pa.table({
        "series_id": [name for name in SERIES for _ in days], "ds": pa.array(days * len(SERIES), pa.timestamp("us")),
        "y": np.nan_to_num(sold).ravel(), "state": pa.array(np.where(np.isnan(sold), "closed", "observed").ravel()),
    })  # fmt: skip


def forecasts(cutoff: datetime) -> pa.Table:
    return pa.table({
        "series_id": [name for name in SERIES for _ in range(STEPS)], "step": [*range(1, STEPS + 1)] * len(SERIES),
        "ds": pa.array([cutoff + timedelta(days=k) for k in range(1, STEPS + 1)] * len(SERIES), pa.timestamp("us")),
        "y_hat": [100.0] * STEPS * len(SERIES), "fallback": pa.nulls(STEPS * len(SERIES), pa.string()),
        "cutoff": pa.array([cutoff] * STEPS * len(SERIES), pa.timestamp("us")),
        "cutoff_date": [f"{cutoff:%Y-%m-%d}"] * STEPS * len(SERIES),
    })  # fmt: skip


@pytest.fixture(name="sold")
def _sold() -> np.ndarray:
    rng = np.random.default_rng(4)
    sold = rng.poisson(100.0, (len(SERIES), STEPS * (WINDOWS + 1))).astype(float)
    sold[7, -SHIFT_DAYS:] *= 1.4
    return sold


def lake_of(sold: np.ndarray, forecast_at: list[datetime]) -> MemoryLake:
    """A lake whose backtest ends at the first of `forecast_at`."""
    lake = MemoryLake()
    lake.replace("store_item_datasets", rows(sold), Filter())
    lake.replace("predictions", pa.concat_tables([forecasts(at) for at in forecast_at]), Filter())
    ends = sold.shape[1] - (CUTOFF - forecast_at[0]).days
    windows = [
        {"series_id": name, "window": w + 1, "y": own[begin : begin + STEPS].tolist(), "y_hat": [100.0] * STEPS,
         "cutoff": forecast_at[0] - timedelta(days=ends - begin)}
        for name, own in zip(SERIES, sold, strict=True)
        for w, begin in enumerate(range(ends - STEPS * WINDOWS, ends, STEPS))
    ]  # fmt: skip
    lake.replace("backtest_paths", pa.Table.from_pylist(windows), Filter())
    return lake


def drifted(lake: MemoryLake) -> dict[str, dict[str, Any]]:
    made = drift.make(SETTINGS, cast("Source", None), lake, f"{CUTOFF:%Y-%m-%d}")
    return {row["series_id"]: row for row in made.tables[lake_tables.DRIFT].to_pylist() if row["drifted"]}


@pytest.mark.slow
def test_on_the_first_night_a_shift_is_found_in_the_newest_window(sold: np.ndarray) -> None:
    found = drifted(lake_of(sold, [CUTOFF]))
    assert list(found) == [SERIES[7]]
    assert (found[SERIES[7]]["kind"], found[SERIES[7]]["direction"]) == ("level", "up")
    assert found[SERIES[7]]["began_at"] == CUTOFF - timedelta(days=SHIFT_DAYS - 1)
    assert found[SERIES[7]]["alarmed_at"] == CUTOFF
    assert found[SERIES[7]]["widen"] > 1.5


@pytest.mark.slow
def test_later_it_is_found_in_the_forecasts_that_have_come_true(sold: np.ndarray) -> None:
    """The backtest ends before the shift; each night of the last 18 days has made a forecast."""
    nights = [CUTOFF - timedelta(days=back) for back in range(18, -1, -1)]
    found = drifted(lake_of(sold, nights))
    assert list(found) == [SERIES[7]]
    assert found[SERIES[7]]["began_at"] >= CUTOFF - timedelta(days=SHIFT_DAYS)
    assert found[SERIES[7]]["direction"] == "up"


def test_a_closed_day_that_was_forecast_as_an_open_one_is_no_drift(sold: np.ndarray) -> None:
    """Each third day a holiday that no model knows of: there is no actual, and not one of zero."""
    nights = [CUTOFF - timedelta(days=back) for back in range(18, -1, -1)]
    sold[:, ::3] = np.nan
    assert list(drifted(lake_of(sold, nights))) == [SERIES[7]]
