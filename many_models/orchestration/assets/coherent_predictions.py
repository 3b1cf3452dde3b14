"""coherent_predictions: forecasts of series and of their sums that agree, with intervals of the sums."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from many_models.data import lake_tables
from many_models.errors import PermanentError
from many_models.orchestration.cutoff_stage import Made, build_cutoff_asset
from many_models.orchestration.decision_inputs import Forecasts, backtest_of, ever_sold, forecasts_of, series_values
from many_models.orchestration.forecast_spec import spec_of
from many_models.ports import Filter, Lake, Source
from many_models.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from many_models.decisions.hierarchy import Hierarchy

    Floats = NDArray[np.float64]


def build(settings: Settings) -> dg.AssetsDefinition:
    """The asset coherent_predictions."""
    description = (
        "Forecasts of every series and of the sums that [hierarchy] names, which agree: bottom-up, or by trace "
        "minimisation with the sums' own models. Intervals of sums come from the backtest's errors of the sums."
    )
    return build_cutoff_asset(
        settings, "coherent_predictions", description, lambda source, lake, date: make(settings, source, lake, date)
    )


def make(settings: Settings, source: Source, lake: Lake, date: str) -> Made:
    """The coherent forecasts of the cutoff `date`. Raises InputError, MissingTableError."""
    import numpy as np

    from many_models.decisions import hierarchy as sums
    from many_models.decisions.problems import problem_table

    wanted, steps = settings.hierarchy, settings.forecast.horizon
    found = forecasts_of(settings, lake, date, "hierarchy")
    values, problems = series_values(settings, source, found.series, ever_sold(settings, lake))
    tree, lacking = sums.build_hierarchy(found.series, wanted.levels, values)
    problems += [*found.left_out, *lacking]
    backtest = backtest_of(lake, found.series, steps)
    errors = backtest.errors()
    past = sums.node_errors(tree, np.where(np.isfinite(errors), backtest.y_hat, np.nan))
    upper, variance = np.full((len(tree.names), steps), np.nan), np.full(len(tree.names), np.nan)
    if wanted.method != "bottom_up":
        try:
            upper, variance = node_forecasts(settings, lake, tree, found)
        except PermanentError as error:
            why = f"the sums have no models this time and are bottom-up: {error}"
            problems.append({"origin": "hierarchy", "series_id": "", "row": "", "reason": why})
    seen = np.isfinite(errors)
    own = np.where(seen, errors, 0.0) ** 2
    own = own.sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
    nonnegative = settings.data.negatives != "allow"
    bottom, above = sums.reconcile(
        tree,
        found.y_hat,
        upper,
        method=wanted.method,
        bottom_variance=own,
        upper_variance=variance,
        nonnegative=nonnegative,
    )
    if wanted.whole_numbers:
        bottom = sums.whole_numbers(bottom)
        above = np.asarray(tree.sums @ bottom)
    levels = settings.forecast.levels
    bounds = sums.sum_intervals(tree, above, sums.node_errors(tree, errors), past, levels, nonnegative=nonnegative)
    table = _table(tree, found, bottom, (above, upper), bounds, nonnegative=nonnegative)
    return Made(
        {lake_tables.COHERENT: table},
        problem_table(problems),
        {"dagster/row_count": table.num_rows, "nodes": len(tree.names)},
    )


def node_forecasts(settings: Settings, lake: Lake, tree: "Hierarchy", found: Forecasts) -> "tuple[Floats, Floats]":
    """Each node's own forecast (nodes × steps) by models trained on its history, and its mean squared error in the
    backtest; NaN where it has none.
    """
    import numpy as np

    from many_models.forecasting import prepare, train

    spec = replace(
        spec_of(settings),
        known=(),
        attributes=(),
        custom=(),
        pool_by=(),
        missing="unknown",
        missing_on=(),
        missing_at=(),
    )
    rows = node_history(lake, tree, found)
    upper, variance = np.full((len(tree.names), spec.horizon), np.nan), np.full(len(tree.names), np.nan)
    prepared = prepare(rows, spec, found.cutoff)
    if not prepared.rows.num_rows:
        return upper, variance
    trained = train(prepared.rows, spec, found.cutoff, keep_paths=True)
    forecasts = trained.model.predict(prepared.rows, found.cutoff, horizon=spec.horizon).to_pandas()
    place = {f"{at}": at for at in range(len(tree.names))}
    for name, own in forecasts.sort_values("step").groupby("series_id"):
        upper[place[str(name)]] = own["y_hat"].to_numpy()
    if trained.paths is not None:
        for name, own in trained.paths.to_pandas().groupby("series_id"):
            error = np.concatenate(own["y"].to_list()) - np.concatenate(own["y_hat"].to_list())
            known = error[np.isfinite(error)]
            variance[place[str(name)]] = np.square(known).mean() if len(known) else np.nan
    return upper, variance


def node_history(lake: Lake, tree: "Hierarchy", found: Forecasts) -> "pa.Table":
    """The nodes' histories (series_id is the node's number), sums of what is known of their series in each period."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    from scipy.sparse import csr_matrix

    where = Filter(before=found.cutoff + lake_tables.AFTER)
    rows = lake.read(lake_tables.DATASETS.name, where, ["series_id", "ds", "y"])
    rows = rows.filter(
        pc.and_(pc.is_in(rows["series_id"], pa.array(found.series, pa.string())), pc.is_finite(rows["y"]))
    )
    place = pc.index_in(rows["series_id"], pa.array(found.series, pa.string())).to_numpy()
    days, at = np.unique(np.asarray(rows["ds"].to_numpy(), "datetime64[us]"), return_inverse=True)
    shape = (len(found.series), len(days))
    values: Any = tree.sums @ csr_matrix((np.asarray(rows["y"].to_numpy(), np.float64), (place, at)), shape)
    counts: Any = tree.sums @ csr_matrix((np.ones(len(at)), (place, at)), shape)
    known = counts.tocoo()
    dense = np.asarray(values.tocsr()[known.row, known.col]).ravel()
    nodes = np.array([f"{node}" for node in range(len(tree.names))], object)
    return pa.table(
        {
            "series_id": pa.array(nodes[known.row], pa.string()),
            "ds": pa.array(days[known.col], pa.timestamp("us")),
            "y": pa.array(dense),
        }
    )


