"""Backtest, combine and fit many series at once: `train`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError, SeriesError, SeriesFailure
from many_models.forecasting import combining, metrics
from many_models.forecasting import mm_pack_v1 as loader
from many_models.forecasting.custom import CustomForecasts, run_custom
from many_models.forecasting.fitting import Fits, fit_panel, nothing_shared
from many_models.forecasting.packs import PackModel
from many_models.forecasting.panel import Layout, Panel, build, holidays_of, layout_of, stamps_us

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.pooling import Evidence, PooledModels
    from many_models.forecasting.spec import Prior, Spec

LARGEST = 1e15
SERIES_COLUMNS = {
    "series_id": pa.string(), "fallback": pa.string(), "candidate": pa.string(), "weights": pa.string(),
    "history": pa.int64(), "windows": pa.int64(), "wape": pa.float64(), "baseline_wape": pa.float64(),
    "mase": pa.float64(), "rmsse": pa.float64(), "bias": pa.float64(), "cover80": pa.float64(),
    "cover95": pa.float64(), "noise_floor": pa.float64(),
    "skill": pa.float64(), "accuracy": pa.float64(), "champion_wape": pa.float64(),
    "recipe": pa.string(), "cutoff": pa.timestamp("us"),
}  # fmt: skip
SCORE_COLUMNS = {
    "series_id": pa.string(), "candidate": pa.string(), "window": pa.int64(), "cutoff": pa.timestamp("us"),
    "wape": pa.float64(), "mase": pa.float64(), "rmsse": pa.float64(), "bias": pa.float64(),
    "abs_error": pa.float64(), "abs_actual": pa.float64(), "n": pa.int64(), "seconds": pa.float64(),
    "problem": pa.string(),
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What training gives: the `model`, a row per `series`, `scores` per candidate and window, `failures`."""

    model: PackModel
    series: pa.Table
    scores: pa.Table
    failures: Sequence[SeriesFailure]


@dataclass
class Evaluation:
    """One pass over a panel and what it says of each candidate: arrays are series × windows (× candidates) × steps."""

    spec: Spec
    layout: Layout
    panel: Panel
    fits: Fits
    names: tuple[str, ...]
    F: NDArray[np.float64]
    Y: NDArray[np.float64]
    mask: NDArray[np.bool_]
    scales: tuple[NDArray[np.float64], NDArray[np.float64]]
    fallback: list[str]
    belief: NDArray[np.float64]
    classes: NDArray[np.int64]
    pooled: PooledModels | None
    custom: CustomForecasts
    there: NDArray[np.bool_]


def train(  # noqa: PLR0913 - its parameters are what is known besides the rows
    rows: pa.Table,
    spec: Spec,
    cutoff: datetime,
    *,
    champions: Mapping[str, Spec] | None = None,
    priors: Mapping[str, Prior] | None = None,
    pooled: PooledModels | None = None,
    future: pa.Table | None = None,
) -> Trained:
    """Backtest all candidates of every series in `rows`, fit and combine them as of `cutoff`.

    `rows` as `Prepared.rows`; rows after `cutoff` are ignored. A series' result depends on its own rows only.
    `champions` are specs of another recipe to backtest at the same cutoffs (column champion_wape); `priors` help
    series that are too short; `pooled` is what series learned together, no later than `cutoff`; `future` has known
    covariates after it (series_id, ds and columns), which custom forecasters forecast with. Raises InputError for
    missing columns, or pooled models of another layout or from the future, SettingsError for a custom forecaster that
    cannot be imported or made.
    """
    layout_of(spec, rows)
    rows = rows.filter(pc.less_equal(rows["ds"], pa.scalar(cutoff, pa.timestamp("us"))))
    rows, failures = _usable(rows, spec)
    evaluation = evaluate(rows, spec, cutoff, pooled, future=future)
    weights = final_weights(evaluation)
    blends, spreads = leave_one_out(evaluation)
    model = _model(evaluation, weights, blends, priors or {})
    champion = _champion_wape(rows, spec, cutoff, champions or {})
    return Trained(model, _series(evaluation, weights, blends, spreads, champion, model), _scores(evaluation), failures)


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
            f"timestamp {ds[i]} is off the frequency {spec.frequency}" if off[i]
            else f"y is {y[i]!r} at {ds[i]}, needed a finite number below {LARGEST:g}"
        )  # fmt: skip
        failures.setdefault(ids[i], SeriesFailure.of(ids[i], SeriesError(ids[i], reason)))
    keep: NDArray[np.bool_] = ~np.isin(ids.astype(str), list(failures))
    return rows.filter(pa.array(keep)), list(failures.values())


