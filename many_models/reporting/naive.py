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
    import pyarrow.compute as pc

    from many_models.forecasting.pack import mm_pack_v1 as pack

    def numbers(rows: pa.Table) -> NDArray[np.int64]:
        return pack.step_number(rows["ds"].cast(pa.timestamp("us")).to_numpy(), spec.frequency)

    if not len(history):
        return np.full(len(forecasts), np.nan)
    season = spec.steps_per_season
    wanted = numbers(forecasts) - season * -(-forecasts["step"].to_numpy().astype(np.int64) // season)
    there = numbers(history)
    series, first, last = pc.unique(history["series_id"]), there.min(), there.max()

    def places(rows: pa.Table, number: NDArray[np.int64]) -> NDArray[np.int64]:
        """One number for each series and period."""
        which = pc.fill_null(pc.index_in(rows["series_id"], series), -1).to_numpy().astype(np.int64)
        return np.where((which >= 0) & (number >= first) & (number <= last), which * (last - first + 1) + number, -1)

    held = places(history, there)
    order = np.argsort(held)
    asked = places(forecasts, wanted)
    at = np.minimum(np.searchsorted(held[order], asked), len(held) - 1)
    y = history["y"].to_numpy(zero_copy_only=False).astype(np.float64)[order]
    return np.where(held[order][at] == asked, y[at], np.nan)
