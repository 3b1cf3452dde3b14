"""New items: what is forecast for series whose history is hidden, beside the level of their item alone."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._report import Figure
from many_models.forecasting import Spec, pool, prepare, train
from many_models.forecasting.new_items import priors_of_rows
from many_models.forecasting.priors import priors_from
from many_models.forecasting.spec import Prior
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from many_models.forecasting import PooledModels

SEEN = (1, 3, 8)  # observations of its own that a new series has: its first period, its first few


@dataclass(frozen=True)
class Table:
    """A public table: raw rows in the core's names, what is forecast, and the names of the keys."""

    name: str
    raw: pa.Table
    spec: Spec
    keys: tuple[str, ...]
    windows: int


def read_table(folder: Path, name: str) -> Table:
    """The set NAME.parquet with NAME.json in `folder`, attributes too."""
    about = json.loads((folder / f"{name}.json").read_text())
    data = pd.read_parquet(folder / f"{name}.parquet")
    known, attributes = about["known"], about.get("attributes", [])
    columns = {
        "series_id": [SeriesKey(tuple(map(str, row))).series_id for row in data[about["keys"]].to_numpy().tolist()],
        "ds": pa.array(pd.to_datetime(data[about["timestamp"]]).to_numpy("datetime64[us]"), pa.timestamp("us")),
        "y": data[about["target"]].to_numpy(float),
        **{column: pa.Array.from_pandas(data[column]) for column in known},
        **{column: pa.Array.from_pandas(data[column].astype(str)) for column in attributes},
    }
    spec = Spec(
        about["freq"], about["horizon"], season=about["season"], known=tuple(known), attributes=tuple(attributes),
        country=about.get("country", ""), ended_after=10**9,
    )  # fmt: skip
    return Table(name, pa.table(columns), spec, tuple(about["keys"]), about["windows"])


def run_hidden(folder: Path, only: Sequence[str], share: float) -> list[Figure]:
    """Figures of the sets in `folder` whose keys have several parts, with the history of a `share` of series hidden."""
    figures = list[Figure]()
    for path in sorted(folder.glob("*.json")):
        if not path.with_suffix(".parquet").exists() or (only and path.stem not in only):
            continue
        if len(json.loads(path.read_text())["keys"]) > 1:
            figures += measure_hidden(read_table(folder, path.stem), share)
    return figures


def measure_hidden(table: Table, share: float) -> list[Figure]:
    """WAPE, bias and coverage of new series of one set, over its windows, in each of which others are new."""
    found = [_window(table, share, window) for window in range(1, table.windows + 1)]
    rows = pd.concat(found, ignore_index=True)
    figures = list[Figure]()
    for seen in SEEN:
        mine = rows.loc[rows["seen"] == seen, :]
        numbers = {column: mine[column].to_numpy(float) for column in mine.columns if column not in {"series_id", "ds"}}
        total, y = abs(numbers["y"]).sum(), numbers["y"]
        wape = {way: float(abs(numbers[way] - y).sum() / total) for way in ("before", "now", "known")}
        words = f"{table.name}, new series, {seen} observation{'s' if seen > 1 else ''}"
        figures += [
            Figure(f"{words}, WAPE of its item's level", wape["before"], "", ""),
            Figure(f"{words}, WAPE", wape["now"], "", ""),
            Figure(f"{words}, WAPE over its item's level's", wape["now"] / wape["before"], "×", "at most .90"),
            Figure(f"{words}, WAPE had their history been known", wape["known"], "", ""),
            Figure(f"{words}, bias", float((numbers["now"] - y).sum() / total), "", ""),
            *(Figure(f"{words}, cover{level}",
                     float(((y >= numbers[f"lo{level}"]) & (y <= numbers[f"hi{level}"])).mean()), "", bounds)
              for level, bounds in ((80, ".77 to .86"), (95, ".93 to .975"))),
        ]  # fmt: skip
    return figures


def _window(table: Table, share: float, window: int) -> pd.DataFrame:
    """Forecasts and sales of the series that are new in one window, 1 being the last."""
    print(f"{table.name}: window {window}", file=sys.stderr)
    raw, spec, horizon = table.raw, table.spec, table.spec.horizon
    stamps = sorted(pc.unique(raw["ds"]).to_pylist())
    cutoff, end = stamps[-window * horizon - 1], stamps[-(window - 1) * horizon - 1]
    chosen = [
        name for name in pc.unique(raw["series_id"]).to_pylist()
        if int(hashlib.sha256(f"{window} {name}".encode()).hexdigest()[:8], 16) % 1000 < 1000 * share
    ]  # fmt: skip
    hidden = pc.is_in(raw["series_id"], pa.array(chosen))
    after, before = (pa.scalar(stamp, pa.timestamp("us")) for stamp in (cutoff, end))
    ahead = raw.filter(pc.and_(hidden, pc.and_(pc.greater(raw["ds"], after), pc.less_equal(raw["ds"], before))))
    kept = prepare(raw.filter(pc.invert(hidden)), spec, cutoff).rows
    whole = prepare(raw.filter(hidden), spec, cutoff).rows
    pooled = pool(kept, spec, cutoff)
    result = list[pd.DataFrame]()
    told = _forecast(whole, spec, cutoff, pooled, {}, ahead)["y_hat"]
    for seen in SEEN:
        new = _newest(whole, seen)
        priors = priors_of_rows(pa.concat_tables([kept, new]), table.keys, spec)
        plain = {name: Prior(prior.level, prior.origin) for name, prior in _plain(kept, new, table).items()}
        now = _forecast(new, spec, cutoff, pooled, priors, ahead)
        before = _forecast(new, spec, cutoff, None, plain, ahead)["y_hat"]
        part = now.assign(before=before, known=told, seen=seen).rename(columns={"y_hat": "now"}).reset_index()
        numbers = [column for column in part.columns if part[column].dtype.kind in "fi"]
        part = part.loc[:, ["series_id", "ds", *numbers]]
        result.append(part.merge(ahead.select(["series_id", "ds", "y"]).to_pandas(), on=["series_id", "ds"]))
    return pd.concat(result).dropna(subset=["y", "now", "before"])


def _newest(rows: pa.Table, count: int) -> pa.Table:
    """The last `count` rows of each series."""
    frame = rows.select(["series_id"]).to_pandas()
    back = frame.groupby("series_id").cumcount(ascending=False)
    return rows.filter(pa.array((back < count).to_numpy()))


def _forecast(
    rows: pa.Table, spec: Spec, cutoff: datetime, pooled: PooledModels | None, priors: dict[str, Prior], ahead: pa.Table
) -> pd.DataFrame:
    model = train(rows, spec, cutoff, pooled=pooled, priors=priors).model
    return model.predict(None, future=ahead.drop_columns(["y"])).to_pandas().set_index(["series_id", "ds"])


def _plain(kept: pa.Table, new: pa.Table, table: Table) -> dict[str, Prior]:
    """What was known before: the mean level of the others of the item, else of the store."""
    recent = max(8 * table.spec.steps_per_season, 1)
    frame = pa.concat_tables([_newest(kept, recent), new]).select(["series_id", "y"]).to_pandas().dropna()
    levels = {str(name): float(level) for name, level in frame.groupby("series_id")["y"].mean().items()}
    parts = {name: SeriesKey.parse(name, len(table.keys)).parts for name in levels}
    return priors_from(levels, parts, table.keys)