def evaluate(
    rows: pa.Table, spec: Spec, cutoff: datetime, pooled: PooledModels | None = None, *,
    future: pa.Table | None = None, custom_series: int | None = None,
) -> Evaluation:  # fmt: skip
    """All candidates of every series over the backtest windows before `cutoff`, and fitted at it.

    `future` as in `train`. With `custom_series` custom forecasters try only so many series, and the windows alone.
    """
    layout = layout_of(spec, rows)
    future = _later(future, rows, spec, cutoff) if spec.competing else None
    end = int(loader.step_number(np.array([cutoff], "datetime64[us]"), spec.frequency)[0])
    H, m = spec.horizon, spec.steps_per_season
    known = rows if future is None else pa.concat_tables([rows, future], promote_options="permissive")
    panel = build(known, layout, cutoff, end - spec.windows * H, ahead=H)
    origins = panel.periods - 1 - H * np.arange(spec.windows, -1, -1)
    if pooled is None:
        fits = fit_panel(panel, layout, spec, origins, nothing_shared(layout))
        F = fits.F[:, :-1]
    else:
        _fits_together(pooled, spec, end)
        F = fit_panel(panel, layout, spec, origins[:-1], pooled.early).F
        fits = fit_panel(panel, layout, spec, origins[-1:], pooled.late, int(origins[0]))
    names = candidate_names(spec, pooled=pooled is not None)
    chosen = [loader.CANDIDATES.index(name) for name in names if name in loader.CANDIDATES]
    n = len(panel.series)
    Y, mask = np.zeros((n, spec.windows, H)), np.zeros((n, spec.windows, H), bool)
    seen = panel.code != loader.MISSING
    for j, origin in enumerate(origins[:-1]):
        if origin >= 0:
            Y[:, j] = panel.y[:, origin + 1 : origin + 1 + H]
            # a window counts for a series that has something to learn from before it
            mask[:, j] = seen[:, origin + 1 : origin + 1 + H] & (seen[:, : origin + 1].sum(1) >= _least(m))[:, None]
    sold = ((panel.y != 0) & seen).sum(1) / np.maximum(seen.sum(1), 1)
    belief = combining.beliefs(names, seen.sum(1) / m, sold)
    if spec.candidates and "seasonal_naive" not in spec.candidates:
        belief[:, 0] = 0.0
        belief /= np.maximum(belief.sum(1, keepdims=True), 1e-12)
    fallback = _fallbacks(panel, seen, m)
    asked = np.concatenate([mask.any(2), np.full((n, 1), custom_series is None)], 1)
    asked &= np.array([not step for step in fallback], bool)[:, None]
    asked[n if custom_series is None else custom_series :] = False
    custom = run_custom(rows, future, panel, layout, spec, origins, asked)
    there = np.concatenate([np.ones((n, len(chosen)), bool), custom.there], 1)
    return Evaluation(
        spec, layout, panel, fits, names, np.concatenate([F[:, :, chosen], _like_others(custom, F)], 2), Y, mask,
        metrics.scales(panel.y, seen, origins[:-1], m), fallback, belief,
        combining.class_of(panel.y, seen, int(layout.conf()[loader.YEAR])), pooled, custom, there,
    )  # fmt: skip


