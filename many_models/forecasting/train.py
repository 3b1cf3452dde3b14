"""Backtest, combine and fit many series at once: `train`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import SeriesError, SeriesFailure
from many_models.forecasting import metrics
from many_models.forecasting.backtest_paths import path_table
from many_models.forecasting.calibration import factors, final_weights, leave_one_out, series_quantiles, spread
from many_models.forecasting.closures import closed_days
from many_models.forecasting.datasets import LARGEST
from many_models.forecasting.evaluation import Evaluation, evaluate, least, scored
from many_models.forecasting.gaps import weekday_letters
from many_models.forecasting.local_fit import PooledFit, lags_or_none, networks_or_none, nothing_shared
from many_models.forecasting.new_items import NEW, Borrower, bounds_of, give_models_to_new, level_of, own_level
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.pack import mm_sklearn_v1
from many_models.forecasting.pack.mm_before_v1 import no_terms, widened
from many_models.forecasting.pack.model import PackModel
from many_models.forecasting.panel import layout_of, stamps_us, usual_columns
from many_models.forecasting.score_tables import score_table, series_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.openings import Spans
    from many_models.forecasting.panel import Layout, Panel, Term
    from many_models.forecasting.pooling import PooledModels
    from many_models.forecasting.spec import Prior, Spec


@dataclass(frozen=True)
class Trained:
    """What training gives: the `model`, a row per `series`, `scores` per candidate and window, `failures`; `paths` is
    the backtest step by step (see `path_table`), where it was asked for.
    """

    model: PackModel
    series: pa.Table
    scores: pa.Table
    failures: Sequence[SeriesFailure]
    paths: pa.Table | None = None


def train(  # noqa: PLR0913 - its parameters are what is known besides the rows
    rows: pa.Table,
    spec: Spec,
    cutoff: datetime,
    *,
    champions: Mapping[str, Spec] | None = None,
    priors: Mapping[str, Prior] | None = None,
    pooled: PooledModels | None = None,
    future: pa.Table | None = None,
    keep_paths: bool = False,
    openings: Mapping[str, Spans] | None = None,
) -> Trained:
    """Backtest all candidates of every series in `rows`, fit and combine them as of `cutoff`.

    `rows` as `Prepared.rows`; rows after `cutoff` are ignored. A series' result depends on its own rows only.
    `champions` are specs of another recipe to backtest at the same cutoffs (column champion_wape); `priors` help
    series that are too short; `pooled` is what series learned together, no later than `cutoff`; `future` has known
    covariates after it (series_id, ds and columns), which custom forecasters forecast with; `keep_paths` asks for the
    backtest step by step; `openings` has open spans of series, outside of which their models forecast zero. Raises
    InputError for missing columns, or pooled models of another layout or from the future, SettingsError for a custom
    forecaster that cannot be imported or made.
    """
    layout_of(spec, rows)
    rows = rows.filter(pc.less_equal(rows["ds"], pa.scalar(cutoff, pa.timestamp("us"))))
    rows, failures = _usable(rows, spec)
    evaluation = evaluate(rows, spec, cutoff, pooled, future=future)
    weights = final_weights(evaluation)
    blends, spreads = leave_one_out(evaluation)
    model = _model(evaluation, weights, blends, priors or {}, openings or {})
    champion = _champion_wape(rows, spec, cutoff, champions or {})
    series = series_table(evaluation, weights, blends, spreads, champion, model)
    paths = path_table(evaluation, blends) if keep_paths else None
    return Trained(model, series, score_table(evaluation), failures, paths)


def _usable(rows: pa.Table, spec: Spec) -> tuple[pa.Table, list[SeriesFailure]]:
    """Rows of the series that can be used, and the others as failures."""
    if not len(rows):
        return rows, []
    y = np.asarray(rows["y"].cast(pa.float64()).to_numpy(), np.float64)
    ds = stamps_us(rows["ds"])
    wild = np.isinf(y) | (np.abs(np.nan_to_num(y, posinf=0, neginf=0)) > LARGEST)
    off = loader.stamps(loader.step_number(ds, spec.frequency), spec.frequency) != ds
    if not (wild | off).any():
        return rows, []
    ids = np.asarray(rows["series_id"].to_numpy(), object)
    failures: dict[str, SeriesFailure] = {}
    for i in np.flatnonzero(wild | off):
        reason = (
            f"timestamp {ds[i]} is off the frequency {spec.frequency}"
            if off[i]
            else f"y is {y[i]!r} at {ds[i]}, needed a finite number below {LARGEST:g}"
        )
        failures.setdefault(ids[i], SeriesFailure.of(ids[i], SeriesError(ids[i], reason)))
    keep: NDArray[np.bool_] = ~np.isin(ids.astype(str), list(failures))
    return rows.filter(pa.array(keep)), list(failures.values())


def _model(
    evaluation: Evaluation,
    weights: NDArray[np.float64],
    blends: NDArray[np.float64],
    priors: Mapping[str, Prior],
    openings: Mapping[str, Spans],
) -> PackModel:
    spec, layout, panel, fits = evaluation.spec, evaluation.layout, evaluation.panel, evaluation.fits
    n = len(panel.series)
    conf = layout.conf()
    everyone = spec.every_candidate
    full = np.zeros((n, len(everyone)))
    full[:, [everyone.index(name) for name in evaluation.names]] = weights
    fallback = list(evaluation.fallback)
    for i, step in enumerate(fallback):
        if step:
            full[i] = np.eye(len(everyone))[everyone.index("mean")]
    new = _new_series(evaluation, priors)
    fixed = np.full(n, np.nan)
    for one, prior in new:
        fixed[one.row], fallback[one.row] = one.level, f"prior:{prior.origin}"
    tail_y, tail_code = _tail(panel, int(conf[loader.TAIL]))
    days, slots, _ = layout.holidays
    pools, pool_arrays = _pool_arrays(evaluation)
    arrays: dict[str, NDArray[np.generic]] = {
        "cutoff": np.full(n, panel.number + panel.periods - 1, np.int64), "state": fits.state, "tail_y": tail_y,
        "tail_code": tail_code, "coef": fits.coef[:, :3].astype(np.float32), "smear": fits.smear.astype(np.float32),
        "own": fits.own, "weights": full.astype(np.float32), "factor": factors(evaluation), "fixed": fixed,
        "center": panel.encoding.center, "scale": panel.encoding.scale, "log": panel.encoding.log,
        "binary": panel.encoding.binary.astype(np.int8),
        "last_x": usual_columns(panel, layout).astype(np.float32),
        "before_x": panel.x[:, panel.periods - 1, : layout.encoded].astype(np.float32),
        "spread": spread(evaluation, blends, scored(evaluation)), "quantiles": series_quantiles(evaluation),
        "path": evaluation.custom.F[:, :, -1], "static": evaluation.static,
        "closed_days": closed_days(panel, layout),
        "conf": conf, "holiday_days": days, "holiday_slots": slots, **pool_arrays,
    }  # fmt: skip
    give_models_to_new(evaluation, arrays, [one for one, _ in new], everyone)
    _set_bounds_of_new(evaluation, arrays, new, priors)
    arrays = _in_their_places(
        arrays, layout, evaluation.whole, evaluation.pooled.choice.terms if evaluation.pooled else ()
    )
    index = _index(evaluation, fallback, pools, openings)
    fitted, blobs = _fitted(evaluation, full)
    return PackModel({**index, "fitted": fitted} if fitted else index, arrays, blobs)


def _tail(panel: Panel, periods: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The last `periods` of each series, and their codes; zeros before a panel that is shorter."""
    n, kept = len(panel.series), min(periods, panel.periods)
    y, code = np.zeros((n, periods), np.float32), np.zeros((n, periods), np.int8)
    y[:, periods - kept :], code[:, periods - kept :] = panel.y[:, -kept:], panel.code[:, -kept:]
    return y, code


