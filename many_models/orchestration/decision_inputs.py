"""What decisions read of the lake, as arrays: forecasts of a cutoff, the backtest behind them, and the history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from many_models.data import clock, lake_tables
from many_models.errors import InputError
from many_models.keys import SeriesKey, unmatched
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from many_models.decisions.demand_paths import Backtest, Histories
    from many_models.ports import Lake, Source
    from many_models.settings import Settings

    Floats = NDArray[np.float64]

HISTORY = 730  # periods of history that tell of intervals and sizes


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of a cutoff: `y_hat` is series × steps, `ds` the steps' times; `rows` the table, in this order."""

    cutoff: datetime
    series: list[str]
    ds: NDArray[np.datetime64]
    y_hat: Floats
    rows: pa.Table
    left_out: list[dict[str, str]]


def forecasts_of(settings: Settings, lake: Lake, date: str, origin: str) -> Forecasts:
    """The forecasts of the cutoff `date`; series that have not one finite forecast for each step are left out, with
    the reason. Raises InputError where there are none.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = lake_tables.read_if_there(lake, lake_tables.PREDICTIONS, Filter(among={"cutoff_date": [date]}))
    if rows is None or not rows.num_rows:
        raise InputError(f"the lake has no predictions of cutoff {date}: materialize predictions first")
    everyone = set(pc.unique(rows["series_id"]).to_pylist())
    newest = pc.max(rows["cutoff"]).as_py()
    rows = rows.filter(pc.equal(rows["cutoff"], pa.scalar(newest, pa.timestamp("us"))))
    rows = rows.sort_by([("series_id", "ascending"), ("step", "ascending")])
    steps = settings.forecast.horizon
    good = rows.filter(pc.is_finite(rows["y_hat"])).group_by("series_id").aggregate([("step", "count")])
    whole = good.filter(pc.equal(good["step_count"], steps))["series_id"].combine_chunks()
    left = sorted(everyone - set(whole.to_pylist()))
    rows = rows.filter(pc.is_in(rows["series_id"], whole))
    if not rows.num_rows:
        raise InputError(f"no series has {steps} finite forecasts of cutoff {date}: materialize predictions")
    y_hat = rows["y_hat"].to_numpy().reshape(-1, steps)
    why = f"its forecast of cutoff {date} has not {steps} finite values: materialize predictions for it"
    problems = [{"origin": origin, "series_id": name, "row": "", "reason": why} for name in left]
    ds = np.asarray(rows["ds"].to_numpy()[:steps], "datetime64[us]")
    return Forecasts(newest, rows["series_id"].to_pylist()[::steps], ds, y_hat, rows, problems)


def backtest_of(lake: Lake, series: Sequence[str], steps: int) -> Backtest:
    """The backtest of `series` as training wrote it down, with the estimated demand where stock cut a sale short: days
    with enough stock alone are those of little demand. Raises InputError where there is none.
    """
    import numpy as np

    found, estimated, _ = _read_backtest(lake, series, steps)
    return replace(found, y=np.where(np.isnan(found.y), estimated, found.y))


def dated_backtest_of(lake: Lake, series: Sequence[str], steps: int) -> tuple[Backtest, NDArray[np.datetime64]]:
    """The backtest with what was sold alone, NaN where stock cut a sale short, and the cutoff of each window (series ×
    windows), NaT where a series has no such window. Raises InputError where there is none.
    """
    found, _, cutoffs = _read_backtest(lake, series, steps)
    return found, cutoffs


def _read_backtest(lake: Lake, series: Sequence[str], steps: int) -> tuple[Backtest, Floats, NDArray[np.datetime64]]:
    """The backtest, the estimated demand (NaN elsewhere; a table of an earlier version has none), and the cutoffs."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.decisions.demand_paths import Backtest

    rows = lake_tables.read_if_there(lake, lake_tables.BACKTEST_PATHS)
    if rows is None:
        raise InputError("the lake has no backtest_paths: materialize trained_models, which writes them for decisions")
    names = pa.array(series, pa.string())
    rows = rows.filter(pc.and_(pc.is_in(rows["series_id"], names), pc.equal(pc.list_value_length(rows["y"]), steps)))
    windows = pc.max(rows["window"]).as_py() or 1
    found = {name: np.full((len(series), windows, steps), np.nan) for name in ("y", "y_hat", "estimated")}
    cutoffs = np.full((len(series), windows), np.datetime64("NaT"), "datetime64[us]")
    at, window = pc.index_in(rows["series_id"], names).to_numpy(), rows["window"].to_numpy() - 1
    for name in set(found) & set(rows.column_names):
        there = rows[name].is_valid().to_numpy()
        values = pc.list_flatten(rows[name]).to_numpy().astype(np.float64)
        found[name][at[there], window[there]] = values.reshape(-1, steps)
    cutoffs[at, window] = np.asarray(rows["cutoff"].to_numpy(), "datetime64[us]")
    return Backtest(series, found["y"], found["y_hat"]), found["estimated"], cutoffs


