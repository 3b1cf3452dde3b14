"""What the benchmarks of the endpoint serve: a store of series with a price, trained by the version that runs this.

`python benchmarks/_served_model.py FOLDER` writes the pack's files into FOLDER; it imports nothing of the
benchmarks, so that another installed version can run it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from many_models.forecasting import PackModel, Spec, prepare, train

EACH, DAYS, HORIZON = 100, 730, 28


def trained() -> PackModel:
    """A store of EACH series with a price, DAYS days, all local candidates."""
    rng, step = np.random.default_rng(1), np.arange(DAYS)
    days = np.datetime64("2022-01-01", "us") + step * np.timedelta64(1, "D").astype("timedelta64[us]")
    price = 1.0 + (step // 30) % 3 * 0.2
    parts: list[pa.Table] = []
    for number in range(EACH):
        y = rng.poisson((3 + number % 20) * (1 + 0.3 * np.sin(2 * np.pi * step / 7)) / price).astype(float)
        columns = {"series_id": [f"i{number:03d}"] * DAYS, "ds": pa.array(days, pa.timestamp("us")), "y": y}
        parts.append(pa.table({**columns, "price": price}))
    spec, cutoff = Spec("D", HORIZON, known=("price",)), days[-1].item()
    return train(prepare(pa.concat_tables(parts), spec, cutoff).rows, spec, cutoff).model


if __name__ == "__main__":
    for file, content in trained().files().items():
        Path(sys.argv[1], file).write_bytes(content)