def _index(
    evaluation: Evaluation, fallback: Sequence[str], pools: Sequence[str], openings: Mapping[str, Spans]
) -> dict[str, object]:
    """What a pack says of itself: its series, its settings, and how its covariates are encoded."""
    spec, layout, panel, whole = evaluation.spec, evaluation.layout, evaluation.panel, evaluation.whole
    by_series: dict[str, dict[str, dict[str, int]]] = {}
    for name, mapping in zip(layout.known, panel.encoding.slots, strict=True):
        for series, levels in mapping.items():
            by_series.setdefault(series, {})[name] = levels
    return {
        "format": loader.FORMAT,
        "series": panel.series,
        "frequency": layout.frequency,
        "horizon": spec.horizon,
        "known": list(whole.known),
        "levels_of": list(whole.levels_of),
        "levels": list(spec.levels),
        "slots": by_series,
        "fallback": fallback,
        "candidates": list(spec.every_candidate),
        "pools": pools,
        "own_size": loader.OWN_SIZE,
        "holidays": list(layout.holiday_names),
        **({"exposure": spec.exposure} if spec.exposure else {}),
        **({"missing": [weekday_letters(name, spec) for name in panel.series]} if spec.fills_gaps else {}),
        **_open(panel.series, openings),
    }


def _fitted(
    evaluation: Evaluation, weights: NDArray[np.float64]
) -> tuple[dict[str, dict[str, list[object]]], dict[str, bytes]]:
    """Users' fitted models that have a weight (series × candidates): series → name → its file, and each file."""
    everyone, blobs = evaluation.spec.every_candidate, dict[str, bytes]()
    fitted: dict[str, dict[str, list[object]]] = {}
    weight = dict(zip(evaluation.panel.series, weights, strict=True))
    for series, models in sorted(evaluation.custom.fitted.items()):
        for name, (data, unit) in models.items():
            if not weight[series][everyone.index(name)]:
                continue
            file = f"{hashlib.sha256(data).hexdigest()[:16]}{mm_sklearn_v1.SUFFIX}"
            blobs[file] = data
            fitted.setdefault(series, {})[name] = [file, unit]
    return fitted, dict(sorted(blobs.items()))


