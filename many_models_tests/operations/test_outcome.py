"""What a run says of its series, and when it has come to nothing."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.data import lake_tables
from many_models.errors import SettingsError
from many_models.forecasting import prepare
from many_models.operations.day import StageReport, refuse_unknown_series
from many_models.operations.outcome import counted, line_of_outcome, nothing_forecast
from many_models.orchestration.copied_settings import (
    copied_with,
    not_copied_so,
    refuse_other_names,
    retire_vanished,
)
from many_models.ports import Filter
from many_models.settings import DataSettings, PromotionSettings, Settings
from many_models_tests.forecasting.histories import AS_OF, SPEC, sales, table


def report(stage: str, done: int, failed: int) -> StageReport:
    return StageReport(stage, done + failed, done, failed, 1.0, "run", "why" if failed else "")  # type: ignore[arg-type]


def test_series_are_counted_by_what_came_of_them():
    outcome = counted(
        [
            {"series_id": "a", "fallback": "", "known_repeated": True},
            {"series_id": "b", "fallback": "zero", "known_repeated": False},
        ],
        [{"series_id": "c", "set_aside": True}, {"series_id": "d", "set_aside": False}],
        [
            {"series_id": "a", "active": True, "why": "silent since 2024-01-01"},
            {"series_id": "e", "active": False, "why": "ended 2024-01-01"},
        ],
    )
    assert outcome == {"done": 1, "fallback": 1, "failed": 1, "set_aside": 1, "stale": 1, "assumed": 1}
    told = line_of_outcome(outcome)
    assert told.startswith("series: 1 forecast by a model, 1 by a fallback, 1 failed, 1 set aside, 1 silent for long")
    assert line_of_outcome({"done": 3}) == "series: 3 forecast by a model"


@pytest.mark.parametrize(
    ("reports", "rows", "says"),
    [
        ([report("raw_sales", 3, 0), report("predictions", 3, 0)], 84, ""),
        ([report("trained_models", 2, 1)], 56, ""),
        ([], 84, ""),
        ([], 0, "nothing was forecast: no series has a forecast at the newest cutoff"),
        ([report("store_item_datasets", 0, 6)], 84, "store_item_datasets failed for all of its 6 series. why"),
    ],
)
def test_a_run_that_forecast_nothing_says_so(reports: list[StageReport], rows: int, says: str):
    told = nothing_forecast(reports, rows)
    assert (told == "") == (says == "")
    assert says in told


def test_a_series_that_fell_silent_is_forecast_and_marked():
    quiet = np.r_[sales(200), np.full(60, np.nan)]
    series = {
        row["series_id"]: row for row in prepare(table({"q": quiet, "a": sales(260)}), SPEC, AS_OF).series.to_pylist()
    }
    assert series["q"]["active"]
    assert series["q"]["why"] == f"silent since {series['q']['last']:%Y-%m-%d}"
    assert series["a"]["why"] == ""


def test_a_pinned_series_that_does_not_exist_is_told_with_the_nearest():
    lake = MemoryLake()
    settings = Settings(promotion=PromotionSettings(pinned=["s1__i1", "s1__i9"]))
    refuse_unknown_series(settings, lake)  # before the first copy there is nothing to compare with
    lake.replace("series_keys", pa.table({"series_id": ["s1__i1", "s2__i2"]}), Filter())
    with pytest.raises(
        SettingsError, match=r"promotion.pinned names 's1__i9', .* \(did you mean s1__i1\?\): write store__item"
    ):
        refuse_unknown_series(settings, lake)


# --- What was copied with which settings ------------------------------------------------------------------------------
CHANGES = [
    {"target": "revenue"}, {"timestamp": "day"}, {"frequency": "h"}, {"negatives": "allow"}, {"aggregate": "sum"},
    {"timezone": "Europe/Berlin"}, {"aggregate": {"sales": "mean"}},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_were_copied_with_other_settings_are_copied_again(change: dict[str, object]):
    other = Settings(data=DataSettings(**change))  # type: ignore[arg-type]
    before, now = copied_with(Settings(), []), copied_with(other, [])
    tags = {
        "2024-01-01": {"many_models/copied_with": before},
        "2024-01-02": {"many_models/copied_with": now},
        "old": {},
    }
    assert not_copied_so(tags, now) == {"2024-01-01"}
    assert not_copied_so(tags, copied_with(Settings(), ["price"])) == {"2024-01-01", "2024-01-02"}
    refuse_other_names(before, Settings(), now)


@pytest.mark.parametrize("keys", [["item", "store"], ["store"], ["store", "sku"]])
def test_other_keys_are_refused_with_what_to_do(keys: list[str]):
    settings = Settings(data=DataSettings(keys=keys))
    with pytest.raises(SettingsError, match=f"data.keys are {', '.join(keys)}, .* start in a new folder"):
        refuse_other_names(copied_with(Settings(), []), settings, copied_with(settings, []))
    refuse_other_names("", settings, copied_with(settings, []))


def test_a_horizon_or_country_is_no_reason_to_copy_again():
    assert copied_with(Settings(), []) == copied_with(Settings(data=DataSettings(country="DE", missing="zero")), [])


def test_series_whose_rows_are_gone_have_ended():
    lake = MemoryLake()
    moment = datetime(2024, 1, 1)
    series = pa.table({
        "series_id": ["a", "b"], "active": [True, True], "why": ["", ""], "digest": ["x", "y"], "pack": ["p", "p"],
        "ds": [moment, moment],
    })  # fmt: skip
    lake.replace(lake_tables.SERIES.name, series, Filter(), lake_tables.SERIES.partition_by)
    lake.replace(lake_tables.RAW_VERSIONS.name, pa.table({"series_id": ["b"], "year": [2024]}), Filter(), ("year",))
    assert retire_vanished(lake) == ["a"]
    rows = {row["series_id"]: (row["active"], row["why"]) for row in lake.read(lake_tables.SERIES.name).to_pylist()}
    assert rows == {"a": (False, "its rows are gone from the source"), "b": (True, "")}
    assert retire_vanished(lake) == []
