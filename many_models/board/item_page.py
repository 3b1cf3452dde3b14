"""The page of one item: history and forecast, what was forecast before, candidates, decisions, versions."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from many_models.board import charts
from many_models.board.item import read_item
from many_models.board.reading import Reading
from many_models.errors import InputError
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

    from many_models.board.item import ItemRecord
    from many_models.board.pages import Board
    from many_models.settings import Settings

NEAR = 8  # names that are offered for one that is not there


def add_routes(app: FastAPI, board: Board) -> None:
    """The page."""

    @app.get("/items/{series_id}")
    def item(request: Request, series_id: str) -> Response:
        user = board.access.user(request)
        items = board.catalogue.items()
        seen = board.seen(user, items)
        row = items.place(series_id)
        if row is None or (seen is not None and not seen[row]):
            shown = items.frame["series_id"].to_numpy() if seen is None else items.frame["series_id"].to_numpy()[seen]
            reason = "There is no such item. It may have been renamed at the source, or never have sold anything."
            near = nearest_names(series_id, shown.tolist())
            return board.page(request, "problem.html", user, 404, reason=reason, near=near)
        reading = Reading(dict(items.missing))
        record = read_item(board.settings, board.stores.lake, series_id, items.as_of, reading)
        return board.page(
            request, "item.html", user,
            record=record, facts=items.frame.iloc[row].to_dict(), items=items, place=row,
            keys=dict(zip(items.keys, SeriesKey.parse(series_id, len(items.keys)).parts, strict=True)),
            charts=_charts(board.settings, record, reading), links=links(board.settings, record),
            earlier=earlier_scores(record), missing=reading.missing,
        )  # fmt: skip


def _charts(settings: Settings, record: ItemRecord, reading: Reading) -> dict[str, charts.Chart]:
    target = settings.data.target
    holidays = reading.part("holidays", lambda: holiday_names(settings), {})
    found = dict[str, charts.Chart]()
    if not record.history.empty or not record.forecast.empty:
        found["history"] = charts.history_chart(
            record.history, record.forecast, record.future, holidays, record.known, target
        )
    if record.earlier:
        found["earlier"] = charts.earlier_chart(record.history, record.earlier, target)
    return found


def holiday_names(settings: Settings) -> Mapping[str, str]:
    """ISO date → the holiday's name: the country's and the user's own."""
    from many_models.board.holidays import names_of

    return names_of(settings)


def links(settings: Settings, record: ItemRecord) -> dict[str, str]:
    """Where else to look: text → address. Only to what the settings give an address of."""
    found = dict[str, str]()
    if base := settings.board.dagster:
        key = quote(record.series_id, safe="")
        for stage, name in (("predictions", "its forecasts"), ("trained_models", "its training")):
            found[f"Dagster: {name}"] = f"{base}/assets/{stage}?view=partitions&partition={key}"
    ref = str(record.champion.get("ref", ""))
    if settings.board.mlflow and "/" in ref:
        name, _, version = ref.rpartition("/")
        model = f"{quote(name, safe='')}/versions/{quote(version, safe='')}"
        found["MLflow: its model version"] = f"{settings.board.mlflow}/#/models/{model}"
    return found


def earlier_scores(record: ItemRecord) -> list[dict[str, Any]]:
    """What each earlier forecast was worth so far, newest first."""
    if record.history.empty:
        return []
    actual = record.history[["ds", "y"]].dropna()
    found = list[dict[str, Any]]()
    for cutoff, rows in sorted(record.earlier.items(), reverse=True):
        both = rows.merge(actual, on="ds")
        size = float(both["y"].abs().sum())
        error = both["y_hat"] - both["y"]
        inside = both["y"].between(both["lo80"], both["hi80"]).mean() if "lo80" in both and len(both) else np.nan
        found.append({
            "cutoff": cutoff, "periods": len(both), "actual": float(both["y"].sum()),
            "forecast": float(both["y_hat"].sum()), "wape": float(error.abs().sum()) / size if size else None,
            "bias": float(error.sum()) / size if size else None, "cover80": float(inside),
        })  # fmt: skip
    return [told for told in found if told["periods"]]


def nearest_names(series_id: str, names: list[str]) -> list[str]:
    """Items with a name like that one."""
    try:
        words = " ".join(SeriesKey.parse(series_id).parts).casefold().split()
    except InputError:
        words = series_id.casefold().split()
    with_all = [name for name in names if all(word in name.casefold() for word in words)][:NEAR]
    return with_all or difflib.get_close_matches(series_id, names[:20_000], NEAR, 0.6)