def _open(series: Sequence[str], openings: Mapping[str, Spans]) -> dict[str, object]:
    """What a pack says of the list of openings: nothing where it is about none of its `series`."""
    spans = [[[*span] for span in openings.get(name, ())] for name in series]
    return {"open": spans} if any(spans) else {}


def _new_series(evaluation: Evaluation, priors: Mapping[str, Prior]) -> list[tuple[Borrower, Prior]]:
    """The series that are too short for a model and have a prior, each with its level."""
    panel, pooled, needed = evaluation.panel, evaluation.pooled, least(evaluation.spec.steps_per_season)
    profile = np.zeros(0) if pooled is None else pooled.late.profile
    found: list[tuple[Borrower, Prior]] = []
    for i, step in enumerate(evaluation.fallback):
        prior = priors.get(panel.series[i])
        if step in {"short_history", "zero"} and prior is not None:
            own = own_level(panel, i, profile)
            if len(own) < needed:
                found.append((Borrower(i, level_of(prior, own, needed)), prior))
    return found


def _set_bounds_of_new(
    evaluation: Evaluation,
    arrays: dict[str, NDArray[np.generic]],
    new: Sequence[tuple[Borrower, Prior]],
    priors: Mapping[str, Prior],
) -> None:
    """Put into `arrays`, in place, how far sales of new series are from forecasts, where their priors say so: also of
    those that are just long enough for a model, but whose few errors say little of the next one.
    """
    panel = evaluation.panel
    observed = (panel.code != loader.MISSING).sum(1)
    levels = {one.row: one.level for one, _ in new}
    for i in np.flatnonzero(observed < NEW).tolist():
        prior = priors.get(panel.series[i])
        if prior is None or (i not in levels and evaluation.fallback[i]):
            continue
        level = levels.get(i, float(evaluation.variation.size[i]))
        if (bounds := bounds_of(prior, int(observed[i]), level)) is not None:
            arrays["spread"][i], arrays["quantiles"][i] = bounds


def _in_their_places(
    arrays: dict[str, NDArray[np.generic]], layout: Layout, whole: Layout, terms: Sequence[Term]
) -> dict[str, NDArray[np.generic]]:
    """Arrays of a pack with places for all known covariates of the `whole` layout and for terms, used or not, so that
    packs go together whatever was chosen when they were trained.
    """
    most, pools = loader.terms_of(whole.encoded), len(arrays["pool_beta"])
    places = whole.places(layout.known)
    table = no_terms(pools, most)
    table[:, : len(terms)] = np.array(terms, np.float64).reshape(-1, 4)
    moved = [*places, *range(whole.encoded, whole.encoded + len(terms)), whole.encoded + most]
    there = moved == list(range(len(moved)))
    result = dict(arrays) if there else widened(arrays, moved, moved[-1] + 1)
    for name in ("last_x", "before_x"):
        wide = np.zeros((len(arrays[name]), whole.encoded), np.float32)
        wide[:, places] = arrays[name]
        result[name] = wide
    return {**result, "pool_terms": table}


