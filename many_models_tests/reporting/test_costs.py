"""What a night cost: against the sums written out, and nothing of what is unknown."""

from __future__ import annotations

import pyarrow as pa
import pytest

from many_models.reporting.costs import night_costs

DECISIONS = pa.table({
    "action": ["promote", "promote", "promote", "keep", "promote", "promote"],
    "challenger_score": [0.3, 0.1, 0.5, 0.2, 0.2, float("nan")],
    "champion_score": [0.4, 0.3, 0.4, 0.4, None, 0.4],
})  # fmt: skip


def test_costs_are_core_seconds_times_the_price_of_an_hour() -> None:
    """40 + 20 + 30 seconds on 4 cores at 1.8 an hour, for 12 models; two of the promotions beat a champion."""
    spent = [("trained_models", 40.0), ("predictions", 20.0), ("trained_models", 30.0)]
    rows = {row["stage"]: row for row in night_costs(spent, 4, 1.8, 12, DECISIONS).to_pylist()}
    assert list(rows) == ["trained_models", "all", "predictions"]
    assert rows["trained_models"]["cost"] == pytest.approx(70 * 4 / 3600 * 1.8)
    assert rows["trained_models"]["runs"] == 2
    assert rows["trained_models"]["improvements"] is None
    night = rows["all"]
    assert night["core_seconds"] == 360.0
    assert night["cost"] == pytest.approx(0.18)
    assert night["cost"] == pytest.approx(sum(row["cost"] for name, row in rows.items() if name != "all"))
    assert night["cost_per_model"] == pytest.approx(0.015)
    assert (night["improvements"], night["cost_per_improvement"]) == (2, pytest.approx(0.09))
    assert (night["wape_before"], night["wape_after"]) == (pytest.approx(0.35), pytest.approx(0.2))


def test_shares_of_nothing_are_unknown_and_not_zero() -> None:
    (_, night) = night_costs([("predictions", 20.0)], 2, 0.05, 0, None).to_pylist()
    assert night["cost_per_model"] is None
    assert (night["improvements"], night["cost_per_improvement"], night["wape_after"]) == (0, None, None)
    assert night_costs([], 2, 0.05, 3, DECISIONS).num_rows == 0