def window_times(settings: Settings, cutoffs: NDArray[np.datetime64], steps: int) -> NDArray[np.datetime64]:
    """The times of the `steps` periods after each of `cutoffs` (series × steps); NaT where the cutoff is."""
    import numpy as np

    from many_models.forecasting.pack import mm_pack_v1 as loader

    found = np.full((len(cutoffs), steps), np.datetime64("NaT"), "datetime64[us]")
    known = ~np.isnat(cutoffs)
    numbers = loader.step_number(cutoffs[known], settings.data.frequency)[:, None] + np.arange(1, steps + 1)
    found[known] = loader.stamps(numbers, settings.data.frequency)
    return found


def histories_of(settings: Settings, lake: Lake, series: Sequence[str], cutoff: datetime) -> Histories:
    """The last `HISTORY` periods of each of `series` up to `cutoff`, in order."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from many_models.decisions.demand_paths import Histories

    since = cutoff - timedelta(days=HISTORY * clock.step_days(settings))
    where = Filter(since=since, before=cutoff + lake_tables.AFTER)
    rows = lake.read(lake_tables.DATASETS.name, where, ["series_id", "ds", "y"])
    at = pc.index_in(rows["series_id"], pa.array(series, pa.string()))
    known = at.is_valid()
    place = at.filter(known).to_numpy().astype(np.int64)
    ds, y = (rows[name].filter(known).to_numpy() for name in ("ds", "y"))
    order = np.lexsort((ds, place))
    counts = np.bincount(place, minlength=len(series))
    return Histories(np.asarray(y, np.float64)[order], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def ever_sold(settings: Settings, lake: Lake) -> list[tuple[str, ...]]:
    """The key parts of all series that the product has copied sales of, ended ones too."""
    rows = lake_tables.read_if_there(lake, lake_tables.SERIES_KEYS, columns=["series_id"])
    names: list[str] = [] if rows is None else rows["series_id"].to_pylist()
    return [SeriesKey.parse(name, len(settings.data.keys)).parts for name in names]


def series_values(
    settings: Settings, source: Source, series: list[str], others: Sequence[Sequence[str]] = ()
) -> tuple[dict[str, dict[str, str | None]], list[dict[str, str]]]:
    """Series → column of the levels → value: keys, and attributes of the source's attributes table; and problems.

    A row of attributes is a problem where neither one of `series` nor one of `others` (key parts of series that have
    ended) belongs to it, and so are rows that contradict each other: their series are in no category.
    """
    from many_models.data.covariates import attributes_from_source
    from many_models.decisions.problems import unknown

    keys = settings.data.keys
    parts = {name: SeriesKey.parse(name, len(keys)).parts for name in series}
    values: dict[str, dict[str, str | None]] = {
        name: {**dict(zip(keys, own, strict=True))} for name, own in parts.items()
    }
    wanted = [name for level in settings.hierarchy.levels for name in level if name not in keys]
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        return values, []
    if not settings.source.attributes_table:
        raise InputError(f"hierarchy.levels name {', '.join(wanted)}, which is not a key: set source.attributes_table")
    told = list[tuple[str, str]]()
    rows = attributes_from_source(source.read_table(settings.source.attributes_table), keys, wanted, told)
    own = [key for key in keys if key in rows.column_names]
    at = [keys.index(key) for key in own]
    by_place = {tuple(str(row[key]) for key in own): row for row in rows.to_pylist()}
    for name, series_parts in parts.items():
        row = by_place.get(tuple(series_parts[i] for i in at))
        values[name] |= {column: None if row is None or row[column] is None else str(row[column]) for column in wanted}
    there = [tuple(one[i] for i in at) for one in [*parts.values(), *others]]
    told += [(", ".join(map(str, place)), unknown(alike)) for place, alike in unmatched(by_place, there).items()]
    return values, [{"origin": "hierarchy", "series_id": "", "row": shown, "reason": why} for shown, why in told]