def _pool_arrays(evaluation: Evaluation) -> tuple[list[str], dict[str, NDArray[np.generic]]]:
    """What the series learned together: the names of the pools, arrays with a row per pool, and each series' pool."""
    pooled, series = evaluation.pooled, evaluation.panel.series
    wide = loader.tree_width(evaluation.fits.coef.shape[2], evaluation.layout.columns, evaluation.static.shape[1])
    if pooled is None:
        nothing = nothing_shared(evaluation.layout)
        beta = np.full((1, nothing.beta.shape[1]), np.nan)
        return [""], {
            "pool_shape": nothing.shape[None],
            "pool_beta": beta,
            "root_count": np.array([0]),
            "boosted_count": np.array([0]),
            "pool_lags": lags_or_none(nothing, evaluation.layout)[None],
            **_networks([nothing], wide),
            "tree_count": np.array([0]),
            "pool": np.zeros(len(series), np.int32),
            **dict(zip(loader.TREES, nothing.trees, strict=True)),
        }
    parts = pooled.fits_of(series) or [("", (pooled.early, pooled.late), np.zeros(0, np.int64))]
    late = [shared[1] for _, shared, _ in parts]
    sizes = {name: np.array([len(one.trees[k]) for one in late]) for k, name in ((0, "root_count"), (1, "tree_count"))}
    shift = np.cumsum(sizes["tree_count"]) - sizes["tree_count"]
    trees: dict[str, NDArray[np.generic]] = {}
    for k, name in enumerate(loader.TREES):
        own = [np.asarray(one.trees[k]) for one in late]
        if name in {"root", "left", "right"}:  # these point at nodes
            own = [(nodes.astype(np.int64) + by).astype(nodes.dtype) for nodes, by in zip(own, shift, strict=True)]
        trees[name] = np.concatenate(own)
    pool_of = np.zeros(len(series), np.int32)
    for k, (_, _, rows) in enumerate(parts):
        pool_of[rows] = k
    arrays = {
        "pool_shape": np.stack([one.shape for one in late]),
        "pool_beta": np.stack([one.beta[loader.COUNT] for one in late]),
        "pool_lags": np.stack([lags_or_none(one, evaluation.layout) for one in late]),
        **_networks(late, wide),
        "pool": pool_of,
        "boosted_count": np.array([one.boosted for one in late]),
        **sizes,
        **trees,
    }
    return [f"{pooled.hash}/{name}" if name else pooled.hash for name, _, _ in parts], arrays


def _networks(learned: Sequence[PooledFit], wide: int) -> dict[str, NDArray[np.generic]]:
    """The networks of each pool, which see `wide` features."""
    inputs, layers = zip(*(networks_or_none(one, wide) for one in learned), strict=True)
    return {"pool_inputs": np.stack(inputs), "pool_layers": np.stack(layers)}


def _champion_wape(rows: pa.Table, spec: Spec, cutoff: datetime, champions: Mapping[str, Spec]) -> dict[str, float]:
    """WAPE of each champion's recipe at the same cutoffs, for the series whose recipe differs."""
    groups: dict[Spec, list[str]] = {}
    for name, champion in champions.items():
        if champion.recipe != spec.recipe:
            same = replace(
                champion, horizon=spec.horizon, windows=spec.windows, frequency=spec.frequency, folder=spec.folder
            )
            groups.setdefault(same, []).append(name)
    result: dict[str, float] = {}
    for champion, names in groups.items():
        part = rows.filter(pc.is_in(rows["series_id"], pa.array(names, rows.schema.field("series_id").type)))
        if not len(part) or any(name not in rows.column_names for name in champion.known):
            continue
        evaluation = evaluate(part, champion, cutoff)
        blends, _ = leave_one_out(evaluation)
        scores = metrics.window_scores(blends, evaluation.Y, evaluation.mask, *evaluation.scales)
        for i, name in enumerate(evaluation.panel.series):
            if scores["abs_actual"][i].sum() > 0:
                result[name] = float(scores["abs_error"][i].sum() / scores["abs_actual"][i].sum())
    return result
