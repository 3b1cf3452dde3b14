"""final_predictions: the model's forecasts and, beside them, what people made of them; and whether that helped."""

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import clock, lake_tables
from many_models.orchestration.cutoff_stage import Made, build_cutoff_asset
from many_models.orchestration.decision_inputs import (
    Forecasts,
    dated_backtest_of,
    forecasts_of,
    series_values,
    window_times,
)
from many_models.orchestration.forecast_spec import spec_of
from many_models.ports import Filter, Lake, Source
from many_models.reporting.naive import seasonal_naive
from many_models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

LOOKED_BACK = 180  # days of the data whose changes are judged


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset final_predictions."""
    description = (
        "The model's forecast and the final one, after the overrides that people wrote into their table; and "
        "forecast_value_added: what seasonal naive, model and people reached on the changed forecasts whose actuals "
        "have come. Overrides that are bad, expired or overruled are in decision_problems."
    )
    return build_cutoff_asset(
        settings, "final_predictions", description, lambda source, lake, date: make(settings, source, lake, date)
    )


def make(settings: Settings, source: Source, lake: Lake, date: str) -> Made:
    """The final forecasts of the cutoff `date`. Raises InputError, MissingTableError."""
    import pyarrow as pa

    from many_models.decisions.overrides import NO_CHANGE, change, entered_by, final_table, value_added
    from many_models.decisions.problems import problem_table

    found = forecasts_of(settings, lake, date, "overrides")
    values, _ = series_values(settings, source, found.series)
    columns = [*settings.data.keys, *dict.fromkeys(c for level in settings.hierarchy.levels for c in level)]
    columns = list(dict.fromkeys(columns))
    written = source.read_table(settings.overrides.table)
    change_by = partial(change, nonnegative=settings.data.negatives != "allow", attributes=[*settings.data.attributes])
    changed = change_by(written, columns, found.series, values, found.y_hat, found.ds, found.cutoff)
    table = final_table(changed, found.series, found.y_hat, found.ds, found.cutoff)
    problems = pa.concat_tables([problem_table(found.left_out), changed.problems])

    def earlier(names: list[str], y_hat: "Floats", ds: "NDArray[np.datetime64]", cutoff: datetime) -> pa.Table:
        written_then = entered_by(written, cutoff)
        then = change_by(written_then, columns, names, values, y_hat, ds, cutoff)
        return final_table(then, names, y_hat, ds, cutoff)

    rows = judged(settings, lake, found, changes_of_backtest(settings, lake, found, earlier))
    tables = {lake_tables.FINAL: table}
    if rows.num_rows:
        tables[lake_tables.VALUE_ADDED] = value_added(rows)
    return Made(
        tables,
        problems,
        {
            "dagster/row_count": table.num_rows,
            "changed": int((changed.by != NO_CHANGE).sum()),
            "overrides": len(changed.overrides),
        },
    )


def changes_of_backtest(
    settings: Settings,
    lake: Lake,
    found: Forecasts,
    final: "Callable[[list[str], Floats, NDArray[np.datetime64], datetime], pa.Table]",
) -> "pa.Table | None":
    """What people's changes would have made of the backtest's forecasts, for periods before the first real ones.

    `final` makes the final forecasts of a window's series, forecasts, times and cutoff. Only changed ones are returned.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if lake.version(lake_tables.BACKTEST_PATHS.name) is None:
        return None
    steps = settings.forecast.horizon
    backtest, cutoffs = dated_backtest_of(lake, found.series, steps)
    real = lake_tables.read_if_there(lake, lake_tables.FINAL, columns=["cutoff"])
    first = found.cutoff if real is None or not real.num_rows else pc.min(real["cutoff"]).as_py()
    parts = list[pa.Table]()
    for cutoff in np.unique(cutoffs[cutoffs >= np.datetime64(found.cutoff - timedelta(days=LOOKED_BACK))]):
        rows, window = np.nonzero((cutoffs == cutoff) & np.isfinite(backtest.y_hat).all(2))
        names, y_hat = [found.series[i] for i in rows.tolist()], backtest.y_hat[rows, window]
        table = final(names, y_hat, window_times(settings, np.array([cutoff]), steps)[0], cutoff.item())
        before = pc.less_equal(table["ds"], pa.scalar(first, pa.timestamp("us")))
        parts.append(table.filter(pc.and_(pc.is_valid(table["action"]), before)))
    return pa.concat_tables(parts) if parts else None


def judged(settings: Settings, lake: Lake, found: Forecasts, of_backtest: "pa.Table | None" = None) -> "pa.Table":
    """The changed forecasts of earlier cutoffs, and of the backtest, whose actual has come, with the actual and the
    seasonal naive.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.forecasting.censoring import CENSORED

    since = found.cutoff - timedelta(days=LOOKED_BACK)
    where = Filter(since=since, before=found.cutoff + lake_tables.AFTER)
    columns = ["series_id", "ds", "step", "cutoff", "y_hat", "final", "author", "reason", "action"]
    rows = lake_tables.read_if_there(lake, lake_tables.FINAL, where, columns)
    both = [table.select(columns) for table in (rows, of_backtest) if table is not None and table.num_rows]
    if not both:
        return pa.table({"series_id": pa.array([], pa.string())})
    rows = pa.concat_tables(both)
    changed = rows.filter(pc.is_valid(rows["action"]))
    spec = spec_of(settings)
    reach = (settings.forecast.horizon + 2 * spec.steps_per_season) * clock.step_days(settings)
    earlier = Filter(since=since - timedelta(days=2 * reach + 2), before=where.before)
    rows = lake.read(lake_tables.DATASETS.name, earlier, ["series_id", "ds", "y", "state"])
    seen = pc.and_(pc.is_valid(rows["y"]), pc.not_equal(rows["state"], CENSORED))
    history = rows.filter(seen).drop_columns(["state"])
    naive = pa.array(seasonal_naive(changed, history, spec), from_pandas=True)
    found_rows: pa.Table = changed.append_column("naive", naive).join(history, ["series_id", "ds"], join_type="inner")
    return found_rows.sort_by([(name, "ascending") for name in ("series_id", "cutoff", "ds")])  # a join keeps no order
