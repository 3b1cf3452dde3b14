"""Compiles the core's kernels once, into numba's cache, so that the first real run does not wait for it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from many_models.forecasting.datasets import prepare
from many_models.forecasting.pooling import pool
from many_models.forecasting.spec import Spec
from many_models.forecasting.train import train

DAYS = 400


def warm_up() -> None:
    """Prepare, pool, train and forecast four made-up series of DAYS days with one known covariate."""
    first = np.datetime64("2023-01-01", "us")
    days = first + np.arange(DAYS) * np.timedelta64(1, "D").astype("timedelta64[us]")
    step = np.arange(DAYS)
    parts = [
        pa.table(
            {
                "series_id": [f"s{number}"] * DAYS,
                "ds": pa.array(days, pa.timestamp("us")),
                "y": (5.0 + number) * (1 + step % 7) + (step * 37) % 11,
                "price": 1.0 + (step // 30) % 2,
            }
        )
        for number in range(4)
    ]
    cutoff = days[-1].item()
    spec = Spec("D", 7, windows=2, known=("price",), country="DE")
    rows = prepare(pa.concat_tables(parts), spec, cutoff).rows
    train(rows, spec, cutoff, pooled=pool(rows, spec, cutoff)).model.predict(rows, cutoff)


if __name__ == "__main__":
    warm_up()
