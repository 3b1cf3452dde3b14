"""Realised accuracy: forecasts of earlier cutoffs against the actuals that have come since."""

from __future__ import annotations

import pyarrow as pa

from many_models import table_columns
from many_models.table_columns import schema_of

SCHEMA = schema_of(table_columns.ACCURACY)
USED = frozenset({"series_id", "ds", "cutoff", "y_hat", "lo80", "hi80", "lo95", "hi95"})  # of predictions


def realised(predictions: pa.Table, actuals: pa.Table) -> pa.Table:
    """One row per series and cutoff that has actuals by now.

    `predictions`: series_id, ds, cutoff, y_hat and, where there are any, lo80 … hi95; `actuals`: series_id, ds, y.
    Result: series_id, cutoff, periods (how many actuals), actual and forecast (sums), wape = sum|y - y_hat| / sum|y|
    and bias = sum(y_hat - y) / sum|y| (null where nothing was sold), cover80, cover95 (share of y within, bounds
    included; null without intervals).
    """
    import numpy as np
    import pandas as pd

    used = [name for name in predictions.column_names if name in USED]
    forecast, sales = predictions.select(used).to_pandas(), actuals.select(["series_id", "ds", "y"]).to_pandas()
    both = forecast.merge(sales.dropna(subset=["y"]), on=["series_id", "ds"], validate="many_to_one")
    both["abs_error"], both["error"] = (both["y"] - both["y_hat"]).abs(), both["y_hat"] - both["y"]
    both["size"] = both["y"].abs()
    for level in (80, 95):
        there = f"lo{level}" in both
        both[f"cover{level}"] = np.nan
        if there:
            low, high = both[f"lo{level}"], both[f"hi{level}"]
            both[f"cover{level}"] = both["y"].between(low, high).astype(float).where(low.notna() & high.notna())
    groups = both.groupby(["series_id", "cutoff"], sort=True)
    result = groups.agg(
        periods=("y", "size"),
        actual=("y", "sum"),
        forecast=("y_hat", "sum"),
        abs_error=("abs_error", "sum"),
        error=("error", "sum"),
        size=("size", "sum"),
        cover80=("cover80", "mean"),
        cover95=("cover95", "mean"),
    ).reset_index()
    size = result["size"].where(result["size"] > 0)
    result["wape"], result["bias"] = result["abs_error"] / size, result["error"] / size
    if result.empty:
        return SCHEMA.empty_table()
    result["cutoff"] = pd.to_datetime(result["cutoff"])
    return pa.Table.from_pandas(result[SCHEMA.names], SCHEMA, preserve_index=False)
