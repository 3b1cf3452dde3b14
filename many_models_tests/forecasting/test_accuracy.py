"""What the selected forecast reaches on public tables, with the defaults: three windows, a step of one horizon."""

from __future__ import annotations

import pytest

from many_models.forecasting import backtest
from many_models_tests.support.public_tables import public_set

FLOORS = {
    "store_item": {"wape": 0.110},
    "m5_tiny": {"wape": 0.450, "mase": 0.98, "rmsse": 0.685, "bias": 0.05},
    "carparts": {"rmsse": 0.667, "mase": 1.17, "bias": 0.10},
}


@pytest.mark.slow
@pytest.mark.public_tables
@pytest.mark.parametrize("name", FLOORS)
def test_the_selected_forecast_stays_above_its_floor(name):
    table = public_set(name)
    report = backtest(table.frame, windows=3, **table.options)
    row = report.metrics.set_index("candidate").loc["selected"]
    for metric, most in FLOORS[name].items():
        assert abs(row[metric]) <= most, metric
    assert 0.77 <= row["cover80"] <= 0.86
    assert 0.92 <= row["cover95"] <= 0.98
