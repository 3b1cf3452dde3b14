"""The table of items: one row a series, with everything that people filter and sort by. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from many_models.board.frames import Frame, pd

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.board.grid import Grid
    from many_models.board.tables import Tables

MOST_OF_VALUE, NEXT_OF_VALUE = 0.8, 0.95  # class A makes up the first share of the turnover, A and B the second
STEADY, CHANGING = 0.5, 1.0  # coefficient of variation of weekly sums: X below the first, Z from the second on
LEAST_REALISED = 7  # periods before drift is told
STATES = ("forecast", "fallback", "no forecast", "failed", "set aside", "inactive")
SILENT = "silent since"  # how the table of series says that an active series has gone stale


@dataclass(frozen=True)
class Items:
    """The items, and what their pages and groups are drawn of.

    `frame` has a row a series, in the order of `recent` (series × columns of `grid`, the last one is that of `as_of`;
    NaN where there was no row) and `ahead` (series × columns after `cutoff`). `weekly` has what forecasts were worth,
    by series and week.
    """

    frame: Frame
    grid: Grid
    recent: NDArray[np.float32]
    ahead: NDArray[np.float32]
    weekly: Frame
    keys: tuple[str, ...]
    attributes: tuple[str, ...]
    as_of: datetime | None
    cutoff: datetime | None
    missing: Mapping[str, str]
    searched: NDArray[np.str_]

    def place(self, series_id: str) -> int | None:
        """The row of a series."""
        found = np.flatnonzero(self.frame["series_id"].to_numpy() == series_id)
        return int(found[0]) if len(found) else None


def build_items(tables: Tables, grid: Grid, keys: Sequence[str], value: str, missing: Mapping[str, str]) -> Items:
    """The table of items. `value` names the column of `tables.recent`, or the attribute, that a unit is worth."""
    frame = tables.keys.sort_values("series_id").reset_index(drop=True)
    frame = frame[["series_id", *keys]].fillna("").astype(str)
    recent, worth = _recent(tables, grid, frame, value)
    cutoff, ahead, fallback = _ahead(tables, grid, frame)
    attributes = tuple(name for name in tables.attributes.columns if name not in keys)
    frame = _with_attributes(frame, tables.attributes, keys)
    joined = frame[["series_id"]].merge(tables.series, on="series_id", how="left")
    joined = joined.merge(tables.trained.drop_duplicates("series_id"), on="series_id", how="left")
    for name in ("wape", "baseline_wape", "skill", "noise_floor", "bias", "cover80"):
        frame[name] = pd.to_numeric(joined[name], errors="coerce").to_numpy(float)
    frame["candidate"] = joined["candidate"].fillna("").astype(str)
    frame["observations"] = pd.to_numeric(joined["observations"], errors="coerce").fillna(0).to_numpy(int)
    why = joined["why"].fillna("").astype(str)
    active = joined["active"].eq(True).to_numpy()  # noqa: FBT003
    frame["why"], frame["stale"] = why, active & why.str.startswith(SILENT).to_numpy()
    frame["fallback"] = fallback
    if value in attributes:
        worth = pd.to_numeric(frame[f"attribute {value}"], errors="coerce").to_numpy(float)
    _add_volume(frame, grid, recent, ahead, np.where(np.isfinite(worth), worth, 1.0))
    _add_state(frame, tables.status, active, np.array(np.isfinite(ahead).any(axis=1), bool))
    weekly = _add_realised(frame, tables.realised)
    texts = frame[["series_id", *keys]].agg("\n".join, axis=1) if len(frame) else pd.Series([], dtype=str)
    searched = texts.str.casefold().to_numpy(str)
    return Items(
        frame, grid, recent, ahead, weekly, tuple(keys), attributes, tables.as_of, cutoff, dict(missing), searched
    )


def _recent(tables: Tables, grid: Grid, frame: Frame, value: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Actuals by series and column of the grid, and what a unit of each series is worth (NaN: not known)."""
    n = len(frame)
    recent, worth = np.full((n, grid.columns), np.nan, np.float32), np.full(n, np.nan)
    if tables.as_of is None or tables.recent.empty or not n:
        return recent, worth
    rows = tables.recent[tables.recent["ds"] <= tables.as_of]
    place = pd.Index(frame["series_id"]).get_indexer(rows["series_id"])
    last = grid.number(np.array([tables.as_of], "datetime64[us]"))[0]
    back = last - grid.number(rows["ds"].to_numpy("datetime64[us]"))
    good = (place >= 0) & (back >= 0) & (back < grid.columns) & rows["y"].notna().to_numpy()
    cells = place[good] * grid.columns + grid.columns - 1 - back[good]
    y = rows["y"].to_numpy(float)[good]
    sums, counts = (np.bincount(cells, w, recent.size) for w in (y, np.ones(len(y))))
    recent[:] = np.where(counts > 0, sums, np.nan).reshape(recent.shape)
    if value in rows:
        newest = rows[good].dropna(subset=[value]).sort_values("ds").drop_duplicates("series_id", keep="last")
        found = pd.to_numeric(newest[value], errors="coerce").to_numpy(float)
        worth[pd.Index(frame["series_id"]).get_indexer(newest["series_id"])] = found
    return recent, worth


