"""Items: every series in one table, searched, filtered and sorted on the server; as a page and as CSV."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import Response

from many_models.board.pages import with_query
from many_models.board.query import CHOICES, NUMBERS, PAGE, chosen, filterable, options, pages, parse_query

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from many_models.board.items import Items
    from many_models.board.pages import Board

SHARES = {"wape", "skill", "noise_floor", "bias", "cover80", "real_wape", "real_bias", "real_cover80", "drift"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take a text that begins so for a formula
SHORTEST_NAME = 7  # characters of a partition in a link, with its quotes and comma encoded
LONGEST_LINK = 6_000  # characters of an address that browsers and Dagster's server take


def add_routes(app: FastAPI, board: Board) -> None:
    """Add the table of items, and the same as a file."""

    @app.get("/items")
    def items_table(request: Request) -> Response:
        user = board.access.user(request)
        items = board.catalogue.items()
        seen = board.seen(user, items)
        pairs = parse_qsl(request.url.query, max_num_fields=200) if request.url.query else []
        query = parse_query(pairs, items)
        rows = chosen(items, query, seen)
        last = pages(len(rows))
        page = min(query.page, last)
        columns = filterable(items)
        return board.page(
            request, "items.html", user,
            items=items, frame=items.frame, query=query, rows=rows[(page - 1) * PAGE : page * PAGE], count=len(rows),
            total=len(items.frame) if seen is None else int(seen.sum()), page=page, pages=last,
            columns=columns, choices=CHOICES, numbers=NUMBERS, shares=SHARES,
            options={column: options(items, column, seen) for column in columns},
            link=lambda **changed: f"/items?{with_query(pairs, **changed)}",
            csv=f"/items.csv?{with_query(pairs, page=None)}",
            backfill=backfill_url(board.settings.board.dagster, items, rows),
            missing=items.missing,
        )  # fmt: skip

    @app.get("/items.csv")
    def items_csv(request: Request) -> Response:
        user = board.access.user(request)
        items = board.catalogue.items()
        pairs = parse_qsl(request.url.query, max_num_fields=200) if request.url.query else []
        rows = chosen(items, parse_query(pairs, items), board.seen(user, items))
        headers = {"content-disposition": 'attachment; filename="items.csv"'}
        return Response(csv_of(items, rows), media_type="text/csv; charset=utf-8", headers=headers)


def csv_of(items: Items, rows: NDArray[np.int64]) -> str:
    """The chosen items with all their columns, for spreadsheets: no text is taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    frame = items.frame.iloc[rows]
    writer.writerow([_cell(name.removeprefix("attribute ")) for name in frame.columns])
    for row in frame.itertuples(index=False, name=None):
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if value != value else round(value, 6)  # noqa: PLR0124  NaN is not itself
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value


def backfill_url(dagster: str, items: Items, rows: NDArray[np.int64], stage: str = "trained_models") -> str:
    """The address at which Dagster's UI has exactly these partitions chosen; "" where it would be too long."""
    if not dagster or not 0 < len(rows) <= LONGEST_LINK // SHORTEST_NAME:
        return ""
    names: Sequence[str] = items.frame["series_id"].to_numpy()[rows].tolist()
    url = f"{dagster}/assets/{stage}?view=partitions&default_range={quote(','.join(map(_range, names)), safe='')}"
    return url if len(url) <= LONGEST_LINK else ""


def _range(name: str) -> str:
    """A partition in Dagster's language of selections: in quotes, whatever it has (a series_id escapes its own)."""
    return f'"{name}"'
