"""How often demand stays within its quantiles.
`python -m benchmarks.decisions_coverage [SET] [--series 200] [--cutoffs 5] [--apart 28]`.

SET is a public table (see many_models_tests/support/public_tables.py). The `horizon` periods after each of the last
cutoffs are held back; cutoffs are `--apart` periods from each other, by default a horizon. Sums of the first half and
of all of the periods are compared with their quantiles, per class of series: how often it has sold since its first
sale, apart from series that have not sold yet and from those whose first sale is at most two horizons ago.

All series share the luck of a cutoff, so one cutoff tells little: the last lines are of all cutoffs together, and the
standard error beside them comes from how cutoffs differ, not from the number of series.
"between" is the share of sums between the two bounds of a central interval, "below" that below the quantile itself,
which a stock is set by. Demand that is often zero has no quantile of exactly 50 %: where 70 % of the sums are zero,
70 % are within any interval from zero on. "level" therefore counts of such a probability the part that an interval of
exactly that share has (the mean of the non-randomised PIT, Czado, Gneiting & Held 2009). Where a set says when stock
was out, what is compared is the demand behind sales that stock cut short, as training estimates it; sums with a day of
which nothing is known are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from benchmarks._public_sample import sample
from benchmarks._report import Figure, flags, machine, show
from many_models.decisions.beginners import HORIZONS
from many_models.decisions.demand_paths import CLASSES, Backtest, Histories, fit_paths, sum_quantiles
from many_models.forecasting import Spec, pool, prepare, train
from many_models.orchestration.decision_inputs import HISTORY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import pandas as pd

    from many_models.decisions.demand_paths import PathModel
    from many_models.forecasting import Trained

SHARES = (50, 80, 95, 99)
GRID = (np.arange(400) + 0.5) / 400  # of the quantiles that a distribution is read from
WORDS = ("between", "below", "level")
CLASS_NAMES = ("all series", "not sold yet", "began to sell", "less than 25 %", "25 to 60 %", "60 to 90 %", "90 %")
EVERY, NEVER, BEGAN, FIRST = range(4)  # places in CLASS_NAMES; from FIRST on they are by the share of periods
Inside = dict[tuple[int, int], "np.ndarray"]  # length and class → a row per series: the shares for each of WORDS


def measured(name: str, most: int, cutoffs: int, apart: int) -> list[Figure]:
    """The coverage of each class of series and share, of each cutoff and of all; `apart` 0: a horizon."""
    found = sample(name, most, stock=True)
    horizon, rows = found.spec.horizon, prepared(found.frame, found.spec, found.times[-1])
    real = rows.select(["series_id", "ds", "y"]).to_pandas()
    every, figures = list[Inside](), list[Figure]()
    for back in range(cutoffs - 1, -1, -1):
        cutoff = found.times[-horizon - 1 - back * (apart or horizon)]
        every.append(of_cutoff(found.frame, real, found.spec, cutoff))
        figures += told(f"{name}, {cutoff:%Y-%m-%d}", every[-1:])
    return figures + told(f"{name}, all {cutoffs} cutoffs", every)


def told(what: str, cutoffs: Sequence[Inside]) -> list[Figure]:
    """The shares of all `cutoffs` together, and their standard errors."""
    figures = list[Figure]()
    for length, of in sorted({key for inside in cutoffs for key in inside}):
        parts = [inside[length, of] for inside in cutoffs if (length, of) in inside]
        share, off = share_and_error(parts)
        whose = f"{what}, sum of {length}, {CLASS_NAMES[of]} ({sum(map(len, parts))})"
        figures += [
            Figure(f"{whose}, {word} {SHARES[at]} %", share[row, at], f"± {off[row, at]:.3f}", f"{SHARES[at] / 100:g}")
            for row, word in enumerate(WORDS)
            for at in range(len(SHARES))
        ]
    return figures


def share_and_error(cutoffs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the cases (rows) of all `cutoffs`, and its standard error, WORDS × SHARES.

    The cases of a cutoff go together, however many they are: the error is that of a ratio of sums over cutoffs. One
    cutoff does not tell it.
    """
    mean, number = np.concatenate(cutoffs).mean(0), len(cutoffs)
    error = np.full(len(mean), np.nan)
    if number > 1:
        off = np.stack([(cases - mean).sum(0) for cases in cutoffs])
        error = np.sqrt((off**2).sum(0) * number / (number - 1)) / sum(map(len, cutoffs))
    return mean.reshape(len(WORDS), -1), error.reshape(len(WORDS), -1)


def of_cutoff(frame: pd.DataFrame, real: pd.DataFrame, spec: Spec, cutoff: datetime) -> Inside:
    """Whether the sums of `real` demand after `cutoff` are within their bounds."""
    horizon, past = spec.horizon, frame.loc[frame["ds"] <= cutoff]
    model = paths_at(past, spec, cutoff)
    after = real.loc[real["ds"] > cutoff].pivot_table(index="series_id", columns="ds", values="y")
    ahead, kinds = after.reindex(model.series).to_numpy()[:, :horizon], classes(model.histories, horizon)
    inside: Inside = {}
    for length in (horizon // 2, horizon):
        edges = [0.5 - s / 200 for s in SHARES] + [0.5 + s / 200 for s in SHARES] + [s / 100 for s in SHARES]
        found = sum_quantiles(model, np.full(len(ahead), length), [*edges, *GRID])
        low, high, quantile, whole = np.split(found, [len(SHARES) * n for n in (1, 2, 3)], axis=1)
        actual = ahead[:, :length].sum(1)[:, None]
        within = np.hstack([(actual >= low) & (actual <= high), actual <= quantile, levels(whole, actual)])
        known = np.isfinite(actual[:, 0])
        inside[length, EVERY] = within[known]
        inside |= {(length, int(of)): within[known & (kinds == of)] for of in np.unique(kinds[known])}
    return inside


def classes(histories: Histories, horizon: int) -> np.ndarray:
    """The place of each series' class in CLASS_NAMES."""
    share, age = histories.sold(), histories.ages(horizon)
    found = FIRST + np.searchsorted(CLASSES, share, side="right")
    found[(age > 0) & (age <= HORIZONS * horizon)] = BEGAN
    found[share == 0] = NEVER
    return found


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
    parser.add_argument("--apart", type=int, default=0, help="periods from a cutoff to the next, not below a horizon")
    given = parser.parse_args()
    series, cutoffs = (20, 1) if given.small else (given.series, given.cutoffs)
    show(measured(given.set, series, cutoffs, given.apart), machine(), as_json=given.json)


if __name__ == "__main__":
    main()
