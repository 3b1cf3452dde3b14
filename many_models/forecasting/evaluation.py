"""One pass of all candidates over the backtest windows of a panel: `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError
from many_models.forecasting import combination, metrics
from many_models.forecasting.custom.parent import CustomForecasts, run_custom
from many_models.forecasting.custom.pooled import run_over_all
from many_models.forecasting.local_fit import Fits, Group, fit_panel, nothing_shared
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.forecasting.panel import Layout, Panel, build, layout_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.pooling import PooledModels
    from many_models.forecasting.spec import Spec


@dataclass(frozen=True)
class Variation:
    """Each series' own history in three numbers: mean and variance of its observations, and mean of their sizes."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    size: NDArray[np.float64]


@dataclass
class Evaluation:
    """One pass over a panel and what it says of each candidate: arrays are series × windows (× candidates) × steps.

    `mask` is what scores; `sold` is the share of `Y` that was sold where stock cut a sale short, and 0 elsewhere.
    """

    spec: Spec
    layout: Layout
    panel: Panel
    fits: Fits
    names: tuple[str, ...]
    F: NDArray[np.float64]
    Y: NDArray[np.float64]
    mask: NDArray[np.bool_]
    sold: NDArray[np.float64]
    scales: tuple[NDArray[np.float64], NDArray[np.float64]]
    fallback: list[str]
    belief: NDArray[np.float64]
    classes: NDArray[np.int64]
    pooled: PooledModels | None
    custom: CustomForecasts
    there: NDArray[np.bool_]
    static: NDArray[np.float32]
    variation: Variation
    problems: NDArray[np.object_]
    whole: Layout


def evaluate(
    rows: pa.Table,
    spec: Spec,
    cutoff: datetime,
    pooled: PooledModels | None = None,
    *,
    future: pa.Table | None = None,
    custom_on: Collection[str] | None = None,
) -> Evaluation:
    """All candidates of every series over the backtest windows before `cutoff`, and fitted at it.

    `future` as in `train`. With `custom_on` custom forecasters try the windows alone, and those that are made for each
    series anew only the series of these names.
    """
    layout = layout_of(spec, rows) if pooled is None else pooled.layout(rows, spec)
    future = _later(future, rows, spec, cutoff) if spec.competing else None
    end = int(loader.step_number(np.array([cutoff], "datetime64[us]"), spec.frequency)[0])
    H, m = spec.horizon, spec.steps_per_season
    known = rows if future is None else pa.concat_tables([rows, future], promote_options="permissive")
    panel = build(known, layout, cutoff, end - spec.windows * H, ahead=H, from_first_sale=True)
    origins = panel.periods - 1 - H * np.arange(spec.windows, -1, -1)
    F, fits, fitted, static = _fits(rows, panel, layout, spec, origins, pooled)
    names = candidate_names(spec, pooled=pooled is not None)
    chosen = [loader.CANDIDATES.index(name) for name in names if name in loader.CANDIDATES]
    n = len(panel.series)
    seen = panel.code != loader.MISSING
    Y, mask, cut = _windows(panel, seen, origins[:-1], H, least(m))
    exposure = _exposure(panel, layout, origins)
    sold_of = np.where(mask & np.isfinite(cut), cut / np.maximum(Y * exposure, 1e-300), 0.0)
    mask &= sold_of == 0  # a sale that stock cut short does not judge a forecast of demand
    belief = _belief(panel, seen, spec, names)
    fallback = _fallbacks(panel, seen, m)
    asked = np.concatenate([mask.any(2), np.full((n, 1), custom_on is None)], 1)
    asked &= np.array([not step for step in fallback], bool)[:, None]
    one_by_one = asked & np.array([custom_on is None or name in custom_on for name in panel.series], bool)[:, None]
    custom = run_custom(rows, future, panel, layout, spec, origins, one_by_one)
    run_over_all(panel, layout, spec, origins, asked, static, pooled.brought if pooled else {}, custom)
    problems = _problems(panel, fits, fitted, mask, pooled, [name for name in names if name in loader.CANDIDATES])
    there = np.concatenate([problems == "", custom.there], 1)
    problems = np.concatenate([problems, np.array(custom.problems, object).reshape(n, len(custom.names))], 1)
    F = np.concatenate([F[:, :, chosen], _like_others(custom, F)], 2)
    sold = panel.y if layout.exposed is None else panel.y * panel.x[:, : panel.periods, layout.exposed]
    return Evaluation(
        spec, layout, panel, fits, names, F * exposure[:, :, None], Y * exposure, mask, sold_of,
        metrics.scales(sold, seen, origins[:-1], m), fallback, belief,
        combination.class_of(panel.y, seen, int(layout.conf()[loader.YEAR])), pooled, custom, there, static,
        _variation(panel), problems, layout_of(spec, rows),
    )  # fmt: skip


