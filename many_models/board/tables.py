"""The tables that the board's table of items is made of, read from lake and warehouse."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from many_models.board.frames import Frame, pd
from many_models.board.grid import grid_of
from many_models.data import lake_tables
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.board.reading import Reading
    from many_models.ports import Lake, Warehouse
    from many_models.settings import Settings

REALISED_WEEKS = 12
WATCHED = (  # a new version of one of them makes the table of items be read again
    lake_tables.SERIES,
    lake_tables.SERIES_KEYS,
    lake_tables.TRAINED,
    lake_tables.PREDICTIONS,
    lake_tables.SERIES_STATUS,
    lake_tables.CHAMPIONS,
    lake_tables.RAW_SALES,
    lake_tables.RAW_ATTRIBUTES,
)
TRAINED_COLUMNS = "series_id candidate fallback wape baseline_wape skill noise_floor bias cover80".split()


@dataclass(slots=True)
class Tables:
    """Frames as the lake has them; a table that is not there is an empty one. `as_of` is the data's clock."""

    as_of: datetime | None
    keys: Frame
    series: Frame
    trained: Frame
    status: Frame
    recent: Frame
    forecast: Frame
    attributes: Frame
    realised: list[Frame] = field(default_factory=list[Frame])


def fingerprints(lake: Lake) -> tuple[str, ...]:
    """What changes when the table of items has to be made again; no table is opened for it."""
    return tuple(lake.fingerprint(table.name) for table in WATCHED)


def read_tables(settings: Settings, lake: Lake, warehouse: Warehouse, reading: Reading) -> Tables:
    """Everything that the table of items is made of. A part that cannot be read is empty, and `reading` says so."""
    as_of = reading.part("lake", lambda: lake_tables.lake_as_of(lake), None)

    def table(which: lake_tables.LakeTable, columns: Sequence[str], where: Filter | None = None) -> Frame:
        def read() -> Frame:
            found = lake_tables.read_if_there(lake, which, where, columns)
            return pd.DataFrame(columns=list(columns)) if found is None else found.to_pandas()

        return reading.part("lake", read, pd.DataFrame(columns=list(columns)))

    newest = reading.part("lake", lambda: _newest(lake, as_of), Filter(among={"cutoff_date": [""]}))
    value = [settings.board.value] if settings.board.value in settings.data.known else []
    found = Tables(
        as_of,
        keys=table(lake_tables.SERIES_KEYS, ["series_id", *settings.data.keys]),
        series=table(lake_tables.SERIES, ["series_id", "first", "last", "observations", "active", "why"]),
        trained=table(lake_tables.TRAINED, TRAINED_COLUMNS),
        status=table(lake_tables.SERIES_STATUS, ["series_id", "stage", "kind", "reason", "set_aside"]),
        recent=table(lake_tables.RAW_SALES, ["series_id", "ds", "y", *value], _recent(settings, as_of)),
        forecast=table(lake_tables.PREDICTIONS, ["series_id", "cutoff", "ds", "y_hat", "fallback"], newest),
        attributes=_attributes(settings, lake, reading),
    )
    if as_of is not None:
        found.realised = _realised(warehouse, as_of, reading)
    return found


def _recent(settings: Settings, as_of: datetime | None) -> Filter | None:
    if as_of is None:
        return None
    since = as_of - timedelta(days=grid_of(settings.data.frequency).days)
    return Filter(among={"year": list(range(since.year, as_of.year + 1))}, since=since + timedelta(microseconds=1))


def _newest(lake: Lake, as_of: datetime | None) -> Filter:
    """The forecasts of the data's day; of the newest one before it where that has none yet."""
    if as_of is None:
        return Filter(among={"cutoff_date": [""]})
    today = Filter(among={"cutoff_date": [f"{as_of:%Y-%m-%d}"]})
    ever = Filter(among={"step": [1]}, since=as_of - timedelta(days=62), column="cutoff")
    if lake.version(lake_tables.PREDICTIONS.name) is None or lake.read("predictions", today, ["step"]).num_rows:
        return today
    dates = {f"{day:%Y-%m-%d}" for day in lake.read("predictions", ever, ["cutoff"])["cutoff"].to_pylist()}
    return Filter(among={"cutoff_date": [max(dates, default="")]})


def _attributes(settings: Settings, lake: Lake, reading: Reading) -> Frame:
    if not settings.data.attributes:
        return pd.DataFrame()

    def read() -> Frame:
        rows = lake_tables.read_if_there(lake, lake_tables.RAW_ATTRIBUTES)
        return pd.DataFrame() if rows is None else rows.to_pandas()

    return reading.part("lake", read, pd.DataFrame())


def _realised(warehouse: Warehouse, as_of: datetime, reading: Reading) -> list[Frame]:
    """What the forecasts of each of the last weeks were worth, by series: a week at a time, so that memory stays flat.

    Columns: series_id, week (the Monday of the cutoff's), periods, actual, abs_error, error, covered (periods × share).
    """
    monday = (as_of - timedelta(days=as_of.weekday())).replace(hour=0, minute=0, second=0, microsecond=0)
    weeks = list[Frame]()
    for back in range(REALISED_WEEKS, -1, -1):
        since = monday - timedelta(weeks=back)
        where = Filter(since=since, before=since + timedelta(weeks=1), column="cutoff")
        rows = reading.part("warehouse", lambda where=where: warehouse.read("accuracy", where), None)
        if rows is None:
            return []
        if rows.num_rows:
            weeks.append(_week(rows.to_pandas(), since))
    return weeks


def _week(rows: Frame, monday: datetime) -> Frame:
    size = rows["actual"].abs()
    sums = rows[["series_id", "periods"]].assign(
        actual=size, abs_error=rows["wape"] * size, error=rows["bias"] * size, covered=rows["cover80"] * rows["periods"]
    )
    return sums.groupby("series_id", as_index=False).sum().assign(week=monday)
