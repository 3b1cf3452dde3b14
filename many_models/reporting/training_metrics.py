"""What a training run reached, as the metrics that people compare nights by."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

BASELINE = "seasonal_naive"


def training_metrics(series: pa.Table, scores: pa.Table, failed: int) -> dict[str, float]:
    """Metrics over the series of a pack or of a whole run.

    `series` has a row for each series (`series_id`, `wape`, `baseline_wape`, `bias`, `cover80`, `cover95`), `scores` a
    row for each series, candidate and window (`candidate`, `abs_actual`). Returns `series`, `failed`, and where a
    backtest could score a series: `wape` and `bias` (errors / actuals, both summed over series), `skill`
    (1 − wape / the baseline's), `cover80` and `cover95` (means over series).
    """
    volumes = _volumes(scores)
    rows = series.to_pylist()
    found = {"series": float(len(rows)), "failed": float(failed)}
    scored = [(row, volumes.get(row["series_id"], 0.0)) for row in rows if _finite(row["wape"])]
    total = sum(volume for _, volume in scored)
    if total > 0:
        found["wape"] = sum(row["wape"] * volume for row, volume in scored) / total
        found["bias"] = sum(row["bias"] * volume for row, volume in scored if _finite(row["bias"])) / total
        based = [(row, volume) for row, volume in scored if _finite(row["baseline_wape"])]
        baseline = sum(row["baseline_wape"] * volume for row, volume in based)
        if baseline > 0:
            found["skill"] = 1.0 - sum(row["wape"] * volume for row, volume in based) / baseline
    for name in ("cover80", "cover95"):
        if values := [row[name] for row in rows if _finite(row[name])]:
            found[name] = sum(values) / len(values)
    return found


def _volumes(scores: pa.Table) -> dict[str, float]:
    """Series → the sum of its absolute actuals over the backtest's windows."""
    import pyarrow.compute as pc

    rows = scores.filter(pc.equal(scores["candidate"], BASELINE))
    sums = rows.group_by("series_id").aggregate([("abs_actual", "sum")])
    pairs = zip(sums["series_id"].to_pylist(), sums["abs_actual_sum"].to_pylist(), strict=True)
    return {name: value for name, value in pairs if _finite(value)}


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
