"""Bounds of what may be published: forecasts beyond all that a series or its kin ever did are replaced, and told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

FEW_OBSERVATIONS = 28  # observations below which a series is judged by its kin, too
UNSURE = 2  # observations from which no spread can be learned
FALLBACK = "out_of_bounds"
_Z = {80: 1.2816, 95: 1.96}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a series has done: its lowest and highest observation (outliers left out), how many there are, and the
    median of the newest ones.
    """

    low: float
    high: float
    observations: int
    usual: float


def kin_level(seen: Mapping[str, Seen]) -> float:
    """The size that is usual among series: the median of their largest observations; 0 where there are none."""
    highs = [max(abs(one.low), abs(one.high)) for one in seen.values() if one.observations]
    return float(np.median(highs)) if highs else 0.0


def bounded(forecasts: pa.Table, seen: Mapping[str, Seen], factor: float, kin: float) -> tuple[pa.Table, list[str]]:
    """`forecasts` (as `PackModel.predict` returns them) within bounds, and the series that were beyond them.

    A series may go `factor` times as far from zero as it ever did, or as is usual among its `kin` where it has fewer
    than FEW_OBSERVATIONS. Where a point forecast goes further, all of the series' rows become the median of its newest
    observations, and `fallback` says so; interval bounds are cut. A series that never was negative gets nothing below
    zero. The interval of a series with too few observations to tell any spread is as wide as that of counts.
    """
    ids = forecasts["series_id"].to_numpy(zero_copy_only=False)
    y_hat = _floats(forecasts, "y_hat")
    sides = {
        name: _floats(forecasts, name)
        for name in forecasts.column_names
        if name[:2] in {"lo", "hi"} and name[2:].isdigit()
    }
    fallback = forecasts["fallback"].to_numpy(zero_copy_only=False).astype(object)
    beyond = list[str]()
    for name, rows in _places(ids).items():
        one = seen.get(name)
        if one is None or not one.observations:
            continue
        limit = factor * max(abs(one.low), abs(one.high), kin if one.observations < FEW_OBSERVATIONS else 0.0)
        floor = 0.0 if one.low >= 0 else -limit
        if limit > 0 and (np.abs(y_hat[rows]) > limit).any():
            beyond.append(name)
            y_hat[rows], fallback[rows] = one.usual, FALLBACK
        y_hat[rows] = np.maximum(y_hat[rows], floor)
        for side, values in sides.items():
            cut = np.clip(values[rows], floor, limit) if limit > 0 else np.maximum(values[rows], floor)
            values[rows] = np.minimum(cut, y_hat[rows]) if side.startswith("lo") else np.maximum(cut, y_hat[rows])
        if one.observations <= UNSURE:
            _widen(y_hat, sides, rows, floor)
    result = forecasts
    for name, values in {"y_hat": y_hat, **sides}.items():
        result = result.set_column(result.column_names.index(name), name, pa.array(values))
    return result.set_column(result.column_names.index("fallback"), "fallback", pa.array(fallback, pa.string())), beyond


def _widen(
    y_hat: NDArray[np.float64], sides: Mapping[str, NDArray[np.float64]], rows: NDArray[np.int64], floor: float
) -> None:
    """Intervals without any width: those of counts, or of a spread as large as the level where that is below one."""
    level = np.abs(y_hat[rows])
    spread = np.where(level > 0, np.sqrt(level * np.maximum(level, 1.0)), 1.0)
    for side, values in sides.items():
        z = _Z.get(int(side[2:]), 1.6)
        if (values[rows] == y_hat[rows]).all():
            sign = -1 if side.startswith("lo") else 1
            values[rows] = np.maximum(y_hat[rows] + sign * z * spread, floor)


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.array(rows[name].to_numpy(), np.float64)


def _places(ids: Sequence[str] | NDArray[np.object_]) -> dict[str, NDArray[np.int64]]:
    names, codes = np.unique(np.asarray(ids, object).astype(str), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes, minlength=len(names)))[:-1]) if len(names) else []
    return {str(name): part for name, part in zip(names, parts, strict=True)}
