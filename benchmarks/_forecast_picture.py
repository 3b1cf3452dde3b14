"""Draws docs/images/forecast.png, the README's picture of a forecast: `python -m benchmarks._forecast_picture`.

A made-up item: a weekly shape, a slow drift, promotions that are known ahead. The last 28 days are kept from the model
and drawn beside its forecast, which selection, fit and intervals of the package made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from many_models.forecasting import Spec, prepare, train

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = Path(__file__).resolve().parents[1] / "docs/images/forecast.png"
DAYS, HORIZON, SHOWN = 730, 28, 84
FORECAST, ACTUAL, PROMOTED = "#4f43dd", "#555555", "#f2b134"


def main() -> None:
    """Train on all days but the last HORIZON, forecast those, and draw both."""
    rng, step = np.random.default_rng(7), np.arange(DAYS)
    days = np.datetime64("2023-01-02", "us") + step * np.timedelta64(86_400_000_000, "us")
    promotion = (step // 7) % 5 == 0
    week = np.array([0.8, 0.75, 0.85, 0.95, 1.25, 1.6, 0.8])[step % 7]
    sales = rng.poisson(40 * week * (1 + 0.2 * np.sin(step / 110)) * np.where(promotion, 1.5, 1.0)).astype(float)
    rows = pa.table(
        {
            "series_id": ["store__item"] * DAYS,
            "ds": pa.array(days, pa.timestamp("us")),
            "y": sales,
            "promotion": promotion.astype(float),
        }
    )
    spec, cutoff = Spec("D", HORIZON, known=("promotion",)), days[-HORIZON - 1].item()
    model = train(prepare(rows.slice(0, DAYS - HORIZON), spec, cutoff).rows, spec, cutoff).model
    future = rows.slice(DAYS - HORIZON).drop_columns(["y"])
    draw(days, sales, promotion, model.predict(None, future=future))
    print(PICTURE)


def lay_out(axes: Axes, columns: int) -> None:
    """What the pictures of forecasts share: dates below, no frame, and a legend of `columns` columns."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(loc="upper left", frameon=False, ncols=columns, fontsize=9)


def draw(days: np.ndarray, sales: np.ndarray, promotion: np.ndarray, ahead: pa.Table) -> None:
    """`ahead` has a row for each of the last HORIZON days."""
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.4), layout="constrained")
    axes = figure.subplots()
    stamps = np.array(ahead["ds"].to_pylist(), "datetime64[us]")
    for level, alpha in ((95, 0.15), (80, 0.25)):
        low, high = (ahead[f"{side}{level}"].to_numpy() for side in ("lo", "hi"))
        axes.fill_between(stamps, low, high, color=FORECAST, alpha=alpha, linewidth=0, label=f"{level} % interval")
    axes.plot(days[-SHOWN:], sales[-SHOWN:], color=ACTUAL, linewidth=1, marker=".", markersize=4, label="sales")
    axes.plot(stamps, ahead["y_hat"].to_numpy(), color=FORECAST, linewidth=2, label="forecast")
    axes.axvline(days[-HORIZON - 1], color=ACTUAL, linewidth=0.8, linestyle=":")
    floor = np.where(promotion[-SHOWN:], 0.0, np.nan)
    axes.plot(days[-SHOWN:], floor, color=PROMOTED, linewidth=5, label="promotion, known ahead")
    axes.set_ylim(0, float(max(sales[-SHOWN:].max(), ahead["hi95"].to_numpy().max())) * 1.25)
    axes.set_ylabel("units a day")
    lay_out(axes, 5)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
