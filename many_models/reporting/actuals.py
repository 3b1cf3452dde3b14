"""What a load brings of actuals and of realised accuracy: the newest, and all that changed since it was loaded."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.data import clock, lake_tables
from many_models.data.periods import next_period, period_key, period_of_key, spans
from many_models.errors import MissingTableError
from many_models.keys import SeriesKey, digest
from many_models.ports import Filter, Lake, Warehouse, WarehousePart
from many_models.reporting.accuracy import SCHEMA, USED, realised
from many_models.reporting.silence import while_open, with_silent
from many_models.reporting.views import WEEK
from many_models.settings import Settings

if TYPE_CHECKING:
    from many_models.data.openings import Openings
    from many_models.forecasting import Spec

PERIODS = "loaded_periods"  # which version of each period of raw_sales the warehouse's actuals are of
COPIED = "copied_as"  # its column that says with which settings (see `copied_as`)
ALWAYS = 2  # horizons before the cutoff that every load brings
LONGEST_MONTH = 31 / 29  # of the one that `step_days` counts with
Span = tuple[datetime, datetime]


def held_periods(warehouse: Warehouse) -> dict[str, str]:
    """Period → the version of it that the warehouse holds; none before the first load."""
    try:
        rows = warehouse.read(PERIODS)
    except MissingTableError:
        return {}
    return dict(zip(rows["period"].to_pylist(), rows["version"].to_pylist(), strict=True))


def copied_as(settings: Settings) -> str:
    """A digest of the settings that say how many rows a period has: under others, numbers of rows say nothing."""
    data = settings.data
    rows = data.frequency, sorted(data.aggregates.items()), data.negatives, data.target, data.timestamp, data.timezone
    return digest("copied_as", settings.source.table, *rows)


def actual_parts(  # noqa: PLR0913, PLR0917  (what is there, of what, and what rows mean)
    settings: Settings,
    lake: Lake,
    cutoff: datetime,
    copied: Mapping[str, str],
    held: Mapping[str, str],
    cutoff_dates: Iterable[str],
    spec: "Spec | None" = None,
) -> list[WarehousePart]:
    """Actuals, realised accuracy and `loaded_periods` up to `cutoff`.

    `copied` and `held` map periods of raw_sales to the version that the lake and the warehouse have; to be looked at
    before the lake is read here, so that what is copied meanwhile counts as not loaded. A period that the warehouse has
    otherwise is brought whatever its age, with the accuracy of all cutoffs of `cutoff_dates` that forecast it. `spec`
    says what a period without a row means in the accuracy (see `with_silent`).
    """
    from many_models.data import openings

    grain, keys = settings.partitions.grain, settings.data.keys
    reach = timedelta(days=settings.forecast.horizon * clock.step_days(settings) * LONGEST_MONTH)
    listed = openings.read(lake, keys, settings.data.frequency)
    recent = _whole_days(cutoff - ALWAYS * reach, cutoff)
    floor = min([period_key(grain, recent[0]), *held])
    changed = [key for key, version in copied.items() if key >= floor and held.get(key) != version]
    starts = [start for start in (period_of_key(grain, key) for key in changed) if start < recent[1]]
    parts = list[WarehousePart]()
    for since, before in joined([*spans(grain, [start for start in starts if start < recent[0]]), recent], reach):
        rows = with_week(with_keys(_actuals(lake, since, before), keys))
        parts.append(WarehousePart("actuals", rows, Filter(since=since, before=before), ("series_id", "ds")))
    seen = [(start, next_period(grain, start)) for start in starts]
    for since, before in joined(_whole_days(since - reach, before) for since, before in [*seen, (cutoff, cutoff)]):
        uncut = _with_stock(_actuals(lake, since, min(before + reach, recent[1]), settings.data.stock), settings)
        dates = [date for date in cutoff_dates if f"{since:%Y-%m-%d}" <= date < f"{before:%Y-%m-%d}"]
        scored = pa.concat_tables(
            [SCHEMA.empty_table(), *(_scored(lake, date, uncut, reach, cutoff, spec, listed) for date in sorted(dates))]
        )
        where = Filter(since=since, before=before, column="cutoff")
        parts.append(WarehousePart("accuracy", with_keys(scored, keys), where, ("series_id", "cutoff")))
    rows = pa.table({"period": [period_key(grain, start) for start in starts]}, pa.schema([("period", pa.string())]))
    rows = rows.append_column("version", pa.array([copied[key] for key in rows["period"].to_pylist()], pa.string()))
    rows = rows.append_column(COPIED, pa.array([copied_as(settings)] * rows.num_rows, pa.string()))
    parts.append(WarehousePart(PERIODS, rows, Filter(among={"period": rows["period"].to_pylist()}), ("period",)))
    return parts


def _whole_days(since: datetime, last: datetime) -> Span:
    """From the midnight before `since` to the one after `last`."""
    midnight = datetime.min.time()
    return datetime.combine(since, midnight), datetime.combine(last, midnight) + timedelta(days=1)


def joined(spans: Iterable[Span], gap: timedelta = timedelta(0)) -> list[Span]:
    """`spans` in order, those that overlap or lie at most `gap` apart as one."""
    result = list[Span]()
    for since, before in sorted(spans):
        if result and since <= result[-1][1] + gap:
            result[-1] = result[-1][0], max(before, result[-1][1])
        else:
            result.append((since, before))
    return result


def _actuals(lake: Lake, since: datetime, before: datetime, more: Sequence[str] = ()) -> pa.Table:
    years = list(range(since.year, before.year + 1))
    where = Filter(among={"year": years}, since=since, before=before)
    return lake.read(lake_tables.RAW_SALES.name, where, ["series_id", "ds", "y", *more])


def _with_stock(actuals: pa.Table, settings: Settings) -> pa.Table:
    """`actuals` of periods with stock throughout: a sale that stock cut short does not judge a forecast of demand."""
    import numpy as np

    from many_models.forecasting.censoring import share_of

    if not settings.data.stock:
        return actuals
    values = np.asarray(actuals[settings.data.stock[0]].cast(pa.float64()).to_numpy(), np.float64)
    whole = share_of(values, available=bool(settings.data.available), open_hours=settings.data.open_hours) >= 1.0
    return actuals.filter(pa.array(whole))


def _scored(  # noqa: PLR0913, PLR0917  (the same)
    lake: Lake,
    date: str,
    actuals: pa.Table,
    reach: timedelta,
    cutoff: datetime,
    spec: "Spec | None",
    listed: "Openings",
) -> pa.Table:
    """The accuracy of one cutoff date: one at a time, so that memory does not grow with them."""
    import pyarrow.compute as pc

    ends = datetime.combine(cutoff, datetime.min.time()) + timedelta(days=1)  # no actual is later
    forecasts = lake.read(lake_tables.PREDICTIONS.name, Filter(among={"cutoff_date": [date]}, before=ends))
    forecasts = forecasts.select([name for name in forecasts.column_names if name in USED])
    first = datetime.fromisoformat(date)
    last = pa.scalar(first + reach + timedelta(days=1), pa.timestamp("us"))
    seen = pc.and_(pc.greater_equal(actuals["ds"], pa.scalar(first, pa.timestamp("us"))), pc.less(actuals["ds"], last))
    found = actuals.filter(seen)
    if spec is not None and spec.fills_gaps:
        where = Filter(among={"origin": ["dated"]}, since=first, before=cutoff + lake_tables.AFTER)
        bad = lake_tables.read_if_there(lake, lake_tables.QUARANTINE, where, ["series_id", "ds"])
        found = with_silent(found.select(["series_id", "ds", "y"]), forecasts, spec, cutoff, bad)
    if spec is not None and listed.spans:
        found = while_open(found, listed, spec)
    return realised(forecasts, found)


def with_keys(rows: pa.Table, keys: Sequence[str]) -> pa.Table:
    """`rows` with the key parts of their series in the user's names, after series_id."""
    ids = rows["series_id"].combine_chunks().dictionary_encode()
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    parts = [SeriesKey.parse(name, len(keys)).parts for name in ids.dictionary.to_pylist()]
    for index, key in enumerate(keys):
        column = pa.array([part[index] for part in parts], pa.string()).take(ids.indices)
        rows = rows.add_column(index + 1, key, column)
    return rows


def with_week(rows: pa.Table) -> pa.Table:
    """`rows` with the Monday of each `ds`, which reports group by; databases reckon weeks in different ways."""
    import pyarrow.compute as pc

    return rows.append_column(WEEK, pc.floor_temporal(rows["ds"], unit="week").cast(pa.date32()))
