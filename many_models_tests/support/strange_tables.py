"""Tables of strangers for `many-models init`: made, written and looked at."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from many_models.onboarding.guess import infer_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from many_models.onboarding.inferred import InferredSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RNG = np.random.default_rng(5)


def panel(frequency: str, periods: int, start: str = "2023-01-02", **keys: Sequence[object]) -> pd.DataFrame:
    """Every combination of the keys at every time, with a seasonal target `y`, a rare `price` change and a `promo`."""
    times = pd.date_range(start, periods=periods, freq=frequency)
    index = pd.MultiIndex.from_product([*keys.values(), times], names=[*keys, "time"])
    frame = index.to_frame(index=False)
    series = frame.groupby(list(keys)).ngroup().to_numpy() if keys else np.zeros(len(frame), int)
    number = np.tile(np.arange(periods), len(frame) // periods)
    promo = RNG.random(len(frame)) < 0.1
    mean = (5 + 3 * series) * (1.3 + np.sin(number * 2 * np.pi / 7)) * np.where(promo, 2, 1)
    frame["y"] = RNG.poisson(mean)
    frame["price"] = np.round(2 + 0.3 * series + 0.25 * (number // 60), 2)
    frame["promo"] = promo.astype(int)
    return frame


def csv(tmp_path: Path, frame: pd.DataFrame, name: str = "table.csv", **how: object) -> str:
    path = tmp_path / name
    frame.to_csv(path, index=False, **how)  # pyright: ignore[reportCallIssue, reportArgumentType]
    return str(path)


def looked_at(location: str, **given: object) -> InferredSettings:
    return infer_settings(location, now=NOW, **given)  # pyright: ignore[reportArgumentType]


def rows_of(database: Path, query: str = "SELECT * FROM sales") -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(query).fetchall()
