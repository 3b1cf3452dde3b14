"""What the page of one item shows, read from the lake."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from many_models.board.frames import Frame, pd
from many_models.board.reading import Reading
from many_models.data import lake_tables
from many_models.errors import ManyModelsError
from many_models.keys import SeriesKey, pack_of
from many_models.ports import Filter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.ports import Lake
    from many_models.settings import Settings

EARLIER_DAYS = 120  # how far back earlier forecasts are shown
EARLIER = 8  # how many of them
MOST_RECORDS = 64  # items that are kept as they were read: about 10 MB at 4,000 days
READ = (  # what a record is made of: it is read again when one of them changes
    lake_tables.DATASETS,
    lake_tables.PREDICTIONS,
    lake_tables.RAW_COVARIATES,
    lake_tables.SERIES,
    lake_tables.TRAINED,
    lake_tables.CHAMPIONS,
    lake_tables.SERIES_STATUS,
    lake_tables.SCORES,
    lake_tables.DECISIONS,
    lake_tables.STOCK,
)
NEVER = datetime(9000, 1, 1)  # what begins then has columns and no rows


@dataclass(slots=True)
class ItemRecord:
    """One series: frames sorted by time, rows as the lake has them. What is not there is empty."""

    series_id: str
    known: tuple[str, ...]
    history: Frame
    forecast: Frame
    earlier: Mapping[datetime, Frame] = field(default_factory=dict["datetime", Frame])
    future: Frame | None = None
    series: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trained: Mapping[str, Any] = field(default_factory=dict[str, Any])
    champion: Mapping[str, Any] = field(default_factory=dict[str, Any])
    status: Sequence[Mapping[str, Any]] = ()
    scores: Sequence[Mapping[str, Any]] = ()
    decisions: Sequence[Mapping[str, Any]] = ()
    stock: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def weights(self) -> dict[str, float]:
        """Candidate → its weight in the combination."""
        return json.loads(self.trained.get("weights") or "{}")


@dataclass(slots=True)
class Records:
    """The records of the items that were opened last, while the lake stays as it is."""

    _found: OrderedDict[str, tuple[object, ItemRecord]] = field(
        default_factory=OrderedDict[str, "tuple[object, ItemRecord]"]
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(
        self, settings: Settings, lake: Lake, series_id: str, as_of: datetime | None, reading: Reading
    ) -> ItemRecord:
        """The record of a series. One that lacks a part is not kept: the part may be back at the next request."""
        state = _state(lake, as_of)
        with self._lock:
            seen, record = self._found.get(series_id, (None, None))
            if record is not None and state is not None and seen == state:
                self._found.move_to_end(series_id)
                return record
        own = Reading()
        record = read_item(settings, lake, series_id, as_of, own)
        reading.missing.update({what: why for what, why in own.missing.items() if what not in reading.missing})
        if state is not None and not own.missing:
            with self._lock:
                self._found[series_id] = state, record
                while len(self._found) > MOST_RECORDS:
                    self._found.popitem(last=False)
        return record


def _state(lake: Lake, as_of: datetime | None) -> object:
    """What changes with the tables of a record; None where the lake does not say."""
    try:
        return as_of, *(lake.fingerprint(table.name) for table in READ)
    except ManyModelsError:
        return None


def read_item(settings: Settings, lake: Lake, series_id: str, as_of: datetime | None, reading: Reading) -> ItemRecord:
    """The record of a series that the table of items has."""
    keys = settings.data.keys
    pack = pack_of(SeriesKey.parse(series_id, len(keys)), keys, settings.packs.by, settings.packs.buckets)
    own = Filter(among={"pack": [pack], "series_id": [series_id]})
    of_series = Filter(among={"series_id": [series_id]})

    def rows(table: lake_tables.LakeTable, where: Filter) -> list[dict[str, Any]]:
        return reading.part("lake", lambda: lake_tables.records(lake, table, where), list[dict[str, Any]]())

    def one(table: lake_tables.LakeTable, where: Filter) -> dict[str, Any]:
        found = rows(table, where)
        return found[0] if found else {}

    history = reading.part("lake", lambda: _frame(lake, lake_tables.DATASETS, own), _nothing())
    forecasts = reading.part("lake", lambda: _forecasts(lake, series_id, as_of), {})
    newest = max(forecasts, default=None)
    earlier = [cutoff for cutoff in sorted(forecasts) if cutoff != newest][-EARLIER:]
    known = tuple(name for name in settings.data.known if name in history)
    return ItemRecord(
        series_id,
        known,
        history,
        forecasts[newest] if newest is not None else _nothing(),
        {cutoff: forecasts[cutoff] for cutoff in earlier},
        reading.part("lake", lambda: _future(settings, lake, series_id, newest), None),
        one(lake_tables.SERIES, own),
        one(lake_tables.TRAINED, own),
        one(lake_tables.CHAMPIONS, of_series),
        rows(lake_tables.SERIES_STATUS, of_series),
        _scored(rows(lake_tables.SCORES, own)),
        sorted(rows(lake_tables.DECISIONS, of_series), key=lambda row: str(row["decided_at"]), reverse=True),
        _newest_of(rows(lake_tables.STOCK, Filter({"series_id": [series_id]}, since=newest, column="cutoff")))
        if settings.stock.asked and newest is not None
        else {},
    )


def _newest_of(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the newest cutoff."""
    return max(rows, key=lambda row: row["cutoff"], default={})


