"""A group: the sum of a store's, a category's or all items, and the items that move it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from many_models.board import charts, night
from many_models.board.reading import Reading
from many_models.data import lake_tables
from many_models.ports import Filter

if TYPE_CHECKING:
    from datetime import datetime

    from fastapi import FastAPI
    from numpy.typing import NDArray

    from many_models.board.items import Items
    from many_models.board.pages import Board
    from many_models.ports import Lake

MOVERS = 12
SHORTEST_LIST, LONGEST_LIST = 2, 60  # values of a key that make groups worth listing


def add_routes(app: FastAPI, board: Board) -> None:
    """Everything, and one group."""

    @app.get("/groups")
    def everything(request: Request) -> Response:
        return _page(board, request, "", "")

    @app.get("/groups/{column}/{value:path}")
    def group(request: Request, column: str, value: str) -> Response:
        return _page(board, request, column, value)


def _page(board: Board, request: Request, column: str, value: str) -> Response:
    user = board.access.user(request)
    items = board.catalogue.items()
    seen = board.seen(user, items)
    mask = np.ones(len(items.frame), bool) if seen is None else seen
    columns = {**{key: key for key in items.keys}, **{name: f"attribute {name}" for name in items.attributes}}
    if column:
        if column not in columns:
            raise HTTPException(404, f"there is no key or attribute {column!r} to make groups by")
        mask = mask & (items.frame[columns[column]].astype(str).to_numpy() == value)
        if not mask.any():
            raise HTTPException(404, f"no item has {column} {value!r}")
    rows, reading = np.flatnonzero(mask), Reading(dict(items.missing))
    agreed = list[dict[str, Any]]()
    if seen is None and items.cutoff is not None and board.settings.hierarchy.asked:  # others' items are in the sums
        cutoff = items.cutoff
        agreed = reading.part("lake", lambda: coherent_sum(board.stores.lake, cutoff, column, value), agreed)
    return board.page(
        request, "group.html", user, items=items, frame=items.frame, column=column, value=value, count=len(rows),
        chart_of=sums(items, rows, board.settings.data.target), realised=night.realised(items, rows),
        states=night.counted_states(items, rows), totals=totals(items, rows), movers=movers(items, rows),
        parts=_parts(items, rows, {n: c for n, c in columns.items() if n != column}), missing=reading.missing,
        agreed=agreed,
    )  # fmt: skip


def coherent_sum(lake: Lake, cutoff: datetime, column: str, value: str) -> list[dict[str, Any]]:
    """What sums that agree (see docs/decisions-guide.md) forecast for a group, or for everything (`column` ""): ds,
    y_hat, lo80, hi80 of each step, in order; nothing where the settings name no such level.
    """
    node = f"{column}|{value}" if column else "total"
    where = Filter(among={"cutoff_date": [f"{cutoff:%Y-%m-%d}"], "node": [node]})
    rows = lake_tables.read_if_there(lake, lake_tables.COHERENT, where)
    names = ["ds", "y_hat", "lo80", "hi80"]
    if rows is None or not set(names) <= set(rows.column_names):
        return []
    return rows.sort_by("ds").select(names).to_pylist()


def sums(items: Items, rows: NDArray[np.int64], target: str) -> charts.Chart:
    """The sums of actuals and forecasts over `rows`."""
    if items.as_of is None or not len(rows):
        return charts.sums_chart(np.array([], "M8[D]"), np.array([]), np.array([], "M8[D]"), np.array([]), target)
    past = items.grid.dates(items.as_of, items.recent.shape[1])
    coming = items.grid.dates(items.cutoff or items.as_of, items.ahead.shape[1], after=True)
    return charts.sums_chart(past, _sum(items.recent[rows]), coming, _sum(items.ahead[rows]), target)


def _sum(values: NDArray[np.float32]) -> NDArray[np.float64]:
    there = np.isfinite(values)
    return np.where(there.any(axis=0), np.where(there, values, 0.0).sum(axis=0, dtype=float), np.nan)


def totals(items: Items, rows: NDArray[np.int64]) -> dict[str, float]:
    """The forecast's sum, that of as many periods before, and their difference, over items that have a forecast."""
    frame = items.frame.iloc[rows]
    there = frame["ahead"].notna()
    ahead, before = float(frame.loc[there, "ahead"].sum()), float(frame.loc[there, "before"].sum())
    return {"ahead": ahead, "before": before, "change": ahead - before}


def movers(items: Items, rows: NDArray[np.int64]) -> list[int]:
    """The items that change the sum most, in either direction."""
    change = items.frame["change"].to_numpy(float)[rows]
    order = np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")[:MOVERS]
    return [int(rows[at]) for at in order if np.isfinite(change[at]) and change[at] != 0]


def _parts(items: Items, rows: NDArray[np.int64], columns: dict[str, str]) -> dict[str, list[tuple[str, float, float]]]:
    """Key or attribute → its values with the sums before and ahead, the largest first."""
    frame = items.frame.iloc[rows]
    found = dict[str, list[tuple[str, float, float]]]()
    for name, column in columns.items():
        values = frame[column].astype(str)
        if SHORTEST_LIST <= values.nunique() <= LONGEST_LIST:
            sums = frame.groupby(values)[["before", "ahead"]].sum().sort_values("ahead", ascending=False)
            found[name] = [(str(v), float(b), float(a)) for v, b, a in sums.itertuples(name=None)]
    return found