def _later(future: pa.Table | None, rows: pa.Table, spec: Spec, cutoff: datetime) -> pa.Table | None:
    """The rows of `future` after `cutoff` of the series in `rows`, in the types of `rows`."""
    if future is None:
        return None
    mine = pc.and_(pc.is_in(future["series_id"], pc.unique(rows["series_id"])),
                   pc.greater(future["ds"], pa.scalar(cutoff, pa.timestamp("us"))))  # fmt: skip
    names = ["series_id", "ds", *(name for name in spec.known if name in future.column_names)]
    kept = future.filter(mine).select(names)
    return kept.cast(pa.schema([rows.schema.field(name) for name in names]))


def _like_others(custom: CustomForecasts, F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Custom forecasts of the windows (series × windows × forecasters × steps): zero where all others are (a closed
    period), the medium smoothing where there is none.
    """
    windows = F.shape[1]
    own = np.moveaxis(custom.F[:, :, :windows], 1, 2)
    own = np.where(np.isfinite(own), own, F[:, :, loader.STANDS_IN, None])
    return np.where((F == 0.0).all(2, keepdims=True), 0.0, own)


def candidate_names(spec: Spec, *, pooled: bool) -> tuple[str, ...]:
    """The candidates that compete, the baseline first."""
    there = loader.CANDIDATES if pooled else loader.CANDIDATES[: loader.LOCAL]
    chosen = [n for n in there if not spec.candidates or n in spec.candidates or n == "seasonal_naive"]
    return (*chosen, *(mine.name for mine in spec.competing))


def _fits_together(pooled: PooledModels, spec: Spec, end: int) -> None:
    """Raise InputError unless `pooled` suits `spec` and saw nothing after the first backtest window's cutoff."""
    for name in ("frequency", "horizon", "season", "known", "country", "objective", "levels", "competing"):
        if getattr(pooled.spec, name) != getattr(spec, name):
            raise InputError(f"pooled models were learned with {name} {getattr(pooled.spec, name)!r}, the spec has "
                             f"{getattr(spec, name)!r}: learn them again")  # fmt: skip
    if pooled.late.cutoff > end or pooled.early.cutoff > end - spec.windows * spec.horizon:
        raise InputError("pooled models are newer than this cutoff or its backtest windows: learn them as of it")


def gather_evidence(evaluation: Evaluation) -> Evidence:
    """What the backtest of a sample says per class of series."""
    from many_models.forecasting.pooling import Evidence

    spec, classes = evaluation.spec, evaluation.classes
    C = len(spec.every_candidate)
    chosen = np.ix_(*[[spec.every_candidate.index(name) for name in evaluation.names]] * 2)
    moments, windows = combining.error_moments(evaluation.F, evaluation.Y, scored(evaluation), spec.objective)
    groups = len(combining.CLASSES) + 1
    full = np.tile(10.0 * np.eye(C), (groups, 1, 1))
    counts = combining.importance(evaluation.Y, evaluation.mask, spec.objective)
    pooled = combining.pooled_moments(moments, windows, classes, evaluation.there, counts)
    for k in range(groups):
        full[k][chosen] = pooled[k]
    early = evaluation.pooled.early if evaluation.pooled else nothing_shared(evaluation.layout)
    untried = [name for name, tried in (("pooled", early.anything), ("trees", len(early.trees[0]) > 0)) if not tried]
    for c in [loader.CANDIDATES.index(name) for name in untried]:
        full[:, c, :], full[:, :, c] = 10.0, 10.0
    plain = Evidence(full, np.ones(groups), np.tile(quantiles(spec, 1), (groups, 1)), np.full(groups, GROWTH))
    evaluation = (
        replace(evaluation, pooled=replace(evaluation.pooled, evidence=plain)) if evaluation.pooled else evaluation
    )
    blends, spreads = leave_one_out(evaluation)
    factor, table = np.ones(groups), plain.quantiles.copy()
    for k in range(groups):
        mine = evaluation.mask & (classes == k)[:, None, None]
        factor[k] = calibration(blends, evaluation.Y, mine)
    blends = blends * factor[classes][:, None, None]
    r, zero = standardised(evaluation, blends, spreads)
    growth = np.array([growth_of(r, evaluation.mask & (classes == k)[:, None, None]) for k in range(groups)])
    spreads[..., 2] = growth[classes][:, None]
    r, zero = standardised(evaluation, blends, spreads)
    for k in range(groups):
        mine = evaluation.mask & (classes == k)[:, None, None]
        table[k] = residual_quantiles(r, zero, evaluation.mask, mine, spec)
    return Evidence(full, factor, table, growth)


GROWTH = 0.1  # how much wider than at the first step an interval is at the last one, before evidence
STEPS_OF_GROWTH = 2000.0  # errors whose worth that belief is


def growth_of(r: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Growth of the spread over the horizon, from standardised errors that assumed GROWTH; never shrinking.

    From the ratio of the later half's mean absolute error to the earlier half's: with growth g it is
    (1 + ¾ g) / (1 + ¼ g).
    """
    H = r.shape[-1]
    size = np.abs(r) * (1.0 + GROWTH * np.arange(H) / H)
    half = np.arange(H) >= H / 2
    n, (early, late) = mask.sum(), ((mask & ~half), (mask & half))
    if H < 2 or not early.any() or not late.any() or size[early].mean() <= 0:
        return GROWTH
    q = min(float(size[late].mean() / size[early].mean()), 2.0)
    found = max((q - 1.0) / (0.75 - 0.25 * q), 0.0)
    return float((n * found + STEPS_OF_GROWTH * GROWTH) / (n + STEPS_OF_GROWTH))


def calibration(F: NDArray[np.float64], Y: NDArray[np.float64], mask: NDArray[np.bool_]) -> float:
    """Actual over forecast, a third of the way from 1: the windows share their luck."""
    actual, forecast = np.where(mask, Y, 0.0).sum(), np.where(mask, F, 0.0).sum()
    if actual <= 0 or forecast <= 0:
        return 1.0
    return float(np.clip((3.0 * actual) / (2.0 * actual + forecast), 0.8, 1.25))


def standardised(
    evaluation: Evaluation, blends: NDArray[np.float64], spreads: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors of combined forecasts in standard deviations, each window by the others' spread, and where zero lies.

    Zero is minus infinity where forecasts may be negative.
    """
    H = evaluation.spec.horizon
    mu = np.maximum(np.abs(blends), spreads[..., 1:2])
    sigma = np.sqrt(spreads[..., 0:1] * (mu + 0.05 * mu * mu)) * (1.0 + spreads[..., 2:3] * np.arange(H) / H)
    sigma = np.maximum(sigma, 1e-12)
    zero = -blends / sigma if evaluation.spec.nonnegative else np.full(blends.shape, -np.inf)
    return (evaluation.Y - blends) / sigma, zero


WIDER = 1.04  # few windows share their luck: the next one is a little further off than they were


def residual_quantiles(
    r: NDArray[np.float64], zero: NDArray[np.float64], mask: NDArray[np.bool_], mine: NDArray[np.bool_], spec: Spec
) -> NDArray[np.float64]:
    """Quantiles (2 × levels) of standardised errors of a class, shrunk towards all series' by 500 errors' worth."""
    if mask.sum() < 50:
        return quantiles(spec, 1)[0]
    result = []
    trust = mine.sum() / (mine.sum() + 500.0)
    for level in spec.levels:
        tails = (0.5,) if spec.objective == "pinball" else (0.5, 0.25, 0.0)
        overall = np.array(shortest(r[mask], zero[mask], level / 100.0, tails))
        own = np.array(shortest(r[mine], zero[mine], level / 100.0, tails)) if mine.any() else overall
        scarce = np.median(r[mine] - zero[mine]) < 1e-9 if mine.any() else False  # zeros, mostly: no luck to share
        result.extend((1.0 if scarce else WIDER) * (trust * own + (1 - trust) * overall))
    return np.array(result)


def shortest(
    r: NDArray[np.float64], zero: NDArray[np.float64], level: float, tails: Sequence[float] = (0.5, 0.25, 0.0)
) -> tuple[float, float]:
    """Lower and upper bound that hold `level` of the errors `r` when no bound goes below `zero`.

    Of intervals with these shares (`tails`) of the misses below, the shortest, the first one unless another is five
    per cent shorter: where zero is common nothing can be missed below it.
    """
    best, best_width = (0.0, 0.0), np.inf
    for share in tails:
        low = float(np.quantile(r, share * (1.0 - level)))
        above = np.sort(r[r >= np.maximum(low, zero) - 1e-9])
        need = min(int(np.ceil(level * len(r))), len(above))
        high = max(float(above[need - 1]), 0.0) if need else 0.0
        width = float(np.mean(high - np.maximum(low, zero)))
        if width < best_width * (0.95 if np.isfinite(best_width) else 1.0):
            best, best_width = (min(low, 0.0), high), width
    return best


def scored(evaluation: Evaluation) -> NDArray[np.bool_]:
    """Periods that count for weights: observed ones, not stock-outs."""
    panel, H = evaluation.panel, evaluation.spec.horizon
    mask = evaluation.mask.copy()
    for j in range(mask.shape[1]):
        origin = panel.periods - 1 - H * (mask.shape[1] - j)
        if origin >= 0:
            mask[:, j] &= panel.code[:, origin + 1 : origin + 1 + H] != loader.STOCK_OUT
    return mask


def _least(season: int) -> int:
    """Observations below which a series is too short for any model."""
    return max(4, min(season, 14))


def _fallbacks(panel: Panel, seen: NDArray[np.bool_], season: int) -> list[str]:
    """The step of the fallback chain each series takes, "" for a model."""
    steps = []
    for i in range(len(panel.series)):
        values = panel.y[i][seen[i]]
        if not len(values) or (values == 0).all():
            steps.append("zero")
        elif len(values) < _least(season):
            steps.append("short_history")
        elif (values == values[0]).all():
            steps.append("constant")
        else:
            steps.append("")
    return steps


def final_weights(evaluation: Evaluation, leave_out: int | None = None) -> NDArray[np.float64]:
    """Weights (series × candidates) by the evidence of all windows, or all but one."""
    mask = scored(evaluation)
    if leave_out is not None:
        mask[:, leave_out] = False
    moments, windows = combining.error_moments(evaluation.F, evaluation.Y, mask, evaluation.spec.objective)
    evidence = None
    if evaluation.pooled is not None and len(evaluation.pooled.evidence.moments):
        chosen = [evaluation.spec.every_candidate.index(name) for name in evaluation.names]
        evidence = evaluation.pooled.evidence.moments[:, chosen][:, :, chosen][evaluation.classes]
    seasons = (evaluation.panel.code != loader.MISSING).sum(1) / evaluation.layout.season
    share = combining.share_of_belief(seasons)
    return combining.simplex_weights(moments, windows, evaluation.belief, evidence, share, evaluation.there)


def factors(evaluation: Evaluation) -> NDArray[np.float64]:
    """Calibration of each series' combined forecast; a fallback says what it says."""
    if evaluation.pooled is None or not len(evaluation.pooled.evidence.factor):
        return np.ones(len(evaluation.panel.series))
    stands_in = np.array([bool(step) for step in evaluation.fallback])
    return np.where(stands_in, 1.0, evaluation.pooled.evidence.factor[evaluation.classes])


def series_quantiles(evaluation: Evaluation) -> NDArray[np.float64]:
    """Quantiles (series × 2 × levels) of each series' errors in standard deviations."""
    if evaluation.pooled is None or not len(evaluation.pooled.evidence.quantiles):
        return quantiles(evaluation.spec, len(evaluation.panel.series))
    return evaluation.pooled.evidence.quantiles[evaluation.classes]


def leave_one_out(evaluation: Evaluation) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Combined forecasts of each window by the weights of the others (series × windows × steps), and their spreads."""
    n, windows, H = evaluation.Y.shape
    blends = np.zeros((n, windows, H))
    for j in range(windows):
        blends[:, j] = np.einsum("ic,ich->ih", final_weights(evaluation, j), evaluation.F[:, j])
    blends *= factors(evaluation)[:, None, None]
    spreads = np.zeros((n, windows, 3))
    for j in range(windows):
        mask = scored(evaluation)
        mask[:, j] = False
        spreads[:, j] = spread(evaluation, blends, mask)
    return blends, spreads


def spread(evaluation: Evaluation, blends: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Dispersion, floor and growth of each series' error (see mm_pack_v1.interval) from residuals where `mask`.

    Two weeks' worth of belief in the history's own variation hold it up where there are few residuals.
    """
    panel = evaluation.panel
    seen = panel.code == loader.OBSERVED
    n = np.maximum(seen.sum(1), 1)
    mean = np.where(seen, panel.y, 0).sum(1) / n
    variance = np.where(seen, (panel.y - mean[:, None]) ** 2, 0).sum(1) / n
    floor = np.maximum(0.2 * np.where(seen, np.abs(panel.y), 0).sum(1) / n, 1e-9)
    level = np.maximum(np.abs(mean), floor)
    before = 0.6 * variance / (level + 0.05 * level**2)
    mu = np.maximum(np.abs(blends), floor[:, None, None])
    error = np.where(mask, (blends - evaluation.Y) ** 2, 0).sum((1, 2))
    size = np.where(mask, mu + 0.05 * mu**2, 0).sum((1, 2))
    typical = 14.0 * (level + 0.05 * level**2)
    growth = np.full(len(n), GROWTH)
    if evaluation.pooled is not None and len(evaluation.pooled.evidence.growth):
        growth = evaluation.pooled.evidence.growth[evaluation.classes]
    return np.stack([(error + before * typical) / (size + typical), floor, growth], 1)


def normal_quantile(level: int) -> float:
    """Half width in standard deviations of the central `level` per cent of a normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(0.5 + level / 200.0)


def quantiles(spec: Spec, n: int) -> NDArray[np.float64]:
    """Quantiles (series × 2 × levels) in standard deviations, normal where nothing else is known."""
    one = [q for level in spec.levels for q in (-normal_quantile(level), normal_quantile(level))]
    return np.tile(np.array(one), (n, 1))


def _model(
    evaluation: Evaluation, weights: NDArray[np.float64], blends: NDArray[np.float64], priors: Mapping[str, Prior]
) -> PackModel:
    spec, layout, panel, fits = evaluation.spec, evaluation.layout, evaluation.panel, evaluation.fits
    n = len(panel.series)
    conf = layout.conf()
    everyone = spec.every_candidate
    full = np.zeros((n, len(everyone)))
    full[:, [everyone.index(name) for name in evaluation.names]] = weights
    fixed = np.full(n, np.nan)
    fallback = list(evaluation.fallback)
    seen = panel.code != loader.MISSING
    for i, step in enumerate(fallback):
        if step:
            full[i] = np.eye(len(everyone))[everyone.index("mean")]
        if step in ("short_history", "zero") and (prior := priors.get(panel.series[i])) is not None:
            count = int(seen[i].sum())
            if count < _least(spec.steps_per_season):
                least = _least(spec.steps_per_season)
                fixed[i] = (panel.y[i][seen[i]].sum() + (least - count) * prior.level) / least
                fallback[i] = f"prior:{prior.origin}"
    tail = int(conf[loader.TAIL])
    tail_y, tail_code = np.zeros((n, tail), np.float32), np.zeros((n, tail), np.int8)
    kept = min(tail, panel.periods)
    tail_y[:, tail - kept :], tail_code[:, tail - kept :] = panel.y[:, -kept:], panel.code[:, -kept:]
    days, slots, _ = holidays_of(spec.country)
    arrays: dict[str, NDArray[np.generic]] = {
        "cutoff": np.full(n, panel.number + panel.periods - 1, np.int64), "state": fits.state, "tail_y": tail_y,
        "tail_code": tail_code, "coef": fits.coef[:, :3].astype(np.float32), "smear": fits.smear.astype(np.float32),
        "own": fits.own, "weights": full.astype(np.float32), "factor": factors(evaluation), "fixed": fixed,
        "center": panel.encoding.center, "scale": panel.encoding.scale, "log": panel.encoding.log,
        "binary": panel.encoding.binary.astype(np.int8),
        "last_x": panel.x[:, panel.periods - 1, :-1].astype(np.float32),
        "spread": spread(evaluation, blends, scored(evaluation)), "quantiles": series_quantiles(evaluation),
        "path": evaluation.custom.F[:, :, -1],
        "conf": conf, "holiday_days": days, "holiday_slots": slots, "pool": np.zeros(n, np.int32),
        **_pool_arrays(evaluation),
    }  # fmt: skip
    by_series: dict[str, dict[str, dict[str, int]]] = {}
    for name, mapping in zip(layout.known, panel.encoding.slots, strict=True):
        for series, levels in mapping.items():
            by_series.setdefault(series, {})[name] = levels
    index: dict[str, object] = {
        "format": loader.FORMAT, "series": panel.series, "frequency": layout.frequency, "horizon": spec.horizon,
        "known": list(layout.known), "levels_of": list(layout.levels_of), "levels": list(spec.levels),
        "slots": by_series, "fallback": fallback, "candidates": list(everyone),
        "pools": [evaluation.pooled.hash if evaluation.pooled else ""],
    }  # fmt: skip
    return PackModel(index, arrays)


def _pool_arrays(evaluation: Evaluation) -> dict[str, NDArray[np.generic]]:
    """What was learned together, as arrays with a row per pool: here one."""
    pooled = evaluation.pooled
    shared = pooled.late if pooled else nothing_shared(evaluation.layout)
    beta = shared.beta[loader.COUNT] if pooled else np.full(shared.beta.shape[1], np.nan)
    return {
        "pool_shape": shared.shape[None], "pool_beta": beta[None], "root_count": np.array([len(shared.trees[0])]),
        "tree_count": np.array([len(shared.trees[1])]), **dict(zip(loader.TREES, shared.trees, strict=True)),
    }  # fmt: skip


def _champion_wape(rows: pa.Table, spec: Spec, cutoff: datetime, champions: Mapping[str, Spec]) -> dict[str, float]:
    """WAPE of each champion's recipe at the same cutoffs, for the series whose recipe differs."""
    groups: dict[Spec, list[str]] = {}
    for name, champion in champions.items():
        if champion.recipe != spec.recipe:
            same = replace(champion, horizon=spec.horizon, windows=spec.windows, frequency=spec.frequency,
                           folder=spec.folder)  # fmt: skip
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


def _series(
    evaluation: Evaluation, weights: NDArray[np.float64], blends: NDArray[np.float64], spreads: NDArray[np.float64],
    champion: Mapping[str, float], model: PackModel,
) -> pa.Table:  # fmt: skip
    spec, panel = evaluation.spec, evaluation.panel
    n = len(panel.series)
    scores = metrics.window_scores(blends, evaluation.Y, evaluation.mask, *evaluation.scales)
    naive = metrics.window_scores(evaluation.F[:, :, 0], evaluation.Y, evaluation.mask, *evaluation.scales)
    with np.errstate(divide="ignore", invalid="ignore"):
        actual = np.where(scores["abs_actual"].sum(1) > 0, scores["abs_actual"].sum(1), np.nan)
        wape, base = scores["abs_error"].sum(1) / actual, naive["abs_error"].sum(1) / actual
        skill = np.where(base > 0, 1.0 - wape / base, np.nan)
    cover = _cover(evaluation, blends, spreads)
    fallback = model.index["fallback"]
    assert isinstance(fallback, list)
    best = [step or evaluation.names[int(w.argmax())] for w, step in zip(weights, fallback, strict=True)]
    columns: dict[str, Sequence[object]] = {
        "series_id": panel.series, "fallback": fallback, "candidate": best,
        "weights": [_weights_json(evaluation.names, w, step) for w, step in zip(weights, fallback, strict=True)],
        "history": (panel.code != loader.MISSING).sum(1).tolist(), "windows": evaluation.mask.any(2).sum(1).tolist(),
        "wape": _nullable(wape), "baseline_wape": _nullable(base), "skill": _nullable(skill),
        "accuracy": _nullable(1.0 - wape), "bias": _nullable(scores["error"].sum(1) / actual),
        "mase": _nullable(metrics.mean_over_windows(scores["mase"])),
        "rmsse": _nullable(metrics.mean_over_windows(scores["rmsse"])),
        "cover80": _nullable(cover.get(80, np.full(n, np.nan))),
        "cover95": _nullable(cover.get(95, np.full(n, np.nan))),
        "noise_floor": _nullable(metrics.noise_floor(blends, evaluation.Y, evaluation.mask)),
        "champion_wape": [champion.get(name) for name in panel.series], "recipe": [spec.recipe] * n,
        "cutoff": [panel.ds[panel.periods - 1].astype(object)] * n,
    }  # fmt: skip
    return pa.table({name: pa.array(columns[name], kind) for name, kind in SERIES_COLUMNS.items()})


def _cover(
    evaluation: Evaluation, blends: NDArray[np.float64], spreads: NDArray[np.float64]
) -> dict[int, NDArray[np.float64]]:
    """Coverage per series and level, each window by the others' spread."""
    spec = evaluation.spec
    q = series_quantiles(evaluation)
    n, windows, H = evaluation.Y.shape
    bounds = np.zeros((n, windows, H, len(spec.levels), 2))
    for i in range(n):
        for j in range(windows):
            bounds[i, j] = loader.interval(blends[i, j], spreads[i, j], q[i], spec.nonnegative, float(H))
    return {
        level: metrics.coverage(evaluation.Y, evaluation.mask, bounds[..., k, 0], bounds[..., k, 1], (1, 2))
        for k, level in enumerate(spec.levels)
    }


def _weights_json(names: Sequence[str], weights: NDArray[np.float64], step: str) -> str:
    if step:
        return json.dumps({"mean" if step in ("short_history", "constant", "zero") else step: 1.0})
    return json.dumps({name: round(float(w), 4) for name, w in zip(names, weights, strict=True) if w > 0})


def _nullable(values: NDArray[np.float64]) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _scores(evaluation: Evaluation) -> pa.Table:
    panel, spec = evaluation.panel, evaluation.spec
    n, windows, C, _ = evaluation.F.shape
    parts = {
        name: np.zeros((n, C, windows)) for name in ("wape", "mase", "rmsse", "bias", "abs_error", "abs_actual", "n")
    }
    for c in range(C):
        found = metrics.window_scores(evaluation.F[:, :, c], evaluation.Y, evaluation.mask, *evaluation.scales)
        for name, values in parts.items():
            values[:, c] = np.where(evaluation.there[:, c, None] | (name == "n"), found[name], np.nan)
    scored = np.broadcast_to(np.asarray(evaluation.mask.any(2))[:, None, :], (n, C, windows)).ravel()
    end = panel.number + panel.periods - 1
    cutoffs = loader.stamps(end - spec.horizon * np.arange(windows, 0, -1), spec.frequency)
    ids = np.repeat(np.array(panel.series, object), C * windows)[scored]
    columns: dict[str, object] = {
        "series_id": ids, "candidate": np.tile(np.repeat(np.array(evaluation.names, object), windows), n)[scored],
        "window": np.tile(np.arange(1, windows + 1), n * C)[scored], "cutoff": np.tile(cutoffs, n * C)[scored],
    }  # fmt: skip
    for name, values in parts.items():
        flat = values.ravel()[scored]
        columns[name] = flat.astype(np.int64) if name == "n" else pa.array(flat, mask=~np.isfinite(flat))
    seconds, problem = np.full((n, C), np.nan), np.full((n, C), None, object)
    custom = evaluation.custom
    if custom.names:
        k = len(custom.names)
        seconds[:, -k:] = custom.seconds
        problem[:, -k:] = np.array([[text or None for text in texts] for texts in custom.problems], object).reshape(
            n, k
        )
    for name, values in (("seconds", seconds), ("problem", problem)):
        flat = np.repeat(values.ravel(), windows)[scored]
        columns[name] = pa.array(flat, SCORE_COLUMNS[name], from_pandas=True)
    return pa.table({name: pa.array(columns[name], kind) if not isinstance(columns[name], pa.Array) else columns[name]
                     for name, kind in SCORE_COLUMNS.items()})  # fmt: skip


__all__ = ["InputError", "Trained", "train"]
