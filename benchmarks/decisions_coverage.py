"""How often demand stays within its quantiles: `python -m benchmarks.decisions_coverage SET [--series 200]`.

SET is a public table (see many_models_tests/support/public_tables.py). The last `horizon` periods are held back; sums
of the first half and of all of them are compared with their quantiles, per kind of series (share of periods that sell).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from many_models.decisions.demand_paths import CLASSES, Backtest, Histories, fit_paths, sum_quantiles
from many_models.forecasting import Spec, pool, prepare, train
from many_models_tests.support.public_tables import public_set

if TYPE_CHECKING:
    from datetime import datetime

SHARES = (50, 80, 95, 99)


def measured(name: str, most: int) -> None:
    """Print the coverage of each kind of series and share."""
    found = public_set(name)
    keys, horizon = cast("list[str]", found.options["keys"]), int(str(found.options["horizon"]))
    frame = found.frame.rename(columns={found.options["timestamp"]: "ds", found.options["target"]: "y"})
    frame["series_id"] = frame[keys].astype(str).agg("__".join, axis=1)
    names = sorted(set(frame["series_id"]))
    chosen = frame["series_id"].isin(names[:: max(1, len(names) // most)])
    frame = frame.loc[chosen, ["series_id", "ds", "y"]].sort_values(["series_id", "ds"])
    cutoff: datetime = sorted(set(frame["ds"]))[-horizon - 1].to_pydatetime()
    spec = Spec(str(found.options["frequency"]), horizon)
    past = frame.loc[frame["ds"] <= cutoff]
    table = pa.table({"series_id": past["series_id"].to_numpy(), "y": past["y"].to_numpy(float),
                      "ds": pa.array(past["ds"].to_numpy("datetime64[us]"))})  # fmt: skip
    rows = prepare(table, spec, cutoff).rows
    learned = pool(rows, spec, cutoff)
    trained = train(rows, spec, cutoff, pooled=learned, keep_paths=True)
    series = list(trained.model.series)
    y_hat = trained.model.predict(None)["y_hat"].to_numpy().reshape(-1, horizon)
    assert trained.paths is not None
    y, y_past = (np.full((len(series), spec.windows, horizon), np.nan) for _ in range(2))
    at = {one: i for i, one in enumerate(series)}
    for row in trained.paths.to_pylist():
        y[at[row["series_id"]], row["window"] - 1] = [np.nan if v is None else v for v in row["y"]]
        y_past[at[row["series_id"]], row["window"] - 1] = row["y_hat"]
    own = dict(iter(past.groupby("series_id")["y"]))
    parts = [own[one].to_numpy(float)[-730:] for one in series]
    histories = Histories(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(p) for p in parts])]))
    model = fit_paths(series, y_hat, Backtest(series, y, y_past), histories)
    ahead = frame.loc[frame["ds"] > cutoff].pivot_table(index="series_id", columns="ds", values="y").reindex(series)
    for length in (horizon // 2, horizon):
        edges = [0.5 - s / 200 for s in SHARES] + [0.5 + s / 200 for s in SHARES]
        bounds = sum_quantiles(model, np.full(len(series), length), edges)
        actual = ahead.to_numpy()[:, :length].sum(1)
        for kind in range(len(CLASSES) + 1):
            mine = (model.kind == kind) & np.isfinite(actual)
            inside = [float(((actual >= bounds[:, i]) & (actual <= bounds[:, len(SHARES) + i]))[mine].mean())
                      if mine.any() else np.nan for i in range(len(SHARES))]  # fmt: skip
            shown = ", ".join(f"{share} %: {value:.1%}" for share, value in zip(SHARES, inside, strict=True))
            if mine.any():
                print(f"{name}, sum of {length}, kind {kind} ({mine.sum()} series): {shown}")


def main() -> None:
    """Print the coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set")
    parser.add_argument("--series", type=int, default=200)
    options = parser.parse_args()
    measured(options.set, options.series)


if __name__ == "__main__":
    main()
