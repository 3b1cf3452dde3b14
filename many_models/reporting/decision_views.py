"""Views on the tables of decisions: each shows its newest cutoff."""

from __future__ import annotations

from typing import TYPE_CHECKING

from many_models.keys import quoted
from many_models.ports import WarehouseView

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NEWEST = {  # view → table whose newest cutoff it shows
    "latest_stock": "stock_recommendations",
    "latest_sums": "coherent_predictions",
    "latest_final_forecasts": "final_predictions",
    "latest_value_added": "forecast_value_added",
    "latest_drift": "drift",
    "latest_problems": "decision_problems",
    "latest_drivers": "forecast_drivers",
    "latest_costs": "night_costs",
}


def decision_views(columns: Mapping[str, Sequence[str]]) -> list[WarehouseView]:
    """For each table of decisions that a load brings (table → columns), a view of its newest cutoff."""
    views = list[WarehouseView]()
    for name, table in NEWEST.items():
        if table in columns:
            listed = ", ".join(f"t.{quoted(column)}" for column in columns[table])
            query = (
                f'SELECT {listed} FROM {{{table}}} t INNER JOIN (SELECT MAX("cutoff_date") AS "newest" '  # noqa: S608 -- quoted
                f'FROM {{{table}}}) n ON t."cutoff_date" = n."newest"'
            )
            views.append(WarehouseView(name, query, (table,)))
    return views
