"""drift: which series do otherwise than their backtest promised, by sequential tests over realised errors."""

from datetime import timedelta
from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import clock, lake_tables
from many_models.orchestration.cutoff_stage import Made, build_cutoff_asset
from many_models.orchestration.decision_inputs import (
    Forecasts,
    dated_backtest_of,
    forecasts_of,
    histories_of,
    window_times,
)
from many_models.ports import Filter, Lake, Source
from many_models.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WATCHED = 365  # periods of realised errors
RECENT = 30  # periods for which an alarm is shown as drift


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset drift."""
    description = (
        "Series whose realised errors (one step ahead) are not those of their backtest: their level shifted, their "
        "forecasts are biased, or too many actuals lie outside the interval. `drift.false_alarms` is the share of "
        "series that alarm in a month though nothing changed. Each of them is a problem of the check `problems`."
    )
    return build_cutoff_asset(
        settings, "drift", description, lambda _source, lake, date: make(settings, _source, lake, date)
    )


def make(settings: Settings, _source: Source, lake: Lake, date: str) -> Made:
    """The drift of each series at the cutoff `date`. Raises InputError."""
    import pyarrow as pa

    from many_models.decisions.drift import drift_table, watch
    from many_models.decisions.drift_answers import SIDES, widening
    from many_models.decisions.problems import problem_table

    found = forecasts_of(settings, lake, date, "drift")
    ds, scores, sizes = scored(settings, lake, found)
    watched = watch(scores, settings.drift.false_alarms)
    table = drift_table(found.series, ds, watched, widening(sizes, watched), RECENT)
    table = table.add_column(1, "cutoff", pa.array([found.cutoff] * table.num_rows, pa.timestamp("us")))
    drifted = [row for row in table.to_pylist() if row["drifted"]]
    problems = [
        {"origin": "drift", "series_id": row["series_id"], "row": "", "reason":
         f"its errors changed ({row['kind']}, actuals {SIDES.get(row['direction'], 'beside')} the forecasts, noticed "
         f"{row['alarmed_at']:%Y-%m-%d}): look at it, or retrain it"}
        for row in drifted
    ]  # fmt: skip
    return Made({lake_tables.DRIFT: table}, problem_table([*found.left_out, *problems]),
                {"dagster/row_count": table.num_rows, "drifted": len(drifted)})  # fmt: skip


def scored(settings: Settings, lake: Lake, found: Forecasts) -> "tuple[NDArray[np.datetime64], Floats, Floats]":
    """The periods whose errors are watched, their normal scores without what is common to neighbours, and with it
    (series × periods, NaN where there is none).

    Before forecasts have come true, the newest window of the backtest stands in for them, measured by the earlier ones.
    """
    import numpy as np

    from many_models.decisions.demand_paths import fit_paths
    from many_models.decisions.drift import new_in, new_in_window, plain_scores

    steps, nonnegative = settings.forecast.horizon, settings.data.negatives != "allow"
    histories = histories_of(settings, lake, found.series, found.cutoff)
    backtest, cutoffs = dated_backtest_of(lake, found.series, steps)
    ds, y, y_hat = realised(settings, lake, found)
    model = fit_paths(found.series, found.y_hat, backtest, histories, nonnegative=nonnegative)
    plain = plain_scores(model, y, y_hat)
    fresh = new_in(model, plain)
    if backtest.y.shape[1] < 2:
        return ds, fresh, plain
    times = window_times(settings, cutoffs[:, -1], steps)
    earlier = fit_paths(found.series, found.y_hat, backtest.before_last(), histories, nonnegative=nonnegative)
    of_window = plain_scores(earlier, backtest.y[:, -1], backtest.y_hat[:, -1])
    every = np.union1d(ds, times[np.isfinite(of_window)])
    fresh = _both(every, (times, new_in_window(earlier, of_window)), (ds, fresh))
    return every, fresh, _both(every, (times, of_window), (ds, plain))


def _both(
    every: "NDArray[np.datetime64]", window: "tuple[NDArray[np.datetime64], Floats]",
    real: "tuple[NDArray[np.datetime64], Floats]",
) -> "Floats":  # fmt: skip
    """Scores at the times `every`: those of real forecasts, and those of the window where there are none."""
    import numpy as np

    (times, of_window), (ds, scores) = window, real
    found = np.full((len(scores), len(every)), np.nan)
    known = np.isfinite(of_window)
    rows, _ = np.nonzero(known)
    found[rows, np.searchsorted(every, times[known])] = of_window[known]
    at = np.searchsorted(every, ds)
    found[:, at] = np.where(np.isfinite(scores), scores, found[:, at])
    return found


def realised(settings: Settings, lake: Lake, found: Forecasts) -> "tuple[NDArray[np.datetime64], Floats, Floats]":
    """The periods of the last `WATCHED` that were forecast one step ahead, and of each series the actual and the
    forecast then (series × periods), NaN where one of them is not there, or the forecast was the answer to drift: what
    a seasonal naive missed says nothing of the model.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.decisions.drift_answers import FALLBACK
    from many_models.forecasting.censoring import CENSORED

    since = found.cutoff - timedelta(days=WATCHED * clock.step_days(settings))
    before = found.cutoff + lake_tables.AFTER
    where = Filter(among={"step": [1]}, since=since, before=before)
    ahead = lake.read(lake_tables.PREDICTIONS.name, where, ["series_id", "ds", "y_hat", "fallback"])
    ahead = ahead.filter(pc.not_equal(pc.fill_null(ahead["fallback"], ""), FALLBACK))
    actual = lake.read(lake_tables.DATASETS.name, Filter(since=since, before=before), ["series_id", "ds", "y", "state"])
    actual = actual.filter(pc.not_equal(actual["state"], CENSORED))  # demand that is estimated is not an actual
    names = pa.array(found.series, pa.string())
    ds = np.unique(np.asarray(ahead["ds"].to_numpy(), "datetime64[us]"))
    filled = list["Floats"]()
    for every, column in ((actual, "y"), (ahead, "y_hat")):
        rows = every.filter(pc.is_in(every["series_id"], names))
        times = np.asarray(rows["ds"].to_numpy(), "datetime64[us]")
        at = np.searchsorted(ds, times)
        known = at < len(ds)
        known[known] = ds[at[known]] == times[known]
        place = pc.index_in(rows["series_id"], names).to_numpy()
        matrix = np.full((len(found.series), len(ds)), np.nan)
        matrix[place[known], at[known]] = np.asarray(rows[column].to_numpy(), np.float64)[known]
        filled.append(matrix)
    return ds, filled[0], filled[1]
