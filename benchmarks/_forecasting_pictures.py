"""Draws the two pictures of docs/forecasting.md: `python -m benchmarks._forecasting_pictures`.

Made-up sales of three shops. The first picture shows what each candidate of one item says, how far off it was in the
backtest, and the weight that it gets. The second one shows an item of its third day, and what the others' history adds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks._forecast_picture import lay_out
from many_models.forecasting import Spec, pool, prepare, train
from many_models.forecasting.new_items import priors_of_rows

if TYPE_CHECKING:
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parents[1] / "docs/images"
COMBINED, NEW = FOLDER / "forecasting-combined.png", FOLDER / "forecasting-new-item.png"
DAYS, HORIZON, SHOWN, SEEN = 500, 14, 42, 3
SHOPS, ITEMS = ("north", "south", "west"), tuple(f"i{number:02d}" for number in range(8))
SHOWN_ITEM, NEW_ITEM = "north__i04", "west__i06"
CHOSEN, OTHER, ACTUAL, OPENING = "#4f43dd", "#b9bccc", "#555555", "#f2b134"


@dataclass(frozen=True)
class Sales:
    """Made-up sales (series × days) of `series`, on `days`."""

    series: tuple[str, ...]
    days: NDArray[np.datetime64]
    y: NDArray[np.float64]

    def rows(self, last: int, hidden: str = "") -> pa.Table:
        """Raw rows of all but the newest `last` days; of the series `hidden` only the SEEN before these."""
        parts: list[pa.Table] = []
        for name, y in zip(self.series, self.y, strict=True):
            first = len(y) - last - SEEN if name == hidden else 0
            days, sold = self.days[first : len(y) - last], y[first : len(y) - last]
            parts.append(pa.table({"series_id": [name] * len(sold), "ds": pa.array(days), "y": sold}))
        return pa.concat_tables(parts)

    @property
    def cutoff(self) -> datetime:
        """The last day that the models see."""
        return self.days[-HORIZON - 1].astype(object)


def made() -> Sales:
    """Sales of every item in every shop: shops and items have levels, all share the week and a drift."""
    rng, step = np.random.default_rng(11), np.arange(DAYS)
    days = np.datetime64("2023-01-02", "us") + step * np.timedelta64(86_400_000_000, "us")
    week = np.array([0.8, 0.75, 0.85, 0.95, 1.25, 1.6, 0.8])[step % 7]
    shops = dict(zip(SHOPS, (1.0, 1.6, 0.7), strict=True))
    items = dict(zip(ITEMS, np.geomspace(4.0, 60.0, len(ITEMS)), strict=True))
    names = tuple(f"{shop}__{item}" for shop in SHOPS for item in ITEMS)
    y = np.zeros((len(names), DAYS))
    for i, name in enumerate(names):
        shop, item = name.split("__")
        wander = np.cumsum(rng.normal(0, 0.02, DAYS))
        y[i] = rng.poisson(shops[shop] * items[item] * week * np.exp(wander - wander.mean()))
    return Sales(names, days, y)


def main() -> None:
    """Draw both pictures."""
    FOLDER.mkdir(exist_ok=True)
    sales, spec = made(), Spec("D", HORIZON)
    for path, figure in ((COMBINED, combined(sales, spec)), (NEW, new_item(sales, spec))):
        figure.savefig(path, dpi=110, metadata={"Software": None})
        print(path)


def combined(sales: Sales, spec: Spec) -> Figure:
    """Every candidate of one series and their mixture, beside errors of the backtest and weights."""
    rows = prepare(sales.rows(HORIZON), spec, sales.cutoff).rows
    trained = train(rows, spec, sales.cutoff, pooled=pool(rows, spec, sales.cutoff))
    model = trained.model
    at = list(model.series).index(SHOWN_ITEM)
    mine = trained.series.filter(pc.equal(trained.series["series_id"], SHOWN_ITEM)).to_pylist()[0]
    weights = json.loads(mine["weights"])
    scores = trained.scores.filter(pc.equal(trained.scores["series_id"], SHOWN_ITEM)).to_pandas()
    error = scores.groupby("candidate")["rmsse"].mean().sort_values(ascending=False)

    figure, (left, right) = _figure([1.8, 1.0])
    y, ahead = sales.y[sales.series.index(SHOWN_ITEM)], sales.days[-HORIZON:]
    for f in model.candidates()[at]:
        left.plot(ahead, f, color=OTHER, linewidth=0.8)
    left.plot([], [], color=OTHER, linewidth=0.8, label="candidates")
    said = model.predict(None).filter(pc.equal(model.predict(None)["series_id"], SHOWN_ITEM))
    left.plot(ahead, said["y_hat"].to_numpy(), color=CHOSEN, linewidth=2.2, label="their mixture: the forecast")
    _actual(left, sales.days, y, "sales")
    left.set_title("What they say of the next two weeks", loc="left", fontsize=10)
    places = np.arange(len(error))
    right.barh(places, error.to_numpy(), color=[CHOSEN if weights.get(name) else OTHER for name in error.index])
    for place, (name, value) in enumerate(error.items()):
        if share := weights.get(name):
            right.text(value, place, f" {100 * share:.0f} %", va="center", fontsize=8, color=CHOSEN)
    right.set_yticks(places, list(error.index), fontsize=8)
    right.set_xlim(0, float(error.max()) * 1.15)
    right.set_title("Backtest error (RMSSE), weight", loc="left", fontsize=10)
    right.spines[["top", "right"]].set_visible(False)
    return figure


def new_item(sales: Sales, spec: Spec) -> Figure:
    """An item on its third day: with the mean of its own days, and with what the other series taught."""
    rows = prepare(sales.rows(HORIZON, NEW_ITEM), spec, sales.cutoff).rows
    priors, pooled = priors_of_rows(rows, ("shop", "item"), spec), pool(rows, spec, sales.cutoff)
    model = train(rows, spec, sales.cutoff, priors=priors, pooled=pooled).model
    said = model.predict(None)
    said = said.filter(pc.equal(said["series_id"], NEW_ITEM))

    figure, (axes,) = _figure([1.0])
    y, ahead = sales.y[sales.series.index(NEW_ITEM)], sales.days[-HORIZON:]
    seen = replace(sales, days=sales.days[-HORIZON - SEEN :], y=sales.y[:, -HORIZON - SEEN :])
    for level, alpha in ((95, 0.15), (80, 0.25)):
        low, high = (said[f"{side}{level}"].to_numpy() for side in ("lo", "hi"))
        axes.fill_between(ahead, low, high, color=CHOSEN, alpha=alpha, linewidth=0, label=f"{level} % interval")
    axes.plot(
        ahead, said["y_hat"].to_numpy(), color=CHOSEN, linewidth=2.2, label="forecast with what all series taught"
    )
    own = y[-HORIZON - SEEN : -HORIZON].mean()
    axes.plot(ahead, np.full(HORIZON, own), color=OPENING, linewidth=2, label=f"mean of its {SEEN} days")
    _actual(axes, seen.days, y[-HORIZON - SEEN :], "sales")
    axes.set_title("A new item after three days", loc="left", fontsize=10)
    return figure


def _actual(axes: Axes, days: NDArray[np.datetime64], y: NDArray[np.float64], label: str) -> None:
    """Sales of the last SHOWN days, the cutoff, and what both pictures share."""
    axes.plot(days[-SHOWN:], y[-SHOWN:], color=ACTUAL, linewidth=1, marker=".", markersize=4, label=label)
    axes.axvline(float(_number(days[-HORIZON - 1])), color=ACTUAL, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.2)
    axes.set_ylabel("units a day")
    lay_out(axes, 3)


def _number(day: np.datetime64) -> float:
    from matplotlib.dates import date2num

    return float(date2num(day))


def _figure(widths: list[float]) -> tuple[Figure, tuple[Axes, ...]]:
    from matplotlib.figure import Figure

    figure = Figure((9.0, 3.6), layout="constrained")
    axes = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)
    return figure, tuple(axes[0])


if __name__ == "__main__":
    main()
