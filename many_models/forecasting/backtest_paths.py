"""What the backtest forecast and what came, window by window: where sums of steps and of series get their spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.forecasting.censoring import censoring_column
from many_models.forecasting.pack import mm_pack_v1 as loader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.forecasting.evaluation import Evaluation
    from many_models.forecasting.panel import Panel


def path_table(evaluation: Evaluation, blends: NDArray[np.float64]) -> pa.Table:
    """A row per series and window that has something to score: series_id, window, cutoff, and lists over the steps of
    the horizon, `y` (null where it is unknown, and on closed days, which tell nothing of demand) and `y_hat`, each
    window by the weights of the others. Where stock is told there is `estimated`, too: the demand behind sales that
    stock cut short, whose `y` is null.
    """
    spec, panel = evaluation.spec, evaluation.panel
    n, windows, steps = evaluation.Y.shape
    scored = evaluation.mask.any(2).ravel()
    end = panel.number + panel.periods - 1
    cutoffs = loader.stamps(end - spec.horizon * np.arange(windows, 0, -1), spec.frequency)
    known = evaluation.mask & ~_closed(panel, windows, steps)
    lists = {"y": np.where(known, evaluation.Y, np.nan), "y_hat": blends}
    if censoring_column(spec):
        lists["estimated"] = np.where(evaluation.sold > 0, evaluation.Y, np.nan)
    offsets = pa.array(np.arange(0, (int(scored.sum()) + 1) * steps, steps, dtype=np.int32))
    return pa.table(
        {
            "series_id": pa.array(np.repeat(np.array(panel.series, object), windows)[scored], pa.string()),
            "window": pa.array(np.tile(np.arange(1, windows + 1), n)[scored], pa.int64()),
            "cutoff": pa.array(np.tile(cutoffs, n)[scored], pa.timestamp("us")),
            **{
                name: pa.ListArray.from_arrays(
                    offsets, pa.array(of.reshape(-1, steps)[scored].ravel(), pa.float64(), from_pandas=True)
                )
                for name, of in lists.items()
            },
        }
    )


def _closed(panel: Panel, windows: int, steps: int) -> NDArray[np.bool_]:
    """Which steps of the windows are days on which a series was closed (series × windows × steps)."""
    code = panel.code[:, : panel.periods] == loader.CLOSED
    before = max(windows * steps - panel.periods, 0)
    return np.pad(code, ((0, 0), (before, 0)))[:, -windows * steps :].reshape(len(code), windows, steps)
