"""Seeded histories for tests of the forecasting core."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa

from many_models.forecasting import Spec, prepare
from many_models.forecasting.pack import mm_pack_v1 as loader

SPEC = Spec("D", horizon=7, windows=2)
AS_OF = datetime(2023, 12, 31)


def stamps(periods: int, frequency: str = "D", last: datetime = AS_OF) -> np.ndarray:
    """The `periods` stamps up to `last`."""
    end = int(loader.step_number(np.array([last], "datetime64[us]"), frequency)[0])
    return loader.stamps(np.arange(end - periods + 1, end + 1), frequency)


def sales(periods: int = 200, level: float = 20.0, seed: int = 0) -> np.ndarray:
    """Poisson sales with a weekly pattern."""
    t = np.arange(periods)
    return np.random.default_rng(seed).poisson(level * (1 + 0.4 * np.sin(2 * np.pi * t / 7))).astype(float)


def table(
    histories: dict[str, np.ndarray], frequency: str = "D", last: datetime = AS_OF, **known: np.ndarray
) -> pa.Table:
    """Raw rows of histories that end at `last`; NaN values are rows that are not there."""
    parts = []
    for name, y in histories.items():
        ds = stamps(len(y), frequency, last)
        there = ~np.isnan(y)
        columns = {
            "series_id": pa.array([name] * int(there.sum()), pa.string()),
            "ds": pa.array(ds[there], pa.timestamp("us")),
            "y": pa.array(y[there], pa.float64()),
        }
        for column, values in known.items():
            columns[column] = pa.array(np.asarray(values)[-len(y) :][there])
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def rows_of(
    histories: dict[str, np.ndarray], spec: Spec = SPEC, last: datetime = AS_OF, **known: np.ndarray
) -> pa.Table:
    """Prepared rows of histories."""
    prepared = prepare(table(histories, spec.frequency, last, **known), spec, last)
    assert not prepared.failures
    return prepared.rows


ODD: dict[str, np.ndarray] = {
    "plain": sales(),
    "constant": np.full(200, 4.0),
    "zero": np.zeros(200),
    "single": np.array([3.0]),
    "short": np.array([2.0, 0.0, 5.0]),
    "huge": sales(level=50.0, seed=1) * 1e9,
    "tiny": sales(level=50.0, seed=2) * 1e-9,
    "sparse": np.where(np.random.default_rng(3).random(200) < 0.05, 2.0, 0.0),
    "gappy": np.where(np.random.default_rng(4).random(200) < 0.4, np.nan, sales(seed=4)),
    "late": np.r_[np.zeros(0), sales(40, seed=5)],
    "dying": np.r_[sales(150, seed=6), np.zeros(50)],
    "shifted": np.r_[sales(150, 5.0, seed=7), sales(50, 80.0, seed=7)],
}
"""One series of each odd kind."""
