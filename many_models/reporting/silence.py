"""Periods without a row that the settings give a meaning: a forecast of one is judged by the zero that it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from datetime import datetime

    from many_models.data.openings import Openings
    from many_models.forecasting import Spec


def with_silent(
    actuals: pa.Table, forecasts: pa.Table, spec: Spec, until: datetime, unusable: pa.Table | None = None
) -> pa.Table:
    """`actuals` (series_id, ds, y), and a zero for each period of `forecasts` (series_id, ds) up to `until` of which
    they have no row and a missing row means zero or closed.

    `unusable` (series_id, ds) are periods whose rows are in quarantine: nothing is known of them.
    """
    import numpy as np

    from many_models.forecasting.gaps import UNKNOWN, meanings

    if not spec.fills_gaps:
        return actuals
    asked = forecasts.select(["series_id", "ds"]).filter(pc.less_equal(forecasts["ds"], pa.scalar(until)))
    asked = asked.set_column(1, "ds", asked["ds"].cast(pa.timestamp("us"))).group_by(["series_id", "ds"]).aggregate([])
    for there in (actuals, unusable):
        if there is not None and there.num_rows:
            held = there.select(["series_id", "ds"])
            held = held.set_column(1, "ds", held["ds"].cast(pa.timestamp("us")))
            asked = asked.join(held, ["series_id", "ds"], join_type="left anti")
    asked = asked.sort_by([("series_id", "ascending"), ("ds", "ascending")])
    names, sizes = np.unique(np.asarray(asked["series_id"].to_numpy(), object), return_counts=True)
    means = meanings(np.asarray(asked["ds"].to_numpy(), "datetime64[us]"), spec, names.tolist(), sizes.tolist())
    silent = asked.filter(pa.array(means != UNKNOWN))
    zeros = silent.append_column("y", pa.array(np.zeros(silent.num_rows), pa.float64()))
    return pa.concat_tables([actuals, zeros], promote_options="permissive")


def while_open(actuals: pa.Table, listed: Openings, spec: Spec) -> pa.Table:
    """`actuals` (series_id, ds, y) of periods in which their series are open: others judge nothing."""
    from many_models.forecasting.openings import closed_rows

    spans = listed.of_series(pc.unique(actuals["series_id"]).to_pylist())
    return actuals.filter(pa.array(~closed_rows(actuals, spans, spec.frequency)))
