"""Small plots in a run's metadata: the distribution of skill, a series with its forecast."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

INCHES = (8.0, 2.6)
MARGINS = {"left": 0.09, "right": 0.985, "bottom": 0.19, "top": 0.83}  # a layout that measures draws each plot twice
FORECAST, HISTORY, WORSE = "#4f43dd", "#555555", "#d9534f"
BINS = 20
BLOCKS = "▁▂▃▄▅▆▇█"


def blocks(values: NDArray[np.float64], starts: NDArray[np.int64]) -> list[str]:
    """Charts in one line of text, a block for each value from zero to the greatest; what is not a number is a space.

    `values` are those of one chart after the other, `starts` where each begins: ten thousand cost next to nothing.
    """
    there = np.isfinite(values)
    known = np.where(there, values, 0.0)
    lengths = np.diff(starts, append=len(values))
    high = np.repeat(np.maximum(np.maximum.reduceat(known, starts), 1e-300), lengths)
    heights = np.clip(np.rint(known / high * (len(BLOCKS) - 1)), 0, len(BLOCKS) - 1).astype(int)
    text = "".join(np.where(there, np.array(list(BLOCKS))[heights], " ").tolist())
    return [text[start : start + length] for start, length in zip(starts, lengths, strict=True)]


def skill(values: Sequence[float]) -> dg.MarkdownMetadataValue:
    """How many series beat the baseline by how much; what is below −1 is counted as −1."""
    figure, axes = _blank("skill over the baseline (1: perfect, 0: no better)")
    counts, edges = np.histogram(np.clip(values, -1, 1), BINS, (-1, 1))
    middles = (edges[:-1] + edges[1:]) / 2
    axes.bar(middles, counts, width=1.8 / BINS, color=np.where(middles < 0, WORSE, FORECAST).tolist())
    axes.set_ylabel("series")
    return _picture(figure)


def forecast(
    history: Sequence[tuple[datetime, float]],
    ahead: Sequence[tuple[datetime, float, float, float]],
    title: str,
) -> dg.MarkdownMetadataValue:
    """A history of (ds, y), NaN where it is missing, and a forecast of (ds, y_hat, low, high)."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure, axes = _blank(title)
    past = np.array([ds for ds, _ in history], "datetime64[us]")
    stamps = np.array([row[0] for row in ahead], "datetime64[us]")
    y_hat, low, high = np.array([row[1:] for row in ahead]).T
    axes.plot(past, np.array([y for _, y in history]), color=HISTORY, linewidth=1, label="actual")
    axes.fill_between(stamps, low, high, color=FORECAST, alpha=0.2, linewidth=0)
    axes.plot(stamps, y_hat, color=FORECAST, linewidth=1.8, label="forecast")
    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.legend(loc="upper left", frameon=False, ncols=2)
    return _picture(figure)


def _blank(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(INCHES)
    axes = figure.subplots(gridspec_kw=MARGINS)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def _picture(figure: Figure) -> dg.MarkdownMetadataValue:
    import matplotlib as mpl

    drawn = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "many_models"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(drawn.getvalue().encode()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/svg+xml;base64,{encoded})")
