"""Explanations against their forecasts, over one pack: `python -m benchmarks.explanations [--small] [--json]`."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from datetime import datetime
from functools import partial

import numpy as np
import pyarrow as pa

from many_models.forecasting import Spec, pool, prepare, train
from many_models.forecasting.explanation import explain

AS_OF = datetime(2023, 12, 31)
DAYS, HORIZON, ROUNDS = 730, 28, 5


def rows_of(series: int) -> pa.Table:
    """Made-up sales with a weekly season, promotions and prices; seeded."""
    rng = np.random.default_rng(1)
    ds = np.datetime64(AS_OF, "us") - np.arange(DAYS - 1, -1, -1) * np.timedelta64(86_400_000_000, "us")
    on = rng.random((series, DAYS)) < 0.1
    price = np.where(on, 1.6, 2.0)
    mean = (5.0 + np.arange(series) % 40)[:, None] * np.where(on, 2.5, 1.0) * (1.0 + 0.4 * (np.arange(DAYS) % 7 == 5))
    return pa.table({
        "series_id": np.repeat([f"s{i}" for i in range(series)], DAYS), "ds": pa.array(np.tile(ds, series)),
        "y": rng.poisson(mean).astype(float).ravel(), "promotion": on.ravel().astype(float), "price": price.ravel(),
    })  # fmt: skip


def measure(series: int) -> list[dict[str, object]]:
    """Seconds of forecasts and of explanations, turn by turn, so that a busy machine slows both."""
    spec = Spec("D", HORIZON, windows=2, known=("promotion", "price"), country="DE")
    rows = prepare(rows_of(series), spec, AS_OF).rows
    model = train(rows, spec, AS_OF, pooled=pool(rows, spec, AS_OF)).model
    model.predict(None)
    explain(model)
    forecasts, explanations = list[float](), list[float]()
    for _ in range(ROUNDS):
        for found, work in ((forecasts, partial(model.predict, None)), (explanations, partial(explain, model))):
            began = time.perf_counter()
            work()
            found.append(time.perf_counter() - began)
    ratio = statistics.median(b / a for a, b in zip(forecasts, explanations, strict=True))
    one = 1000.0 * statistics.median(explanations) / series
    return [
        {"name": "explanations against their forecasts", "value": round(ratio, 2), "unit": "x", "against": 3.0},
        {"name": "explanation of one series", "value": round(one, 2), "unit": "ms", "against": 5.0},
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--series", type=int, default=0)
    parser.add_argument("--json", action="store_true", dest="as_json")
    given = parser.parse_args()
    figures = measure(given.series or (20 if given.small else 500))
    if given.as_json:
        print(json.dumps({"machine": platform.platform(), "figures": figures}))
        return
    for figure in figures:
        print(f"{figure['name']:45} {figure['value']:>8} {figure['unit']}  (at most {figure['against']:g})")


if __name__ == "__main__":
    main()
