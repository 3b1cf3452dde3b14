"""Tonight: what ran, how the items are, what forecasts were worth, what waits, and what costs most."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from many_models.board import night
from many_models.board.reading import Reading
from many_models.board.releases import of_own
from many_models.data import lake_tables

if TYPE_CHECKING:
    from fastapi import FastAPI

    from many_models.board.pages import Board


def add_routes(app: FastAPI, board: Board) -> None:
    """Add the first page."""

    @app.get("/")
    def tonight(request: Request) -> Response:
        user = board.access.user(request)
        items = board.catalogue.items()
        seen = board.seen(user, items)
        rows = np.arange(len(items.frame)) if seen is None else np.flatnonzero(seen)
        reading = Reading(dict(items.missing))
        runs = reading.part("Dagster's records", board.night, ())
        frame, limited = items.frame.iloc[rows], seen is not None
        waiting = reading.part("production registry", board.waiting, None)
        if limited:  # numbers over all series are not for those who see some
            runs = [replace(run, done=None, failed=None) for run in runs]
            waiting = of_own(waiting, frozenset(frame["series_id"]))
        return board.page(
            request,
            "tonight.html",
            user,
            items=items,
            frame=items.frame,
            rows=rows,
            states=night.counted_states(items, rows),
            stale=int(frame["stale"].sum()),
            troubled=frame[frame["failure"] != ""].head(50).to_dict("records"),
            quarantined={} if limited else reading.part("lake", lambda: _quarantined(board), {}),
            realised=night.realised(items, rows),
            costliest=night.costliest(items, rows),
            runs=night.newest_of_each(runs),
            cost=night.cost_of(runs, board.settings.compute.cores, board.settings.compute.core_hour_price),
            live=reading.part("production registry", board.live, None),
            waiting=waiting,
            limited=limited,
            missing=reading.missing,
        )


def _quarantined(board: Board) -> dict[str, int]:
    """Reason → rows in quarantine."""
    rows = lake_tables.read_if_there(board.stores.lake, lake_tables.QUARANTINE, columns=["reason"])
    return {} if rows is None else lake_tables.counts(rows, "reason")