def _fits(
    rows: pa.Table,
    panel: Panel,
    layout: Layout,
    spec: Spec,
    origins: NDArray[np.int64],
    pooled: PooledModels | None,
) -> tuple[NDArray[np.float64], Fits, NDArray[np.int8], NDArray[np.float32]]:
    """(forecasts of the windows, the fits at the cutoff, what is fitted, attributes): alone, or with what is pooled.

    The last of the `origins` is the cutoff, where pooled models are those of all rows; before it, of earlier ones.
    """
    if pooled is None:
        fits = fit_panel(panel, layout, spec, origins, nothing_shared(layout))
        return fits.F[:, :-1], fits, fits.fitted, np.zeros((len(panel.series), 0), np.float32)
    _fits_together(pooled, spec, panel.number + int(origins[-1]))
    static = pooled.attributes.encode(rows, panel.series)
    fits = fit_panel(panel, layout, spec, origins, pooled.early, last=pooled.late, static=static, only=Group.nobody())
    for _, (early, late), mine in pooled.fits_of(panel.series):
        fit_panel(panel, layout, spec, origins, early, last=late, static=static, only=Group(mine, fits))
    return fits.F[:, :-1], fits, fits.fitted, static


def _windows(
    panel: Panel, seen: NDArray[np.bool_], origins: NDArray[np.int64], horizon: int, needed: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Targets of each window, what of them scores, and what was sold where stock cut it short (series × windows ×
    steps). A window scores a series that has `needed` periods to learn from before it.
    """
    shape = (len(panel.series), len(origins), horizon)
    Y, mask, cut = np.zeros(shape), np.zeros(shape, bool), np.full(shape, np.nan)
    for j, origin in enumerate(origins):
        if origin >= 0:
            steps = slice(origin + 1, origin + 1 + horizon)
            Y[:, j] = panel.y[:, steps]
            mask[:, j] = seen[:, steps] & (seen[:, : origin + 1].sum(1) >= needed)[:, None]
            cut[:, j] = panel.sold[:, steps]
    return Y, mask, cut


def _belief(panel: Panel, seen: NDArray[np.bool_], spec: Spec, names: Sequence[str]) -> NDArray[np.float64]:
    """How much each candidate is trusted before it is measured; none in a baseline that does not compete."""
    sold = ((panel.y != 0) & seen).sum(1) / np.maximum(seen.sum(1), 1)
    belief = combination.beliefs(names, seen.sum(1).astype(float), sold)
    if spec.candidates and "seasonal_naive" not in spec.candidates:
        belief[:, 0] = 0.0
        belief /= np.maximum(belief.sum(1, keepdims=True), 1e-12)
    return belief


def _problems(
    panel: Panel,
    fits: Fits,
    fitted: NDArray[np.int8],
    mask: NDArray[np.bool_],
    pooled: PooledModels | None,
    names: Sequence[str],
) -> NDArray[np.object_]:
    """Why a built-in candidate does not compete for a series (series × candidates), "" where it does.

    Its fit did not converge at some origin, what it builds on has failed for all series, or most of what it forecasts
    lies at the most that the series may sell.
    """
    from many_models.forecasting.kernels import FAILED

    n, H = len(panel.series), fits.F.shape[-1]
    found = np.full((n, len(names)), "", object)
    used = np.concatenate([mask.any(2), np.ones((n, 1), bool)], 1)
    most = fits.own[:, loader.HIGH]
    for c, name in enumerate(names):
        place = loader.CANDIDATES.index(name)
        held = ((fits.F[:, -1, place] >= most[:, None]) & (most[:, None] > 0)).sum(1)
        found[2 * held > H, c] = [
            f"{k} of {H} periods are forecast at the most the series may sell, {top:.6g}"
            for k, top in zip(held[2 * held > H], most[2 * held > H], strict=True)
        ]
        if name in LINEAR:
            lost = ((fitted[:, :, LINEAR.index(name)] == FAILED) & used).any(1)
            found[lost, c] = "its fit did not converge"
    if pooled is not None:
        for _, pair, rows in pooled.fits_of(panel.series):
            problem = next((shared.problem for shared in pair if shared.problem), "")
            for name in set(loader.LEARNED_TOGETHER) & set(names) if problem else ():
                found[rows, names.index(name)] = problem
    return found


def _exposure(panel: Panel, layout: Layout, origins: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exposure against the usual one (series × windows × steps); what is fitted is per exposure, what counts is not."""
    H = layout.horizon
    out = np.ones((len(panel.series), len(origins) - 1, H))
    for j, origin in enumerate(origins[:-1]):
        if origin >= 0 and layout.exposed is not None:
            out[:, j] = np.maximum(panel.x[:, origin + 1 : origin + 1 + H, layout.exposed], 0.0)
    return out


LINEAR = ("ridge_raw", "ridge_log", "poisson")


def _variation(panel: Panel) -> Variation:
    seen = panel.code == loader.OBSERVED
    n = np.maximum(seen.sum(1), 1)
    mean = _total(np.where(seen, panel.y, 0)) / n
    variance = _total(np.where(seen, (panel.y - mean[:, None]) ** 2, 0)) / n
    return Variation(mean, variance, _total(np.where(seen, np.abs(panel.y), 0)) / n)


def _total(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of rows, added up in order of time: zeros before a series begins (other series' time) change no bit."""
    return np.cumsum(values, 1)[:, -1] if values.shape[1] else np.zeros(len(values))


def _later(future: pa.Table | None, rows: pa.Table, spec: Spec, cutoff: datetime) -> pa.Table | None:
    """The rows of `future` after `cutoff` of the series in `rows`, in the types of `rows`."""
    if future is None:
        return None
    mine = pc.and_(
        pc.is_in(future["series_id"], pc.unique(rows["series_id"])),
        pc.greater(future["ds"], pa.scalar(cutoff, pa.timestamp("us"))),
    )
    names = ["series_id", "ds", *(name for name in spec.known if name in future.column_names)]
    kept = future.filter(mine).select(names)
    return kept.cast(pa.schema([rows.schema.field(name) for name in names]))


def _like_others(custom: CustomForecasts, F: NDArray[np.float64]) -> NDArray[np.float64]:
    """Custom forecasts of the windows (series × windows × forecasters × steps): zero where all others are (a closed
    period), the medium smoothing where there is none.
    """
    windows = F.shape[1]
    own = np.moveaxis(custom.F[:, :, :windows], 1, 2)
    own = np.where(np.isfinite(own), own, F[:, :, loader.FALLBACK_CANDIDATE, None])
    return np.where((F == 0.0).all(2, keepdims=True), 0.0, own)


def candidate_names(spec: Spec, *, pooled: bool) -> tuple[str, ...]:
    """The candidates that compete, the baseline first."""
    there = [name for name in loader.CANDIDATES if pooled or name not in loader.LEARNED_TOGETHER]
    chosen = [n for n in there if not spec.candidates or n in spec.candidates or n == "seasonal_naive"]
    return (*chosen, *(mine.name for mine in spec.competing))


def _fits_together(pooled: PooledModels, spec: Spec, end: int) -> None:
    """Raise InputError unless `pooled` suits `spec` and saw nothing after the first backtest window's cutoff."""
    for name in (
        "frequency",
        "horizon",
        "season",
        "known",
        "country",
        "holidays",
        "attributes",
        "pool_by",
        "objective",
        "levels",
        "competing",
        "exposure",
    ):
        if getattr(pooled.spec, name) != getattr(spec, name):
            raise InputError(
                f"pooled models were learned with {name} {getattr(pooled.spec, name)!r}, the spec has "
                f"{getattr(spec, name)!r}: learn them again"
            )
    if pooled.late.cutoff > end or pooled.early.cutoff > end - spec.windows * spec.horizon:
        raise InputError("pooled models are newer than this cutoff or its backtest windows: learn them as of it")


def scored(evaluation: Evaluation) -> NDArray[np.bool_]:
    """Periods that count for weights: observed ones, not stock-outs."""
    panel, H = evaluation.panel, evaluation.spec.horizon
    mask = evaluation.mask.copy()
    for j in range(mask.shape[1]):
        origin = panel.periods - 1 - H * (mask.shape[1] - j)
        if origin >= 0:
            mask[:, j] &= panel.code[:, origin + 1 : origin + 1 + H] != loader.STOCK_OUT
    return mask


def least(season: int) -> int:
    """Observations below which a series is too short for any model."""
    return max(4, min(season, 14))


def _fallbacks(panel: Panel, seen: NDArray[np.bool_], season: int) -> list[str]:
    """The step of the fallback chain each series takes, "" for a model."""
    steps = []
    for i in range(len(panel.series)):
        values = panel.y[i][seen[i]]
        if not len(values) or (values == 0).all():
            steps.append("zero")
        elif len(values) < least(season):
            steps.append("short_history")
        elif (values == values[0]).all():
            steps.append("constant")
        else:
            steps.append("")
    return steps