def _ahead(tables: Tables, grid: Grid, frame: Frame) -> tuple[datetime | None, NDArray[np.float32], list[str]]:
    """The newest cutoff, its forecasts by series and column, and their fallbacks."""
    rows, n = tables.forecast, len(frame)
    if rows.empty or not n:
        return None, np.full((n, 1), np.nan, np.float32), [""] * n
    cutoff = rows["cutoff"].max()
    step = grid.number(rows["ds"].to_numpy("datetime64[us]"))
    step -= grid.number(np.array([cutoff], "datetime64[us]"))[0] + 1
    horizon = max(int(step.max()) + 1, 1)
    place = pd.Index(frame["series_id"]).get_indexer(rows["series_id"])
    good = (place >= 0) & (step >= 0) & rows["y_hat"].notna().to_numpy()
    cells = place[good] * horizon + step[good]
    y_hat = rows["y_hat"].to_numpy(float)[good]
    sums, counts = (np.bincount(cells, weights, n * horizon) for weights in (y_hat, np.ones(len(y_hat))))
    ahead = np.where(counts > 0, sums, np.nan).reshape(n, horizon).astype(np.float32)
    fallback = np.full(n, "", object)
    fallback[place[good]] = rows["fallback"].fillna("").to_numpy(object)[good]
    return cutoff.to_pydatetime(), ahead, fallback.tolist()


def _with_attributes(frame: Frame, attributes: Frame, keys: Sequence[str]) -> Frame:
    """`frame` with a column `attribute NAME` for each attribute."""
    own = [name for name in keys if name in attributes.columns]
    if not own:
        return frame
    named = attributes.rename(columns={n: f"attribute {n}" for n in attributes.columns if n not in keys})
    named[own] = named[own].fillna("").astype(str)
    return frame.merge(named.drop_duplicates(own), on=own, how="left", validate="many_to_one")


def _add_volume(
    frame: Frame, grid: Grid, recent: NDArray[np.float32], ahead: NDArray[np.float32], worth: NDArray[np.float64]
) -> None:
    """Volume and turnover a column of the grid, the classes ABC and XYZ, and what is ahead beside what was."""
    seen = np.isfinite(recent)
    total = np.where(seen, recent, 0.0).sum(axis=1, dtype=float)
    frame["volume"] = np.divide(total, seen.sum(axis=1), out=np.zeros(len(frame)), where=seen.any(axis=1))
    frame["worth"] = worth
    turnover = frame["volume"].to_numpy() * worth
    frame["turnover"] = turnover
    order = np.argsort(-turnover, kind="stable")
    before = np.cumsum(turnover[order]) - turnover[order]
    share = before / max(float(turnover.sum()), 1e-12)
    abc = np.full(len(frame), "C", object)
    abc[order[share < NEXT_OF_VALUE]] = "B"
    abc[order[share < MOST_OF_VALUE]] = "A"
    abc[turnover <= 0] = "C"
    groups = (len(frame), grid.columns // grid.together, grid.together)
    weeks = np.where(seen, recent, 0.0).reshape(groups).sum(axis=2, dtype=float)
    mean = weeks.mean(axis=1)
    scatter = np.divide(weeks.std(axis=1), mean, out=np.full(len(frame), np.inf), where=mean > 0)
    frame["abc"] = abc
    frame["xyz"] = np.select([scatter < STEADY, scatter < CHANGING], ["X", "Y"], "Z")
    steps = min(ahead.shape[1], recent.shape[1])
    frame["ahead"] = np.where(np.isfinite(ahead).any(axis=1), np.nansum(ahead[:, :steps], axis=1, dtype=float), np.nan)
    frame["before"] = np.nansum(recent[:, recent.shape[1] - steps :], axis=1, dtype=float)
    frame["change"] = frame["ahead"] - frame["before"]


def _add_state(frame: Frame, status: Frame, active: NDArray[np.bool_], forecast: NDArray[np.bool_]) -> None:
    first = status.drop_duplicates("series_id")
    place = pd.Index(frame["series_id"]).get_indexer(first["series_id"])
    failed, aside = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    failure = np.full(len(frame), "", object)
    known = place >= 0
    failed[place[known]] = True
    failure[place[known]] = (first["stage"].astype(str) + ": " + first["reason"].astype(str)).to_numpy(object)[known]
    aside[place[known]] = first["set_aside"].fillna(value=False).astype(bool).to_numpy()[known]
    fallback = frame["fallback"].ne("").to_numpy()
    frame["failure"] = failure
    conditions = [aside, failed, ~active, ~forecast, fallback]
    frame["state"] = np.select(conditions, ["set aside", "failed", "inactive", "no forecast", "fallback"], "forecast")


def _add_realised(frame: Frame, weeks: Sequence[Frame]) -> Frame:
    """What the forecasts of the last weeks were worth, by series, beside the backtest; and what their error costs."""
    names = ["periods", "actual", "abs_error", "error", "covered"]
    weekly = pd.concat(weeks, ignore_index=True) if weeks else pd.DataFrame(columns=["series_id", *names, "week"])
    sums = weekly.groupby("series_id")[names].sum().reindex(frame["series_id"]) if len(weekly) else None
    n = len(frame)
    told = {name: np.full(n, np.nan) if sums is None else sums[name].to_numpy(float) for name in names}
    size = np.where(told["actual"] > 0, told["actual"], np.nan)
    frame["real_wape"], frame["real_bias"] = told["abs_error"] / size, told["error"] / size
    frame["real_cover80"] = told["covered"] / np.where(told["periods"] > 0, told["periods"], np.nan)
    enough = (told["periods"] >= LEAST_REALISED) & (frame["wape"].to_numpy() > 0)
    frame["drift"] = np.where(enough, frame["real_wape"] / frame["wape"].where(frame["wape"] > 0) - 1.0, np.nan)
    wape = frame["real_wape"].where(frame["real_wape"].notna(), frame["wape"])
    frame["cost"] = wape * frame["turnover"]
    return weekly