def _nothing() -> Frame:
    return pd.DataFrame()


def _frame(lake: Lake, table: lake_tables.LakeTable, where: Filter) -> Frame:
    found = lake_tables.read_if_there(lake, table, where)
    return _nothing() if found is None else found.to_pandas().sort_values("ds").reset_index(drop=True)


def _forecasts(lake: Lake, series_id: str, as_of: datetime | None) -> dict[datetime, Frame]:
    """Cutoff → the forecast that was made then, of the last months."""
    since = None if as_of is None else as_of - timedelta(days=EARLIER_DAYS)
    where = Filter(among={"series_id": [series_id]}, since=since, column="cutoff")
    frame = _frame(lake, lake_tables.PREDICTIONS, where)
    if frame.empty:
        return {}
    return {cutoff.to_pydatetime(): rows.reset_index(drop=True) for cutoff, rows in frame.groupby("cutoff")}


def _future(settings: Settings, lake: Lake, series_id: str, cutoff: datetime | None) -> Frame | None:
    """What is known of the periods after the cutoff."""
    from many_models.data.covariates import of_series

    if cutoff is None or not settings.data.known:
        return None
    parts = dict(zip(settings.data.keys, SeriesKey.parse(series_id, len(settings.data.keys)).parts, strict=True))
    if lake.version(lake_tables.RAW_COVARIATES.name) is None:
        return None
    among = _among(lake, parts)
    there = lake.read(lake_tables.RAW_COVARIATES.name, Filter(among, since=cutoff + lake_tables.AFTER))
    found = of_series(there, [series_id], settings.data.keys)
    return found.to_pandas().sort_values("ds").reset_index(drop=True)


def _among(lake: Lake, parts: Mapping[str, str]) -> dict[str, list[str]]:
    """The keys that covariates are told by: all of the series' or some of them."""
    nothing = lake.read(lake_tables.RAW_COVARIATES.name, Filter(since=NEVER))
    return {name: [part] for name, part in parts.items() if name in nothing.column_names}


def _scored(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Candidate → its scores over all windows, best first."""
    found = dict[str, dict[str, Any]]()
    for row in rows:
        told = found.setdefault(
            row["candidate"],
            {"candidate": row["candidate"], "error": 0.0, "actual": 0.0, "windows": 0, "rmsse": [], "problem": ""},
        )
        told["error"] += row["abs_error"] or 0.0
        told["actual"] += row["abs_actual"] or 0.0
        told["windows"] += 1
        told["problem"] = told["problem"] or row["problem"] or ""
        if row["rmsse"] is not None:
            told["rmsse"].append(row["rmsse"])
    for told in found.values():
        told["wape"] = told["error"] / told["actual"] if told["actual"] > 0 and told["rmsse"] else None
        told["rmsse"] = float(np.mean(told["rmsse"])) if told["rmsse"] else None
    return sorted(found.values(), key=lambda told: told["wape"] if told["wape"] is not None else np.inf)
