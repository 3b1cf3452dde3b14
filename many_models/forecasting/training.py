"""Backtest, combine and fit many series at once: `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

    from many_models.errors import SeriesFailure
    from many_models.forecasting.packs import PackModel
    from many_models.forecasting.spec import Prior, Spec


@dataclass(frozen=True)
class Trained:
    """What training gives: the `model`, a row per `series`, `scores` per candidate and window, `failures`."""

    model: PackModel
    series: pa.Table
    scores: pa.Table
    failures: Sequence[SeriesFailure]


def train(
    rows: pa.Table,
    spec: Spec,
    cutoff: datetime,
    *,
    champions: Mapping[str, Spec] | None = None,
    priors: Mapping[str, Prior] | None = None,
) -> Trained:
    """Backtest all candidates of every series in `rows`, fit and combine them as of `cutoff`."""
    raise NotImplementedError
