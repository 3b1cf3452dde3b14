"""What training says of each series, and of each candidate and window: the tables `series` and `scores`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.forecasting import metrics
from many_models.forecasting.calibration import series_quantiles
from many_models.forecasting.pack import mm_pack_v1 as loader
from many_models.table_columns import BACKTEST_OF_SERIES, SCORES_OF_SERIES, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.evaluation import Evaluation
    from many_models.forecasting.pack.model import PackModel

SERIES_COLUMNS = {field.name: field.type for field in schema_of(BACKTEST_OF_SERIES)}
SCORE_COLUMNS = {field.name: field.type for field in schema_of(SCORES_OF_SERIES)}


def series_table(
    evaluation: Evaluation,
    weights: NDArray[np.float64],
    blends: NDArray[np.float64],
    spreads: NDArray[np.float64],
    champion: Mapping[str, float],
    model: PackModel,
) -> pa.Table:
    """A row per series (`SERIES_COLUMNS`): what it ended up with, and how that did in the backtest."""
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
        "series_id": panel.series,
        "fallback": fallback,
        "candidate": best,
        "weights": [_weights_json(evaluation.names, w, step) for w, step in zip(weights, fallback, strict=True)],
        "history": (panel.code != loader.MISSING).sum(1).tolist(),
        "windows": evaluation.mask.any(2).sum(1).tolist(),
        "wape": _nullable(wape),
        "baseline_wape": _nullable(base),
        "skill": _nullable(skill),
        "accuracy": _nullable(1.0 - wape),
        "bias": _nullable(scores["error"].sum(1) / actual),
        "mase": _nullable(metrics.mean_over_windows(scores["mase"])),
        "rmsse": _nullable(metrics.mean_over_windows(scores["rmsse"])),
        "cover80": _nullable(cover.get(80, np.full(n, np.nan))),
        "cover95": _nullable(cover.get(95, np.full(n, np.nan))),
        "noise_floor": _nullable(metrics.noise_floor(blends, evaluation.Y, evaluation.mask)),
        "champion_wape": [champion.get(name) for name in panel.series],
        "recipe": [spec.recipe] * n,
        "cutoff": [panel.ds[panel.periods - 1].astype(object)] * n,
    }
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


def score_table(evaluation: Evaluation) -> pa.Table:
    """A row per series, candidate and window (`SCORE_COLUMNS`)."""
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
        "series_id": ids,
        "candidate": np.tile(np.repeat(np.array(evaluation.names, object), windows), n)[scored],
        "window": np.tile(np.arange(1, windows + 1), n * C)[scored],
        "cutoff": np.tile(cutoffs, n * C)[scored],
    }
    for name, values in parts.items():
        flat = values.ravel()[scored]
        columns[name] = flat.astype(np.int64) if name == "n" else pa.array(flat, mask=~np.isfinite(flat))
    seconds, problem = np.full((n, C), np.nan), evaluation.problems.copy()
    problem[problem == ""] = None
    custom = evaluation.custom
    if custom.names:
        seconds[:, -len(custom.names) :] = custom.seconds
    for name, values in (("seconds", seconds), ("problem", problem)):
        flat = np.repeat(values.ravel(), windows)[scored]
        columns[name] = pa.array(flat, SCORE_COLUMNS[name], from_pandas=True)
    return pa.table(
        {
            name: pa.array(columns[name], kind) if not isinstance(columns[name], pa.Array) else columns[name]
            for name, kind in SCORE_COLUMNS.items()
        }
    )
