"""The page of one item: history and forecast, what was forecast before, candidates, decisions, versions."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from many_models.board import charts
from many_models.board.pages import LONGEST_FORM
from many_models.board.reading import Reading
from many_models.board.what_if import compare, explained, plan_of
from many_models.data import lake_tables
from many_models.errors import InputError, ManyModelsError
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI

    from many_models.board.item import ItemRecord
    from many_models.board.items import Items
    from many_models.board.pages import Board
    from many_models.board.what_if import Plan
    from many_models.ports import Lake
    from many_models.serving.service import Service
    from many_models.settings import Settings

NEAR = 8  # names that are offered for one that is not there


def add_routes(app: FastAPI, board: Board) -> None:
    """Add the page of an item."""

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
        record = board.records.read(board.settings, board.stores.lake, series_id, items.as_of, reading)
        plan = plan_of(record)
        board.plans.keep(series_id, board.catalogue.version, plan)
        return board.page(
            request,
            "item.html",
            user,
            record=record,
            facts=items.frame.iloc[row].to_dict(),
            items=items,
            place=row,
            keys=dict(zip(items.keys, SeriesKey.parse(series_id, len(items.keys)).parts, strict=True)),
            charts=_charts(board.settings, record, reading),
            links=links(board.settings, record),
            earlier=earlier_scores(record),
            made_by=made_by(record),
            plan=plan if board.stores.service is not None else None,
            releases=reading.part("lake", lambda: release_words(board.stores.lake, reasons=seen is None), {}),
            missing=reading.missing,
        )

    @app.post("/items/{series_id}/what-if")
    async def what_if(request: Request, series_id: str) -> Response:
        plan, service = await _planned(board, request, series_id)
        try:
            return JSONResponse(await compare(service, plan, await _asked(request)))
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except ManyModelsError as error:
            raise HTTPException(503, str(error)) from error

    @app.get("/items/{series_id}/explanation")
    async def explanation(request: Request, series_id: str) -> Response:
        plan, service = await _planned(board, request, series_id)
        try:
            return JSONResponse(await explained(service, plan))
        except ManyModelsError as error:
            raise HTTPException(503, str(error)) from error


async def _planned(board: Board, request: Request, series_id: str) -> tuple[Plan, Service]:
    """The plan of an item that the user may see, and what answers about it."""
    user = board.access.user(request)
    items = await run_in_threadpool(board.catalogue.items)
    seen, row = board.seen(user, items), items.place(series_id)
    if row is None or (seen is not None and not seen[row]) or board.stores.service is None:
        raise HTTPException(404, "there is no such item")
    plan = board.plans.get(series_id, board.catalogue.version)
    if plan is None:
        plan = await run_in_threadpool(_plan, board, series_id, items)
    if plan is None:
        raise HTTPException(409, "no model forecasts this item")
    return plan, board.stores.service


def _plan(board: Board, series_id: str, items: Items) -> Plan | None:
    version, reading = board.catalogue.version, Reading()
    plan = plan_of(board.records.read(board.settings, board.stores.lake, series_id, items.as_of, reading))
    if not reading.missing:
        board.plans.keep(series_id, version, plan)
    return plan


async def _asked(request: Request) -> dict[str, Any]:
    """The JSON object that a request sends. Raises InputError for anything else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            raise InputError(f"a what-if has at most {LONGEST_FORM} bytes")
    try:
        told: object = json.loads(body)
    except ValueError as error:
        raise InputError("a what-if is sent as JSON") from error
    if not isinstance(told, dict):
        raise InputError("a what-if is a JSON object")
    return told


def made_by(record: ItemRecord) -> str:
    """The model that made the forecast which the page shows: another release may be live by now."""
    return "" if record.forecast.empty else str(record.forecast["model"].iloc[0])


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


def release_words(lake: Lake, *, reasons: bool = True) -> dict[str, str]:
    """Release → what became of it, by whom and why: the newest line of the log of each.

    A reason is about the whole release and may name its totals: without `reasons` it is left out.
    """
    rows = sorted(lake_tables.records(lake, lake_tables.RELEASE_LOG), key=lambda row: str(row["decided_at"]))
    words = {"proposed": "waits for approval", "published": "went live"}
    found = dict[str, str]()
    for row in rows:
        told = words.get(row["event"], str(row["event"]))
        why = f": {row['reason']}" if reasons and row["reason"] else ""
        found[row["release_id"]] = told if row["event"] in words else f"{told} by {row['actor']}{why}"
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
        found.append(
            {
                "cutoff": cutoff,
                "periods": len(both),
                "actual": float(both["y"].sum()),
                "forecast": float(both["y_hat"].sum()),
                "wape": float(error.abs().sum()) / size if size else None,
                "bias": float(error.sum()) / size if size else None,
                "cover80": float(inside),
            }
        )
    return [told for told in found if told["periods"]]


def nearest_names(series_id: str, names: list[str]) -> list[str]:
    """Items with a name like that one."""
    try:
        words = " ".join(SeriesKey.parse(series_id).parts).casefold().split()
    except InputError:
        words = series_id.casefold().split()
    with_all = [name for name in names if all(word in name.casefold() for word in words)][:NEAR]
    return with_all or difflib.get_close_matches(series_id, names[:20_000], NEAR, 0.6)
