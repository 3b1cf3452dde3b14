"""stock_recommendations: for each series with terms of stock, when to order, how much, and what service to expect."""

from typing import TYPE_CHECKING

import dagster as dg

from many_models.data import lake_tables
from many_models.keys import SeriesKey
from many_models.orchestration.cutoff_stage import Made, build_cutoff_asset
from many_models.orchestration.decision_inputs import backtest_of, ever_sold, forecasts_of, histories_of
from many_models.orchestration.refits import drift_answers
from many_models.orchestration.stage_run import Metadata
from many_models.ports import Lake, Source
from many_models.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset stock_recommendations."""
    description = (
        "Reorder point, safety stock, order-up-to level, what to order now in whole packs and the fill rate to expect, "
        "per series, from the distribution of demand over lead time and review. Rows of the stock table that cannot be "
        "used are in decision_problems, with their reasons."
    )
    return build_cutoff_asset(
        settings, "stock_recommendations", description, lambda source, lake, date: make(settings, source, lake, date)
    )


def make(settings: Settings, source: Source, lake: Lake, date: str) -> Made:
    """The recommendations of the cutoff `date`. Raises InputError, MissingTableError."""
    import numpy as np
    import pyarrow as pa

    from many_models.decisions.demand_paths import fit_paths
    from many_models.decisions.problems import problem_table
    from many_models.decisions.stock import read_terms, recommend

    wanted, keys, steps = settings.stock, settings.data.keys, settings.forecast.horizon
    found = forecasts_of(settings, lake, date, "stock")
    defaults = {
        "lead_time": wanted.lead_time,
        "lead_time_sd": wanted.lead_time_sd,
        "review": float(wanted.review),
        "service_level": wanted.service_level,
        "on_order": 0.0,
        "least_order": 0.0,
        "pack": 0.0,
    }
    parts = {name: SeriesKey.parse(name, len(keys)).parts for name in found.series}
    read = read_terms(
        _terms_table(settings, source),
        keys,
        parts,
        defaults=defaults,
        service=wanted.service,
        horizon=steps,
        others=ever_sold(settings, lake),
    )
    histories = histories_of(settings, lake, found.series, found.cutoff)
    model = fit_paths(
        found.series,
        found.y_hat,
        backtest_of(lake, found.series, steps),
        histories,
        nonnegative=settings.data.negatives != "allow",
    )
    place = {name: at for at, name in enumerate(found.series)}
    rows = np.array([place[name] for name in read.series], np.int64)
    whole = histories.whole()[rows] & (np.mod(read.terms.pack, 1.0) == 0)
    if settings.drift.answer == "widen":
        drifted = drift_answers(settings, lake)
        model = model.wider(np.array([drifted[name].factor if name in drifted else 1.0 for name in found.series]))
    table = recommend(model.of(rows), read.terms, whole=whole, horizon=steps, paths=wanted.paths, seed=wanted.seed)
    cutoffs = pa.array([found.cutoff] * table.num_rows, pa.timestamp("us"))
    table = table.add_column(1, "cutoff", cutoffs)
    problems = pa.concat_tables([problem_table(found.left_out), read.problems])
    return Made({lake_tables.STOCK: table}, problems, _shown(table))


def _terms_table(settings: Settings, source: Source) -> "pa.Table":
    """The stock table of the source; without one, a row for all series that leaves everything to the settings."""
    import pyarrow as pa

    if settings.stock.table:
        return source.read_table(settings.stock.table)
    return pa.table({"lead_time": pa.array([settings.stock.lead_time], pa.float64())})


def _shown(table: "pa.Table") -> Metadata:
    import pyarrow.compute as pc

    if not table.num_rows:
        return {"dagster/row_count": 0}
    ordering = pc.sum(pc.greater(table["order_now"], 0.0)).as_py() or 0
    return {
        "dagster/row_count": table.num_rows,
        "series_to_order": ordering,
        "expected_fill_rate": float(pc.mean(table["expected_fill_rate"]).as_py() or 0.0),
    }