def _table(
    tree: "Hierarchy",
    found: Forecasts,
    bottom: "Floats",
    nodes: "tuple[Floats, Floats]",
    bounds: "dict[str, Floats]",
    *,
    nonnegative: bool,
) -> "pa.Table":
    """Rows of nodes and of series: node, level, series_id (null for sums), ds, step, cutoff, y_hat, base and bounds.

    A series' bounds move with its forecast.
    """
    import numpy as np
    import pyarrow as pa

    above, upper = nodes
    n, steps = bottom.shape
    names = [*tree.names, *found.series]
    moved = bottom - found.y_hat
    own = {}
    for name in bounds:
        series = np.asarray(found.rows[name].to_numpy()).reshape(n, steps) + moved
        own[name] = np.concatenate([bounds[name], np.maximum(series, 0.0) if nonnegative else series]).ravel()
    base = np.concatenate([upper, found.y_hat]).ravel()
    return pa.table(
        {
            "node": pa.array(np.repeat(np.array(names, object), steps), pa.string()),
            "level": pa.array(np.repeat(np.array([*tree.levels, *(["series"] * n)], object), steps), pa.string()),
            "series_id": pa.array(
                np.repeat(np.array([*([None] * len(tree.names)), *found.series], object), steps), pa.string()
            ),
            "ds": pa.array(np.tile(found.ds, len(names)), pa.timestamp("us")),
            "step": pa.array(np.tile(np.arange(1, steps + 1), len(names)), pa.int64()),
            "cutoff": pa.array([found.cutoff] * len(names) * steps, pa.timestamp("us")),
            "y_hat": np.concatenate([above, bottom]).ravel(),
            "base": pa.array(base, pa.float64(), from_pandas=True),
            **own,
        }
    )
