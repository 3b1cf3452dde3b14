"""What it costs not to fit each night. `python -m benchmarks.refresh [SET ...] [--series 100] [--nights 7]`.

On public tables (see many_models_tests/support/public_tables.py): forecasts of each night of a span, by models that are
fitted that night, and by the models of the span's first night that take in the new rows (`forecast.refit_every`). The
error is the WAPE over all nights and steps. CPU is that of fitting and forecasting; the ratio holds on any machine.
What a whole later day costs says `python -m benchmarks.later_day --refit-every 7`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._public_sample import sample
from benchmarks._report import Figure, flags, machine, show
from many_models.forecasting import Spec, pool, prepare, train

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd


@dataclass
class Way:
    """One way to make the forecasts of a span of nights: what its errors and its CPU add up to."""

    name: str
    error: float = 0.0
    cpu: float = 0.0

    def add(self, came: pd.DataFrame, forecasts: pa.Table) -> None:
        """Add the errors of a night's forecasts; `came` are the actuals, series × times."""
        wide = forecasts.to_pandas().pivot_table(index="series_id", columns="ds", values="y_hat")
        self.error += float(np.nansum(np.abs(came - wide.reindex(index=came.index, columns=came.columns))))


def measured(name: str, most: int, nights: int) -> list[Figure]:
    """Both errors, both CPU times, and their ratios."""
    found = sample(name, most)
    frame, times, spec, horizon = found.frame, found.times, found.spec, found.spec.horizon
    actual = frame.pivot_table(index="series_id", columns="ds", values="y").reindex(columns=times)
    begin, total = len(times) - horizon - nights, 0.0
    first_cutoff = times[begin]
    learned = pool(dataset(frame.loc[frame["ds"] <= times[begin]], spec, first_cutoff), spec, first_cutoff)
    fitted, refreshed, first = Way("fitted each night"), Way("refreshed"), None
    for night in range(nights):
        cutoff = times[begin + night]
        rows = dataset(frame.loc[frame["ds"] <= times[begin + night]], spec, cutoff)
        came = actual.reindex(columns=times[begin + night + 1 : begin + night + 1 + horizon])
        began = time.process_time()
        trained = train(rows, spec, cutoff, pooled=learned)
        fitting = time.process_time() - began
        fitted.add(came, trained.model.predict(None, horizon=horizon))
        first = trained if first is None else first
        began = time.process_time()
        new = rows.filter(pc.greater(rows["ds"], pa.scalar(first_cutoff, pa.timestamp("us"))))
        forecasts = first.model.predict(new, cutoff, horizon=horizon, series=first.model.series)
        scoring = time.process_time() - began
        refreshed.add(came, forecasts)
        fitted.cpu += fitting + scoring
        refreshed.cpu += scoring + (fitting if not night else 0.0)
        total += float(np.nansum(np.abs(came)))
    ways = [
        figure
        for way in (fitted, refreshed)
        for figure in (
            Figure(f"{name}, {nights} nights, {way.name}: WAPE", way.error / total, "", ""),
            Figure(f"{name}, {nights} nights, {way.name}: CPU", way.cpu, "s", ""),
        )
    ]
    return [
        *ways,
        Figure(f"{name}: error over that of nightly fits", refreshed.error / fitted.error, "times", "at most 1.005"),
        Figure(f"{name}: CPU over that of nightly fits", refreshed.cpu / fitted.cpu, "times", "at most 0.33"),
    ]


def dataset(frame: pd.DataFrame, spec: Spec, cutoff: datetime) -> pa.Table:
    """The rows of datasets of `frame` (series_id, ds, y)."""
    table = pa.table({"series_id": frame["series_id"].to_numpy(), "y": frame["y"].to_numpy(float),
                      "ds": pa.array(frame["ds"].to_numpy("datetime64[us]"))})  # fmt: skip
    return prepare(table, spec, cutoff).rows


def main() -> None:
    """Measure each set."""
    parser = flags(__doc__ or "", "12 series of one set, three nights")
    parser.add_argument("sets", nargs="*", default=["store_item", "m5_tiny", "freshretail"])
    parser.add_argument("--series", type=int, default=100)
    parser.add_argument("--nights", type=int, default=7)
    given = parser.parse_args()
    sets, series, nights = (given.sets[:1], 12, 3) if given.small else (given.sets, given.series, given.nights)
    figures = [figure for name in sets for figure in measured(name, series, nights)]
    show(figures, machine(), as_json=given.json)


if __name__ == "__main__":
    main()
