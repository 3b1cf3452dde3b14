"""What a run reached, against sums taken by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from many_models.reporting.training_metrics import training_metrics

NONE = {"wape": None, "baseline_wape": None, "bias": None, "cover80": None, "cover95": None}


def tables(rows: list[dict], volumes: dict[str, list[float]]) -> tuple[pa.Table, pa.Table]:
    series = pa.Table.from_pylist(rows)
    scores = [
        {"series_id": name, "candidate": candidate, "abs_actual": value}
        for name, values in volumes.items()
        for value in values
        for candidate in ("seasonal_naive", "trees")
    ]
    return series, pa.Table.from_pylist(
        scores, pa.schema([("series_id", "string"), ("candidate", "string"), ("abs_actual", "double")])
    )


def test_totals_are_sums_of_errors_over_sums_of_actuals() -> None:
    rng = np.random.default_rng(4)
    actual = rng.uniform(1, 100, (3, 2, 5))
    forecast, naive = actual * rng.uniform(0.7, 1.3, actual.shape), actual * rng.uniform(0.5, 1.6, actual.shape)
    rows, volumes = [], {}
    for i in range(3):
        volume = actual[i].sum()
        rows.append(
            {
                "series_id": f"s{i}",
                "wape": np.abs(forecast[i] - actual[i]).sum() / volume,
                "baseline_wape": np.abs(naive[i] - actual[i]).sum() / volume,
                "bias": (forecast[i] - actual[i]).sum() / volume,
                "cover80": 0.7 + 0.1 * i,
                "cover95": None,
            }
        )
        volumes[f"s{i}"] = list(actual[i].sum(1))
    found = training_metrics(*tables(rows, volumes), failed=2)
    wape, base = np.abs(forecast - actual).sum() / actual.sum(), np.abs(naive - actual).sum() / actual.sum()
    assert found.pop("wape") == pytest.approx(wape)
    assert found.pop("skill") == pytest.approx(1 - wape / base)
    assert found.pop("bias") == pytest.approx((forecast - actual).sum() / actual.sum())
    assert found == {"series": 3.0, "failed": 2.0, "cover80": pytest.approx(0.8)}


def test_series_without_a_backtest_or_without_sales_change_no_metric() -> None:
    good = {"series_id": "a", "wape": 0.5, "baseline_wape": 1.0, "bias": 0.1, "cover80": 0.8, "cover95": 0.9}
    alone = training_metrics(*tables([good], {"a": [4.0, 6.0]}), failed=0)
    rows = [good, {"series_id": "short", **NONE}, {"series_id": "zero", **NONE}]
    found = training_metrics(*tables(rows, {"a": [4.0, 6.0], "zero": [0.0]}), failed=0)
    assert found == {**alone, "series": 3.0}
    assert training_metrics(*tables([{"series_id": "x", **NONE}], {}), failed=1) == {"series": 1.0, "failed": 1.0}
