"""Regular, typed histories of raw rows: `prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pyarrow as pa

    from many_models.errors import SeriesFailure
    from many_models.forecasting.spec import Spec


@dataclass(frozen=True)
class Prepared:
    """Regular histories (`rows`), one row per series (`series`), and the series that cannot be used (`failures`)."""

    rows: pa.Table
    series: pa.Table
    failures: Sequence[SeriesFailure]


def prepare(raw: pa.Table, spec: Spec, as_of: datetime) -> Prepared:
    """Regular histories of `raw` (series_id, ds, y, known columns; any order) as of `as_of`."""
    raise NotImplementedError
