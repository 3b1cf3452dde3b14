"""How soon the demo's level shift is found, and what else alarms, on demos of several seeds.
`python -m benchmarks.decisions_drift [--seeds 1] [--series 500] [--days 1095]`, which is what `many-models demo` makes.

Ten items of each demo sell 40 % more in its last two weeks. As on a first night, the newest window of the backtest is
watched, measured by the earlier ones. An alarm in time comes from the shift's first day on, within ten days. All other
alarms are counted per 1,000 series and month, those of orders, of seasons that a model missed, and of empty shelves as
well; how many of them sold nothing for days is told apart.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from benchmarks._report import Figure, flags, machine, show
from benchmarks.decisions_coverage import backtested
from many_models.decisions.demand_paths import CLASSES, fit_paths
from many_models.decisions.drift import MONTH
from many_models.decisions.drift_windows import window_shifts
from many_models.keys import SeriesKey
from many_models.onboarding.demo import write_source
from many_models.onboarding.demo_plans import SHIFT_DAYS
from many_models.onboarding.demo_settings import demo_settings
from many_models.orchestration.forecast_spec import spec_of
from many_models.settings import load_settings

if TYPE_CHECKING:
    from many_models.forecasting import Spec
    from many_models.onboarding.demo import DemoFacts

END, FOUND_WITHIN = date(2026, 10, 31), 10
EMPTY = 3  # days without a sale, of a series that sells nearly daily


def rows_of(path: Path) -> pd.DataFrame:
    """The sales of a demo as series_id, ds, y, price, promotion; rows that are no numbers or no dates are left out."""
    with closing(sqlite3.connect(path)) as database:
        rows = pd.read_sql("SELECT * FROM sales", database)
    rows["ds"] = pd.to_datetime(rows["date"], errors="coerce", format="%Y-%m-%d")
    rows["y"] = pd.to_numeric(rows["sales"], errors="coerce")
    rows = rows.loc[rows["ds"].notna() & (rows["ds"] <= pd.Timestamp(END)) & (rows["y"] >= 0)]
    rows["series_id"] = [SeriesKey(key).series_id for key in zip(rows["store"], rows["item"], strict=True)]
    rows = rows.sort_values(["series_id", "ds"], kind="stable").groupby(["series_id", "ds"], as_index=False).last()
    return rows.loc[:, ["series_id", "ds", "y", "price", "promotion"]]


def spec_of_demo(facts: DemoFacts) -> Spec:
    """What is forecast of a demo, as its own settings say: the closed days of its shops, too."""
    file = facts.path.with_name("many_models.toml")
    file.write_text(demo_settings(start=facts.first, rows_for_sales=facts.rows_for_sales), encoding="utf-8")
    return spec_of(load_settings(file))


def measured(seed: int, series: int, days: int) -> tuple[int, int, int, int, int]:
    """Shifted items found in time, shifted items, other series that alarm, other series, those with empty shelves."""
    with tempfile.TemporaryDirectory() as folder:
        facts = write_source(Path(folder) / "source.db", series=series, days=days, end=END, seed=seed)
        rows, spec = rows_of(facts.path), spec_of_demo(facts)
    _, backtest, histories = backtested(rows, spec, datetime.combine(END, time()))
    newest, earlier = backtest.y_hat[:, -1], backtest.before_last()
    model = fit_paths(backtest.series, newest, earlier, histories)
    begins = spec.horizon - SHIFT_DAYS
    shifted = np.isin(model.series, [SeriesKey(key).series_id for key in facts.shifted])
    of_ten_days = backtest.y[:, -1].copy()
    of_ten_days[:, begins + FOUND_WITHIN :] = np.nan
    in_time = shifted & (window_shifts(model, earlier, of_ten_days, newest).alarm >= begins)
    others = ~shifted & (window_shifts(model, earlier, backtest.y[:, -1], newest).alarm >= 0)
    empty = others & (model.kind == len(CLASSES)) & (longest_without(backtest.y[:, -1]) >= EMPTY)
    found, every, alarms, rest, sold_out = (int(of.sum()) for of in (in_time, shifted, others, ~shifted, empty))
    return found, every, alarms, rest, sold_out


def longest_without(y: np.ndarray) -> np.ndarray:
    """The longest run of periods without a sale (of series × steps); unknown ones do not end it."""
    longest, run = np.zeros(len(y)), np.zeros(len(y))
    for step in range(y.shape[1]):
        run = np.where(np.isnan(y[:, step]), run, np.where(y[:, step] == 0, run + 1, 0))
        longest = np.maximum(longest, run)
    return longest


def main() -> None:
    """Print both shares for each seed, and for all."""
    parser = flags(__doc__ or "", "20 series of one seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--series", type=int, default=500)
    parser.add_argument("--days", type=int, default=1095)
    given = parser.parse_args()
    seeds, series = (given.seeds[:1], 20) if given.small else (given.seeds, given.series)
    total, figures = np.zeros(5, int), list[Figure]()
    for seed in seeds:
        counts = measured(seed, series, given.days)
        total += counts
        figures += shares(f"seed {seed}", *counts)
    show([*figures, *shares("all", *total.tolist())], machine(), as_json=given.json)


def shares(what: str, found: int, shifted: int, others: int, rest: int, empty: int) -> list[Figure]:
    """The share of shifted items that were found, and how often others alarm."""
    return [
        Figure(f"{what}: of {shifted} shifted items found within {FOUND_WITHIN} days", found, "items", "9 of 10"),
        Figure(f"{what}: alarms of {rest} others", 1000 * others / max(rest, 1) * MONTH / 28, "in 1,000", "a month: 1"),
        Figure(f"{what}: of them sold nothing for {EMPTY} days", empty, "items", ""),
    ]


if __name__ == "__main__":
    main()
