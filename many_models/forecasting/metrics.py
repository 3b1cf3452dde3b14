"""Accuracy of forecasts: WAPE, bias, MASE, RMSSE, coverage, as the forecasting literature defines them.

Arrays are series × windows (× steps); `mask` says which periods have an observation to score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def scales(y: Floats, seen: NDArray[np.bool_], origins: NDArray[np.int64], season: int) -> tuple[Floats, Floats]:
    """Mean absolute and mean squared seasonal difference of each series up to each origin, NaN where there is none.

    `y` and `seen` are series × time. Hyndman & Koehler 2006 (MASE); M5 competition (RMSSE), with the calendar's lag.
    """
    d = np.zeros_like(y)
    ok = np.zeros_like(seen)
    if season < y.shape[1]:
        ok[:, season:] = seen[:, season:] & seen[:, :-season]
        d[:, season:] = np.where(ok[:, season:], np.abs(y[:, season:] - y[:, :-season]), 0.0)
    n = np.cumsum(ok, 1)
    at = np.maximum(origins, 0)
    count = np.where(origins >= 0, n[:, at], 0).astype(float)
    count[count == 0] = np.nan
    return np.cumsum(d, 1)[:, at] / count, np.cumsum(d * d, 1)[:, at] / count


def window_scores(
    F: Floats, Y: Floats, mask: NDArray[np.bool_], mae_scale: Floats, mse_scale: Floats
) -> dict[str, Floats]:
    """Per series and window: wape, mase, rmsse, bias, abs_error, abs_actual, n; NaN where undefined."""
    e = np.where(mask, F - Y, 0.0)
    n = mask.sum(-1).astype(float)
    actual = np.where(mask, np.abs(Y), 0.0).sum(-1)
    error = np.abs(e).sum(-1)
    some, sold = np.where(n > 0, n, np.nan), np.where(actual > 0, actual, np.nan)
    positive, square = np.where(mae_scale > 0, mae_scale, np.nan), np.where(mse_scale > 0, mse_scale, np.nan)
    return {
        "wape": error / sold,
        "mase": error / some / positive,
        "rmsse": np.sqrt((e * e).sum(-1) / some / square),
        "bias": e.sum(-1) / sold,
        "abs_error": error,
        "abs_actual": actual,
        "n": n,
        "error": e.sum(-1),
    }


def mean_over_windows(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where all are."""
    good = np.isfinite(values)
    n = good.sum(-1)
    return np.where(n > 0, np.where(good, values, 0.0).sum(-1) / np.maximum(n, 1), np.nan)


def pooled_scores(scores: dict[str, Floats]) -> dict[str, float]:
    """One figure a metric over all series: WAPE and bias pooled over rows, MASE and RMSSE mean over series of the
    mean over windows.
    """
    actual = scores["abs_actual"].sum()
    mase, rmsse = mean_over_windows(scores["mase"]), mean_over_windows(scores["rmsse"])
    return {
        "wape": float(scores["abs_error"].sum() / actual) if actual > 0 else float("nan"),
        "mase": float(np.nanmean(mase)) if np.isfinite(mase).any() else float("nan"),
        "rmsse": float(np.nanmean(rmsse)) if np.isfinite(rmsse).any() else float("nan"),
        "bias": float(scores["error"].sum() / actual) if actual > 0 else float("nan"),
        "n": float(scores["n"].sum()),
    }


def coverage(
    Y: Floats, mask: NDArray[np.bool_], low: Floats, high: Floats, axis: tuple[int, ...] | None = None
) -> Floats:
    """Share of observed values within [low, high]."""
    hit = (mask & (low <= Y) & (high >= Y)).sum(axis)
    n = mask.sum(axis)
    return np.where(n > 0, hit / np.maximum(n, 1), np.nan)


def poisson_deviation(mean: Floats) -> Floats:
    """Mean absolute deviation of a Poisson variable from its mean: 2 e^-μ μ^(⌊μ⌋ + 1) / ⌊μ⌋! (De Moivre)."""
    from scipy.special import gammaln

    mu = np.maximum(mean, 1e-12)
    whole = np.floor(mu)
    return 2.0 * np.exp((whole + 1.0) * np.log(mu) - mu - gammaln(whole + 1.0))


def noise_floor(F: Floats, Y: Floats, mask: NDArray[np.bool_]) -> Floats:
    """The WAPE that even the true mean would have, were counts Poisson around forecasts `F`, per series.

    NaN where that says nothing: values that are not counts, or nothing sold. What is above it may be irreducible too
    (demand is more dispersed than Poisson); what is below it is not to be had.
    """
    actual = np.where(mask, np.abs(Y), 0.0).sum((1, 2))
    counts = np.where(mask, (Y >= 0) & (np.round(Y) == Y), True).all((1, 2))  # noqa: FBT003 - a value, not a switch
    noise = np.where(mask, poisson_deviation(np.maximum(F, 0.0)), 0.0).sum((1, 2))
    return np.where(counts & (actual > 0), noise / np.where(actual > 0, actual, 1.0), np.nan)
