"""The views that Power BI and other reports read: standard SQL over what a load brings into the warehouse.

`latest_forecasts`: per series, the forecast of its newest cutoff. `forecasts_and_actuals`: every forecast, with the
actual where it has come. `accuracy_by_series_week`: one row per series and week, with sums that add up to any other
grain. `accuracy_by_week` and, for each of several keys, `accuracy_by_KEY`. `promotion_history`: all decisions that
promoted or rejected a model.

Accuracy counts each actual against every forecast of it that was made, of whatever cutoff: wape = sum|y - y_hat| /
sum|y|, accuracy = 1 - wape, bias = sum(y_hat - y) / sum|y|, all null where nothing was sold; coverNN is the share of
actuals within the NN % interval, bounds included, null without intervals.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from many_models.keys import quoted, slug
from many_models.ports import WarehouseView
from many_models.reporting.decision_views import decision_views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WEEK = "week_start"  # the Monday of an actual's week, a date
LONGEST = 40  # characters of a key's name in a view's, which has at most 63 bytes in PostgreSQL
BOTH = ("predictions", "actuals")


def report_views(keys: Sequence[str], columns: Mapping[str, Sequence[str]]) -> list[WarehouseView]:
    """The views of the tables that `columns` (table → its columns) names; `keys` are the user's names of key parts."""
    views: list[WarehouseView] = []
    forecast = columns.get("predictions", ())
    by_key = {f"accuracy_by_{slug(key) if len(key) > LONGEST else key}": key for key in keys if len(keys) > 1}
    if forecast:
        views.append(_latest(forecast))
    if forecast and "actuals" in columns:
        levels = [name[2:] for name in forecast if re.fullmatch(r"lo\d+", name) and f"hi{name[2:]}" in forecast]
        views += [
            _compared(forecast, levels),
            *(_accuracy(name, [key], levels) for name, key in by_key.items()),
            _accuracy("accuracy_by_week", [WEEK], levels),
            _accuracy("accuracy_by_series_week", ["series_id", *keys, WEEK], levels),
        ]
    if "decisions" in columns:
        listed = _listed(columns["decisions"])
        query = f"SELECT {listed} FROM {{decisions}} WHERE {quoted('action')} <> 'keep'"  # noqa: S608 -- quoted
        views.append(WarehouseView("promotion_history", query, ("decisions",)))
    return [*views, *decision_views(columns)]


def _latest(columns: Sequence[str]) -> WarehouseView:
    newest = 'SELECT "series_id", MAX("cutoff") AS "newest" FROM {predictions} GROUP BY "series_id"'
    query = (
        f"SELECT {_listed(columns, 'p.')} FROM {{predictions}} p INNER JOIN ({newest}) n "  # noqa: S608 -- quoted
        'ON n."series_id" = p."series_id" AND n."newest" = p."cutoff"'
    )
    return WarehouseView("latest_forecasts", query, ("predictions",))


def _compared(columns: Sequence[str], levels: Sequence[str]) -> WarehouseView:
    found = [
        'a."y" AS "y"',
        f'a."{WEEK}" AS "{WEEK}"',
        'p."y_hat" - a."y" AS "error"',
        *(f'{_within(level)} AS "within{level}"' for level in levels),
    ]
    query = (
        f"SELECT {_listed(columns, 'p.')}, {', '.join(found)} FROM {{predictions}} p "  # noqa: S608 -- quoted
        'LEFT JOIN {actuals} a ON a."series_id" = p."series_id" AND a."ds" = p."ds"'
    )
    return WarehouseView("forecasts_and_actuals", query, BOTH)


def _accuracy(name: str, by: Sequence[str], levels: Sequence[str]) -> WarehouseView:
    """Sums and shares over all forecasts whose actual has come, one row for each combination of the columns `by`."""
    group = _listed(by, "a.")
    gap, size = 'ABS(a."y" - p."y_hat")', 'NULLIF(SUM(ABS(a."y")), 0)'
    error = 'SUM(p."y_hat" - a."y")'
    found = [
        'COUNT(*) AS "periods"',
        'SUM(a."y") AS "actual"',
        'SUM(p."y_hat") AS "forecast"',
        f'SUM({gap}) AS "abs_error"',
        'SUM(ABS(a."y")) AS "abs_actual"',
        f'SUM({gap}) / {size} AS "wape"',
        f'1 - SUM({gap}) / {size} AS "accuracy"',
        f'{error} / {size} AS "bias"',
        *(f'AVG({_within(level)}) AS "cover{level}"' for level in levels),
    ]
    query = (
        f"SELECT {group}, {', '.join(found)} FROM {{predictions}} p INNER JOIN {{actuals}} a "  # noqa: S608 -- quoted
        f'ON a."series_id" = p."series_id" AND a."ds" = p."ds" '
        f'WHERE a."y" IS NOT NULL AND p."y_hat" IS NOT NULL GROUP BY {group}'
    )
    return WarehouseView(name, query, BOTH)


def _within(level: str) -> str:
    """1 when the actual is within the interval, 0 when it is outside, null where one of them is not there."""
    inside = f'a."y" >= p."lo{level}" AND a."y" <= p."hi{level}"'
    outside = f'a."y" < p."lo{level}" OR a."y" > p."hi{level}"'
    return f"CASE WHEN {inside} THEN CAST(1 AS FLOAT) WHEN {outside} THEN CAST(0 AS FLOAT) END"


def _listed(columns: Sequence[str], table: str = "") -> str:
    return ", ".join(f"{table}{quoted(name)}" for name in columns)
