"""The settings that belong to the demo's source."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import date

COUNTRY = "DE"


def demo_settings(
    *,
    start: date,
    url: str = "sqlite:///source.db",
    horizon: int = 28,
    windows: int = 3,
    workers: int = 0,
    rows_for_sales: str = "",
) -> str:
    """The many_models.toml that belongs to a demo source at `url` whose history begins at `start`."""
    at = f"""\
missing_at = {{"{rows_for_sales}" = "zero"}}  # its till exports a row only for what was sold
"""
    return f"""\
# Written by `many-models demo`: a made-up grocer's database.

[source]
url = "{url}"
table = "sales"
covariates_table = "covariates"
attributes_table = "items"

[data]
keys = ["store", "item"]
timestamp = "date"
target = "sales"
known = ["price", "promotion"]
frequency = "D"
country = "{COUNTRY}"
missing = "closed"  # its shops have no rows for Sundays and holidays
start = {start.isoformat()}
{at if rows_for_sales else ""}
[forecast]
horizon = {horizon}
windows = {windows}
pool_series = 200  # half of the default: the demo is to be quick

[compute]
workers = {workers}  # 0: one for each core

# What follows from the forecasts: docs/decisions-guide.md.
[hierarchy]
levels = [["store"], ["category"]]
method = "mint_variance"

[stock]
table = "stock"

[overrides]
table = "changes"

[drift]
watch = true
"""
