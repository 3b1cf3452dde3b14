"""What follows where a series drifted: its own forecasts only, with the reason, and by how much."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from many_models.adapters.lake.memory import MemoryLake
from many_models.decisions.drift import drift_table, watch
from many_models.decisions.drift_answers import COLUMN, Drifted, answered, widening
from many_models.orchestration import refits, stage_state
from many_models.ports import Filter
from many_models.settings import Settings

DRIFTED = {"b": Drifted("level", "up", "2024-06-20", 2.5)}
ROWS = pa.table({
    "series_id": ["a", "b", "b", "c"], "y_hat": [4.0, 10.0, 2.0, 0.1 + 0.2], "lo80": [2.0, 8.0, 0.5, 0.1],
    "hi80": [6.0, 13.0, 3.0, 0.7], "fallback": [None, None, None, "no_champion"],
})  # fmt: skip


def settings(answer: str) -> Settings:
    return Settings.model_validate({"data": {"keys": ["item"]}, "drift": {"watch": True, "answer": answer}})


def test_an_interval_is_widened_about_its_forecast_for_the_drifted_series() -> None:
    found = answered(ROWS, DRIFTED, "widen", nonnegative=True)
    own = found.slice(1, 2).to_pylist()
    assert [(row["lo80"], row["y_hat"], row["hi80"]) for row in own] == [(5.0, 10.0, 17.5), (0.0, 2.0, 4.5)]
    said = "interval 2.5 times as wide: drift of its level, actuals above the forecasts, noticed 2024-06-20"
    assert [row[COLUMN] for row in own] == [said] * 2
    assert answered(ROWS, DRIFTED, "widen", nonnegative=False)["lo80"].to_pylist()[2] == -1.75


@pytest.mark.parametrize("answer", ["widen", "baseline"])
def test_forecasts_of_other_series_stay_exactly_as_they_were(answer: str) -> None:
    poison = {"b": replace(DRIFTED["b"], factor=np.inf), "unknown": DRIFTED["b"]}
    for drifted in (DRIFTED, poison, {}):
        found = answered(ROWS, drifted, answer, nonnegative=True)  # type: ignore[arg-type]
        others = pa.array([True, False, False, True])
        assert found.drop_columns([COLUMN]).filter(others).equals(ROWS.filter(others))
        assert found.filter(others)[COLUMN].null_count == 2


def test_a_baseline_says_in_its_fallback_that_drift_is_why() -> None:
    found = answered(ROWS, DRIFTED, "baseline", nonnegative=True)
    assert found["fallback"].to_pylist() == [None, "drift", "drift", "no_champion"]
    assert found["hi80"].equals(ROWS["hi80"])
    assert found[COLUMN].to_pylist()[1].startswith("seasonal naive: drift of its level")


def test_the_factor_makes_the_band_hold_what_came_since_the_drift_began() -> None:
    """Against the errors that were drawn: 80 % of sizes from the shift on lie within the widened band."""
    rng = np.random.default_rng(3)
    sizes = np.where(np.arange(90) >= 60, 2.5, 1.0)
    z = rng.normal(size=(300, 90)) * sizes
    z[:100] = rng.normal(size=(100, 90))
    found = watch(np.clip(z, -4, 4), 0.001)
    factors = widening(z, found)
    assert (factors[found.alarm < 0] == 1.0).all()
    shifted = np.flatnonzero(found.alarm >= 60)
    assert len(shifted) > 150
    assert (found.began[shifted] <= found.alarm[shifted]).all()
    assert float((found.began[shifted] >= 55).mean()) > 0.9
    held = [(np.abs(z[i, found.began[i] :]) <= 1.2816 * factors[i]).mean() for i in shifted]
    assert float(np.mean(held)) == pytest.approx(0.8, abs=0.04)


def test_predictions_are_due_for_a_drifted_series_until_its_drift_is_over() -> None:
    """Again neither each night that the drift lasts, nor for other series, nor where people are only asked."""
    lake, datasets = MemoryLake(), {"a": "1", "b": "1"}

    def versions(answer: str, date: str, *, drifted: bool, widen: float = 2.0) -> dict[str, str]:
        rows = pa.table({
            "series_id": ["a", "b"], "drifted": [False, drifted], "kind": [None, "level"], "direction": [None, "up"],
            "alarmed_at": pa.array([None, datetime(2024, 6, 1)], pa.timestamp("us")), "widen": [1.0, widen],
            "cutoff_date": [date] * 2,
        })  # fmt: skip
        lake.replace("drift", rows, Filter(among={"cutoff_date": [date]}), ("cutoff_date",))
        of_series = stage_state.prediction_versions(settings(answer), lake, datasets)
        return {name: of_series(name) for name in datasets}

    steady = versions("widen", "2024-06-01", drifted=False)
    alarmed = versions("widen", "2024-06-02", drifted=True)
    assert alarmed["a"] == steady["a"]
    assert alarmed["b"] != steady["b"]
    assert refits.drift_answers(settings("widen"), lake)["b"].factor == 2.0
    assert versions("widen", "2024-06-03", drifted=True, widen=3.0) == alarmed
    assert versions("baseline", "2024-06-03", drifted=True)["b"] not in {alarmed["b"], steady["b"]}
    assert versions("ask", "2024-06-03", drifted=True) == steady
    assert versions("widen", "2024-06-04", drifted=False) == steady


def test_the_table_of_drift_has_the_factor_and_where_the_drift_began() -> None:
    z = np.zeros((2, 40))
    z[1, 25:] = 3.0
    found = watch(z, 0.001)
    days = np.datetime64("2024-01-01", "us") + np.arange(40) * np.timedelta64(1, "D")
    rows = drift_table(["a", "b"], days, found, widening(z, found), 30).to_pylist()
    assert (rows[0]["began_at"], rows[0]["widen"]) == (None, 1.0)
    assert rows[1]["began_at"] <= rows[1]["alarmed_at"]
    assert rows[1]["widen"] == pytest.approx(3.0 / 1.2816, rel=1e-3)
