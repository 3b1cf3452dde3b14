"""The seasonal naive beside each forecast: what a load brings, so that reports can say what the models add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from many_models.forecasting import Spec

NAIVE = "naive"


def with_naive(predictions: pa.Table, sales: pa.Table, spec: Spec) -> pa.Table:
    """`predictions` of one cutoff with the column `naive`, float64: the observation of whole seasons earlier.

    `predictions` has series_id, ds and step (1 = the first period after the cutoff); `sales` series_id, ds, y of the
    last season before the cutoff, at most one row per series and period. The naive is the observation ceil(step /
    season) seasons before ds (Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2). Where
    there is no row, it is 0 if the settings say that a missing row means zero, else null.
    """
    import numpy as np
    import pandas as pd

    from many_models.forecasting.pack import mm_pack_v1 as pack

    season = spec.steps_per_season
    seasons = -(-predictions["step"].to_numpy().astype(np.int64) // season)
    number = pack.step_number(_stamps(predictions), spec.frequency) - season * seasons
    known = pd.Series(
        sales["y"].to_numpy(zero_copy_only=False),
        pd.MultiIndex.from_arrays([
            sales["series_id"].to_pandas(), pack.step_number(_stamps(sales), spec.frequency)
        ]),
    )  # fmt: skip
    asked = pd.MultiIndex.from_arrays([predictions["series_id"].to_pandas(), number])
    found = known.reindex(asked).to_numpy(dtype=np.float64)
    if spec.missing == "zero" and not spec.missing_on:
        found = np.nan_to_num(found, nan=0.0)
    return predictions.append_column(NAIVE, pa.array(found, pa.float64(), from_pandas=True))


def _stamps(rows: pa.Table):  # noqa: ANN202 -- numpy is loaded where it is used
    return rows["ds"].cast(pa.timestamp("us")).to_numpy()
