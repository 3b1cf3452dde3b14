"""drift: which series do otherwise than their backtest promised, by sequential tests over realised errors."""

from dataclasses import replace
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

    from many_models.decisions.drift import Found

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
    from many_models.decisions.drift_windows import later
    from many_models.decisions.problems import problem_table

    found = forecasts_of(settings, lake, date, "drift")
    ds, scores, sizes, shifts = scored(settings, lake, found)
    watched = watch(scores, settings.drift.false_alarms)
    watched = later(watched, shifts) if shifts else watched
    table = drift_table(found.series, ds, watched, widening(sizes, watched), RECENT)
    table = table.add_column(1, "cutoff", pa.array([found.cutoff] * table.num_rows, pa.timestamp("us")))
    drifted = [row for row in table.to_pylist() if row["drifted"]]
    problems = [
        {
            "origin": "drift",
            "series_id": row["series_id"],
            "row": "",
            "reason": (
                f"its errors changed ({row['kind']}, actuals {SIDES.get(row['direction'], 'beside')} the forecasts, "
                f"noticed {row['alarmed_at']:%Y-%m-%d}): look at it, or retrain it"
            ),
        }
        for row in drifted
    ]
    return Made(
        {lake_tables.DRIFT: table},
        problem_table([*found.left_out, *problems]),
        {"dagster/row_count": table.num_rows, "drifted": len(drifted)},
    )


def scored(
    settings: Settings, lake: Lake, found: Forecasts
) -> "tuple[NDArray[np.datetime64], Floats, Floats, Found | None]":
    """The periods whose errors are watched, the normal scores of errors of forecasts that have come true without what
    is common to neighbours, those of all errors with it (series × periods, NaN where there is none), and the shifts of
    level within the newest window of the backtest.

    Where no forecast has come true that window stands in, measured by the earlier ones; None where there are none.
    """
    import numpy as np

    from many_models.decisions.demand_paths import fit_paths
    from many_models.decisions.drift import new_in, plain_scores
    from many_models.decisions.drift_windows import window_shifts

    steps, nonnegative = settings.forecast.horizon, settings.data.negatives != "allow"
    histories = histories_of(settings, lake, found.series, found.cutoff)
    backtest, cutoffs = dated_backtest_of(lake, found.series, steps)
    ds, y, y_hat = realised(settings, lake, found)
    model = fit_paths(found.series, found.y_hat, backtest, histories, nonnegative=nonnegative)
    plain = plain_scores(model, y, y_hat)
    fresh = new_in(model, plain)
    if backtest.y.shape[1] < 2:
        return ds, fresh, plain, None
    times, newest = window_times(settings, cutoffs[:, -1], steps), backtest.y_hat[:, -1]
    earlier = backtest.before_last()
    before = fit_paths(found.series, found.y_hat, earlier, histories, nonnegative=nonnegative)
    alone = np.where(_there(ds, np.isfinite(fresh), times), np.nan, backtest.y[:, -1])
    every = np.union1d(ds, times[np.isfinite(alone)])
    at = np.searchsorted(every, ds)
    watched, sizes = (np.full((len(fresh), len(every)), np.nan) for _ in range(2))
    watched[:, at], sizes[:, at] = fresh, plain
    rows, columns = np.nonzero(np.isfinite(alone))
    sizes[rows, np.searchsorted(every, times[rows, columns])] = plain_scores(before, alone, newest)[rows, columns]
    shifts = window_shifts(before, earlier, alone, newest, settings.drift.false_alarms)
    return every, watched, sizes, _at(every, times, shifts)


def _there(
    ds: "NDArray[np.datetime64]", known: "NDArray[np.bool_]", times: "NDArray[np.datetime64]"
) -> "NDArray[np.bool_]":
    """Whether each of `times` (series × steps) is one of `ds` that is `known` (series × periods)."""
    import numpy as np

    if not len(ds):
        return np.zeros(times.shape, np.bool_)
    at = np.minimum(np.searchsorted(ds, times), len(ds) - 1)
    return (ds[at] == times) & np.take_along_axis(known, at, axis=1)


def _at(every: "NDArray[np.datetime64]", times: "NDArray[np.datetime64]", shifts: "Found") -> "Found":
    """`shifts` with the places of their steps among `every` period."""
    import numpy as np

    rows = np.flatnonzero(shifts.alarm >= 0)
    alarm, began = shifts.alarm.copy(), shifts.began.copy()
    for of in (alarm, began):
        of[rows] = np.searchsorted(every, times[rows, of[rows]])
    return replace(shifts, alarm=alarm, began=began)


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
    no_actual = pa.array([CENSORED, "closed"], pa.string())  # estimated demand is none, and a closed day tells nothing
    actual = actual.filter(pc.invert(pc.is_in(actual["state"], no_actual)))
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
