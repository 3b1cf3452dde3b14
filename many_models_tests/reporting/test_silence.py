"""Realised accuracy on days without a row: they are judged as what the settings say that a missing row means."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.forecasting import Spec
from many_models.ports import Filter
from many_models.reporting.actuals import actual_parts
from many_models.settings import DataSettings, Settings

CUTOFF = datetime(2024, 6, 2)  # a Sunday; forecast are the seven days after it, of which five have come
AS_OF = CUTOFF + timedelta(days=5)
DAYS = [CUTOFF + timedelta(days=step) for step in range(1, 8)]


def lake_of(rows: list[tuple[str, datetime, float]], forecast: float = 1.0) -> MemoryLake:
    """Rows of sales, and forecasts of `forecast` a day for the series a__x and b__x."""
    lake = MemoryLake()
    names, ds, y = (list(column) for column in zip(*rows, strict=True))
    lake.replace("raw_sales", pa.table({
        "series_id": names, "ds": pa.array(ds, pa.timestamp("us")), "y": y, "pack": ["p"] * len(y),
        "year": [2024] * len(y),
    }), Filter(), ("year",))  # fmt: skip
    lake.replace("predictions", pa.table({
        "series_id": ["a__x"] * 7 + ["b__x"] * 7, "ds": pa.array(DAYS * 2, pa.timestamp("us")),
        "cutoff": pa.array([CUTOFF] * 14, pa.timestamp("us")), "cutoff_date": ["2024-06-02"] * 14,
        "y_hat": [forecast] * 14,
    }), Filter(), ("cutoff_date",))  # fmt: skip
    return lake


def accuracy(lake: MemoryLake, **missing: Any) -> dict[str, dict[str, object]]:
    settings = Settings(data=DataSettings(keys=["store", "item"]))
    spec = Spec("D", horizon=7, **missing)
    parts = actual_parts(settings, lake, AS_OF, {}, {}, ["2024-06-02"], spec)
    rows = [row for part in parts if part.table == "accuracy" for row in part.rows.to_pylist()]
    return {row["series_id"]: row for row in rows}


SOLD_ONCE = [("a__x", DAYS[1], 1.0), *(("b__x", day, 1.0) for day in DAYS[:5])]


def test_a_till_that_exports_sales_alone_is_judged_on_all_days_that_have_come() -> None:
    """Forecasts of one a day, one sale in five days: on the old code a WAPE of 0 over the one day with a row."""
    assert accuracy(lake_of(SOLD_ONCE))["a__x"]["wape"] == 0.0
    found = accuracy(lake_of(SOLD_ONCE), missing="zero")
    assert (found["a__x"]["periods"], found["a__x"]["wape"], found["a__x"]["bias"]) == (5, 4.0, 4.0)
    assert found["b__x"] == accuracy(lake_of(SOLD_ONCE))["b__x"]


@pytest.mark.parametrize(
    ("missing", "periods"),
    [({"missing": "closed"}, 5), ({"missing_on": ((0, "closed"),)}, 2), ({"missing_at": (("a", "zero"),)}, 5),
     ({"missing_at": (("b", "zero"),)}, 1), ({"missing": "zero", "missing_on": ((0, "unknown"),)}, 4)],
)  # fmt: skip
def test_weekdays_and_stores_have_their_own_meaning(missing: dict[str, Any], periods: int) -> None:
    assert accuracy(lake_of(SOLD_ONCE), **missing)["a__x"]["periods"] == periods


def test_a_day_whose_row_is_in_quarantine_is_no_day_without_a_row() -> None:
    lake = lake_of(SOLD_ONCE)
    bad = pa.table({"series_id": ["a__x"], "ds": pa.array([DAYS[3]], pa.timestamp("us")), "origin": ["dated"]})
    lake.replace("quarantine", bad, Filter(), ())
    assert accuracy(lake, missing="zero")["a__x"]["periods"] == 4


def test_a_series_without_any_row_is_judged_too() -> None:
    found = accuracy(lake_of([row for row in SOLD_ONCE if row[0] == "b__x"]), missing="zero")["a__x"]
    assert (found["periods"], found["actual"], found["wape"]) == (5, 0.0, None)
