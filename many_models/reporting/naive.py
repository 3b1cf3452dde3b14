"""The seasonal naive beside each forecast: what a load brings, so that reports can say what the models add to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from many_models.forecasting import Spec

NAIVE = "naive"


def with_naive(predictions: pa.Table, sales: pa.Table, spec: Spec) -> pa.Table:
    """`predictions` of one cutoff with the column `naive`, float64: the observation of whole seasons earlier.

    `predictions` has series_id, ds and step (1 = the first period after the cutoff); `sales` series_id, ds, y of the
    last season before the cutoff, at most one row per series and period. Where there is no row, it is 0 if the settings
    say that a missing row means zero, else null.
    """
    import numpy as np
    import pyarrow.compute as pc

    from many_models.forecasting.gaps import meaning_of

    found = seasonal_naive(predictions, sales, spec)
    if not spec.missing_on:
        series = pc.unique(predictions["series_id"])
        zero = series.filter(pa.array([meaning_of(name, spec) == "zero" for name in series.to_pylist()], pa.bool_()))
        among = pc.is_in(predictions["series_id"], zero).to_numpy()
        found = np.where(among & np.isnan(found), 0.0, found)
    return predictions.append_column(NAIVE, pa.array(found, pa.float64(), from_pandas=True))


def seasonal_naive(forecasts: pa.Table, history: pa.Table, spec: Spec) -> NDArray[np.float64]:
    """The observation of `history` (series_id, ds, y) ceil(step / season) seasons before each of `forecasts`
    (series_id, ds, step); NaN where there is none.

    Hyndman and Athanasopoulos, Forecasting: Principles and Practice, section 5.2.
    """
    import numpy as np
    import pandas as pd

    from many_models.forecasting.pack import mm_pack_v1 as pack

    def numbers(rows: pa.Table) -> NDArray[np.int64]:
        return pack.step_number(rows["ds"].cast(pa.timestamp("us")).to_numpy(), spec.frequency)

    season = spec.steps_per_season
    back = season * -(-forecasts["step"].to_numpy().astype(np.int64) // season)
    places = pd.MultiIndex.from_arrays([history["series_id"].to_pandas(), numbers(history)])
    asked = pd.MultiIndex.from_arrays([forecasts["series_id"].to_pandas(), numbers(forecasts) - back])
    known = pd.Series(history["y"].to_numpy(zero_copy_only=False), places)
    return known.reindex(asked).to_numpy(dtype=np.float64)
