"""How often demand stays within its quantiles.
`python -m benchmarks.decisions_coverage [SET] [--series 200] [--cutoffs 5]`.

SET is a public table (see many_models_tests/support/public_tables.py). The `horizon` periods after each of the last
cutoffs, a horizon apart, are held back; sums of the first half and of all of them are compared with their quantiles,
per kind of series (share of periods that sell). All series share the luck of a cutoff, so one cutoff tells little: the
last lines are of all cutoffs together. "between" is the share of sums between the two bounds of a central interval,
"below" that below the quantile itself, which a stock is set by. Demand that is often zero has no quantile of exactly
50 %: where 70 % of the sums are zero, 70 % are within any interval from zero on. "level" therefore counts of such a
probability the part that an interval of exactly that share has (the mean of the non-randomised PIT, Czado, Gneiting &
Held 2009). Where a set says when stock was out, what is compared is the demand behind sales that stock cut short, as
training estimates it; sums with a day of which nothing is known are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks._public_sample import sample
from benchmarks._report import Figure, flags, machine, show
from many_models.decisions.demand_paths import Backtest, Histories, fit_paths, sum_quantiles
from many_models.forecasting import Spec, pool, prepare, train
from many_models.orchestration.decision_inputs import HISTORY

if TYPE_CHECKING:
    from datetime import datetime

    import pandas as pd

    from many_models.decisions.demand_paths import PathModel
    from many_models.forecasting import Trained

SHARES = (50, 80, 95, 99)
GRID = (np.arange(400) + 0.5) / 400  # of the quantiles that a distribution is read from
WORDS = ("between", "below", "level")
Inside = dict[tuple[int, int], list["np.ndarray"]]  # length and kind → a row per series: the shares for each of WORDS


def measured(name: str, most: int, cutoffs: int) -> list[Figure]:
    """The coverage of each kind of series and share, of each cutoff and of all."""
    found = sample(name, most, stock=True)
    horizon, rows = found.spec.horizon, prepared(found.frame, found.spec, found.times[-1])
    real = rows.select(["series_id", "ds", "y"]).to_pandas()
    every: Inside = {}
    figures = list[Figure]()
    for back in range(cutoffs, 0, -1):
        cutoff = found.times[-horizon * back - 1]
        inside = of_cutoff(found.frame, real, found.spec, cutoff)
        figures += told(f"{name}, {cutoff:%Y-%m-%d}", inside)
        for of, rows in inside.items():
            every.setdefault(of, []).extend(rows)
    return figures + told(f"{name}, all {cutoffs} cutoffs", every)


def told(what: str, inside: Inside) -> list[Figure]:
    """The shares of `inside`."""
    figures = list[Figure]()
    for (length, kind), rows in sorted(inside.items()):
        shares = np.mean(np.vstack(rows), axis=0).reshape(len(WORDS), len(SHARES))
        figures += [
            Figure(
                f"{what}, sum of {length}, kind {kind} ({len(rows)}), {word} {share} %", value, "", f"{share / 100:g}"
            )
            for word, values in zip(WORDS, shares.tolist(), strict=True)
            for share, value in zip(SHARES, values, strict=True)
        ]
    return figures


def of_cutoff(frame: pd.DataFrame, real: pd.DataFrame, spec: Spec, cutoff: datetime) -> Inside:
    """Whether the sums of `real` demand after `cutoff` are within their bounds."""
    horizon, past = spec.horizon, frame.loc[frame["ds"] <= cutoff]
    model = paths_at(past, spec, cutoff)
    after = real.loc[real["ds"] > cutoff].pivot_table(index="series_id", columns="ds", values="y")
    ahead = after.reindex(model.series).to_numpy()[:, :horizon]
    inside: Inside = {}
    for length in (horizon // 2, horizon):
        edges = [0.5 - s / 200 for s in SHARES] + [0.5 + s / 200 for s in SHARES] + [s / 100 for s in SHARES]
        found = sum_quantiles(model, np.full(len(ahead), length), [*edges, *GRID])
        low, high, quantile, whole = np.split(found, [len(SHARES) * n for n in (1, 2, 3)], axis=1)
        actual = ahead[:, :length].sum(1)[:, None]
        within = np.hstack([(actual >= low) & (actual <= high), actual <= quantile, levels(whole, actual)])
        for at in np.flatnonzero(np.isfinite(actual[:, 0])).tolist():
            inside.setdefault((length, int(model.kind[at])), []).append(within[at])
    return inside


def levels(quantiles: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """For each central interval of SHARES how much of `actual` (series × 1) is within, from 0 to 1, where `quantiles`
    (series × GRID) give the distribution: an actual with a probability of its own is within by the part of it that is.
    """
    below, up_to = (quantiles < actual).mean(1), (quantiles <= actual).mean(1)

    def reached(share: float) -> np.ndarray:
        """The chance that the PIT, even between `below` and `up_to`, is at most `share`."""
        return np.where(
            up_to > below, np.clip((share - below) / np.maximum(up_to - below, 1e-12), 0, 1), below <= share
        )

    return np.stack([reached(0.5 + share / 200) - reached(0.5 - share / 200) for share in SHARES], axis=1)


def paths_at(past: pd.DataFrame, spec: Spec, cutoff: datetime) -> PathModel:
    """The path model of all series of `past` (series_id, ds, y), trained at `cutoff`."""
    trained, backtest, histories = backtested(past, spec, cutoff)
    y_hat = trained.model.predict(None)["y_hat"].to_numpy().reshape(-1, spec.horizon)
    return fit_paths(backtest.series, y_hat, backtest, histories)


def backtested(past: pd.DataFrame, spec: Spec, cutoff: datetime) -> tuple[Trained, Backtest, Histories]:
    """What is trained at `cutoff` on `past` (series_id, ds, y, known columns), its backtest, and the histories."""
    rows = prepared(past, spec, cutoff)
    trained = train(rows, spec, cutoff, pooled=pool(rows, spec, cutoff), keep_paths=True)
    series = list(trained.model.series)
    assert trained.paths is not None
    y, y_past = (np.full((len(series), spec.windows, spec.horizon), np.nan) for _ in range(2))
    at = {one: i for i, one in enumerate(series)}
    for row in trained.paths.to_pylist():
        cut = row.get("estimated") or row["y"]
        told = [v if v is not None else demand for v, demand in zip(row["y"], cut, strict=True)]
        y[at[row["series_id"]], row["window"] - 1] = [np.nan if v is None else v for v in told]
        y_past[at[row["series_id"]], row["window"] - 1] = row["y_hat"]
    own = dict(iter(rows.select(["series_id", "y"]).to_pandas().groupby("series_id")["y"]))
    parts = [own[one].to_numpy(float)[-HISTORY:] for one in series]
    histories = Histories(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(p) for p in parts])]))
    return trained, Backtest(series, y, y_past), histories


def prepared(past: pd.DataFrame, spec: Spec, cutoff: datetime) -> pa.Table:
    """The histories of `past` as training has them."""
    numbers = {"y": past["y"].to_numpy(float), "ds": pa.array(past["ds"].to_numpy("datetime64[us]"))}
    told = [spec.sold_out] if spec.sold_out else []
    table = pa.table({name: past[name].to_numpy() for name in ("series_id", *spec.known, *told)} | numbers)
    return prepare(table, spec, cutoff).rows


def main() -> None:
    """Print the coverage."""
    parser = flags(__doc__ or "", "20 series, one cutoff")
    parser.add_argument("set", nargs="?", default="store_item")
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--cutoffs", type=int, default=5)
    given = parser.parse_args()
    series, cutoffs = (20, 1) if given.small else (given.series, given.cutoffs)
    show(measured(given.set, series, cutoffs), machine(), as_json=given.json)


if __name__ == "__main__":
    main()
