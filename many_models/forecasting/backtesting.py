"""The core alone on any table: `backtest`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd


@dataclass(frozen=True)
class BacktestReport:
    """`metrics` per candidate, "selected" and the baseline; `forecasts` of the selected one in the table's names."""

    metrics: pd.DataFrame
    forecasts: pd.DataFrame


def backtest(
    data: pd.DataFrame,
    *,
    keys: Sequence[str],
    timestamp: str,
    target: str,
    known: Sequence[str] = (),
    frequency: str,
    horizon: int,
    windows: int = 3,
    country: str = "",
    season: int | None = None,
    candidates: Sequence[str] = (),
    levels: Sequence[int] = (80, 95),
    negatives: Literal["allow", "zero", "error"] = "allow",
    progress: Callable[[str, float], None] | None = None,
    workers: int = 1,
) -> BacktestReport:
    """Backtest every candidate and their combination on `data`."""
    raise NotImplementedError
