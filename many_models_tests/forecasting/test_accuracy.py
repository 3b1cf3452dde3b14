"""What the selected forecast reaches on public tables, with the defaults: three windows, a step of one horizon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from many_models.forecasting import backtest
from many_models_tests.days.test_real_input import Folder
from many_models_tests.support.public_tables import public_set

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FLOORS = {
    "store_item": {"wape": 0.110},
    "m5_tiny": {"wape": 0.450, "mase": 0.98, "rmsse": 0.685, "bias": 0.05},
    "carparts": {"rmsse": 0.667, "mase": 1.17, "bias": 0.10},
}
pytestmark = [
    pytest.mark.public_tables,
    pytest.mark.long(
        "forecasting/test_backtesting.py::test_metrics_agree_with_a_slow_reckoning",
        "forecasting/test_backtesting.py::test_the_selected_forecast_beats_the_baseline",
    ),
]


def assert_above_floor(name: str, row: Mapping[str, float]) -> None:
    """`row`, the selected forecast: errors within the bounds of `name`, intervals that cover what they say."""
    for metric, most in FLOORS[name].items():
        assert abs(row[metric]) <= most, metric
    assert 0.77 <= row["cover80"] <= 0.86
    assert 0.92 <= row["cover95"] <= 0.98


@pytest.mark.parametrize("name", ["m5_tiny", "carparts"])
def test_the_selected_forecast_stays_above_its_floor(name: str) -> None:
    table = public_set(name)
    report = backtest(table.frame, windows=3, **table.options)
    assert_above_floor(name, report.metrics.set_index("candidate").loc["selected"])


def test_the_backtest_command_reaches_the_floor_and_065_of_the_weekly_naive(tmp_path: Path) -> None:
    table = public_set("store_item")
    table.frame.to_parquet(tmp_path / "sales.parquet", index=False)
    meant = ["--keys", "store,item", "--timestamp", "date", "--target", "sales", "--freq", "D", "--json"]
    printed, _ = Folder(tmp_path).command("backtest", "sales.parquet", *meant)
    rows = {row["candidate"]: row for row in json.loads(printed)["metrics"]}
    wape = {candidate: row["wape"] for candidate, row in rows.items()}
    assert_above_floor("store_item", rows["selected"])
    assert 0.05 < wape["selected"] <= 0.65 * wape["seasonal_naive"]
    assert wape["selected"] <= 1.03 * min(wape.values()), "no candidate is much better, in hindsight"
