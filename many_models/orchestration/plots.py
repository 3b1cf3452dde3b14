"""Small plots in a run's metadata: the distribution of skill, a series with its forecast."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

WIDTH, HEIGHT = 768, 250  # of a picture, in pixels
LEFT, RIGHT, TOP, BOTTOM = 69.0, 756.0, 42.0, 202.0  # of the frame of its values
SPARE = 0.05  # of the range of the values, between these and the frame
VALUE_TICKS, TIME_TICKS = 6, 9  # at most
TIME_STEPS = (
    *(("h", step) for step in (1, 3, 6, 12)),
    *(("D", step) for step in (1, 2, 7, 14)),
    *(("M", step) for step in (1, 2, 3, 6)),
    *(("Y", step) for step in (1, 2, 5, 10, 20, 50, 100, 1000)),
)
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
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
    counts, edges = np.histogram(np.clip(values, -1, 1), BINS, (-1, 1))
    plot = Plot("skill over the baseline (1: perfect, 0: no better)", (-1.1, 1.1), (0.0, max(counts.max() * 1.05, 1.0)))
    plot.value_axis("series")
    for at in _round_steps(-1.0, 1.0):
        plot.below(at, f"{at:g}")
    for count, left, right in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        plot.bar(left, right, count, WORSE if left + right < 0 else FORECAST)
    return plot.picture()


def forecast(
    history: Sequence[tuple[datetime, float]],
    ahead: Sequence[tuple[datetime, float, float, float]],
    title: str,
) -> dg.MarkdownMetadataValue:
    """A history of (ds, y), NaN where it is missing, and a forecast of (ds, y_hat, low, high)."""
    past = np.array([ds for ds, _ in history], "datetime64[s]")
    stamps = np.array([row[0] for row in ahead], "datetime64[s]")
    sold = np.array([y for _, y in history], float)
    y_hat, low, high = np.array([row[1:] for row in ahead], float).T
    times, values = np.concatenate([past, stamps]), np.concatenate([sold, y_hat, low, high])
    first, last = times.min(), times.max()
    plot = Plot(title, _with_spare(np.array([first, last]).astype(float)), _with_spare(values[np.isfinite(values)]))
    plot.value_axis()
    at, labels, left_out = time_ticks(first, last)
    for moment, label in zip(at.astype("datetime64[s]").astype(float).tolist(), labels, strict=True):
        plot.below(moment, label)
    plot.text(RIGHT, HEIGHT - 6, left_out, "end")
    plot.band(stamps.astype(float), low, high)
    plot.line(past.astype(float), sold, HISTORY, 1.0)
    plot.line(stamps.astype(float), y_hat, FORECAST, 1.8)
    plot.legend({"actual": (HISTORY, 1.0), "forecast": (FORECAST, 1.8)})
    return plot.picture()


def time_ticks(first: np.datetime64, last: np.datetime64) -> tuple[NDArray[np.datetime64], list[str], str]:
    """At most TIME_TICKS moments from `first` to `last` at which an hour, day, month or year begins, their labels, and
    what the labels leave out: the year, month or day of the last one.
    """
    at = np.array([], "datetime64[s]")
    for unit, step in TIME_STEPS:
        begun, end = (moment.astype(f"datetime64[{unit}]") for moment in (first, last))
        if (end - begun).astype(int) > (TIME_TICKS + 1) * step:
            continue
        every = np.arange(begun, end + 1)
        at = every[_is_tick(every, unit, step) & (every.astype("datetime64[s]") >= first)]
        if len(at) <= TIME_TICKS:
            return at, [_label(moment, unit) for moment in at], _left_out(last, unit)
    return at[:0], [], str(last)


def _is_tick(at: NDArray[np.datetime64], unit: str, step: int) -> NDArray[np.bool_]:
    """Which are the first of each `step` of their day, month, year, or of all years."""
    if unit == "h":
        return at.astype(int) % 24 % step == 0
    if unit == "D":
        in_month = (at - at.astype("datetime64[M]").astype("datetime64[D]")).astype(int)
        return (in_month % step == 0) & (in_month <= 30 - step // 2)  # the first of the next month has room
    return (at.astype(int) + (1970 if unit == "Y" else 0)) % step == 0


def _label(at: np.datetime64, unit: str) -> str:
    """What changed since the tick before it, as short as can be."""
    day = at.astype("datetime64[D]").item()
    if unit == "h":
        hour = int(at.astype(int)) % 24
        return f"{hour:02}:00" if hour else f"{MONTHS[day.month - 1]} {day.day}"
    if unit == "D":
        return str(day.day) if day.day > 1 else MONTHS[day.month - 1]
    return MONTHS[day.month - 1] if unit == "M" and day.month > 1 else str(day.year)


def _left_out(last: np.datetime64, unit: str) -> str:
    day = last.astype("datetime64[D]").item()
    month = f"{MONTHS[day.month - 1]} {day.year}"
    return {"h": f"{day.day} {month}", "D": month, "M": str(day.year), "Y": ""}[unit]


def _with_spare(values: NDArray[np.float64]) -> tuple[float, float]:
    """The range of the values with some room around it; from 0 to 1 where there are none."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    spare = SPARE * (high - low) or 0.5
    return low - spare, high + spare


def _round_steps(low: float, high: float) -> list[float]:
    """At most VALUE_TICKS multiples of 1, 2 or 5 times a power of ten, from `low` to `high`."""
    size = (high - low) / VALUE_TICKS
    power = 10.0 ** np.floor(np.log10(size))
    step = power * next(times for times in (1, 2, 5, 10) if times * power >= size * (1 - 1e-9))
    first, last = int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9))
    return [float(number * step) for number in range(first, last + 1)]


@dataclass
class Plot:
    """An SVG picture with a frame: `x` and `y` are the ranges of the values in it."""

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    parts: list[str] = field(default_factory=list[str])

    def value_axis(self, what: str = "") -> None:
        """Label the values on the left, which are `what`, with a line through the frame for each label."""
        for value in _round_steps(*self.y):
            at = float(self._down(value))
            self.parts.append(f"<path d='M{LEFT} {at:.1f}H{RIGHT}' stroke='#000' stroke-opacity='0.12'/>")
            self.text(LEFT - 7, at + 4, f"{value:,.6g}", "end")
        if what:
            turned = f"transform='rotate(-90)' x='{-(TOP + BOTTOM) / 2:.1f}' y='16' text-anchor='middle'"
            self.parts.append(f"<text {turned}>{escape(what)}</text>")

    def below(self, value: float, label: str) -> None:
        """Label a place of the axis below."""
        at = float(self._across(value))
        self.parts.append(f"<path d='M{at:.1f} {BOTTOM}v5' stroke='#000'/>")
        self.text(at, BOTTOM + 20, label, "middle")

    def text(self, x: float, y: float, words: str, anchor: str = "start") -> None:
        """Write `words` at a place of the picture."""
        self.parts.append(f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(words)}</text>")

    def bar(self, left: float, right: float, height: float, color: str) -> None:
        """Draw a bar that stands on the axis below, a tenth narrower than its place."""
        a, b, top = float(self._across(left)), float(self._across(right)), float(self._down(height))
        size = f"x='{a + 0.05 * (b - a):.1f}' y='{top:.1f}' width='{0.9 * (b - a):.1f}' height='{BOTTOM - top:.1f}'"
        self.parts.append(f"<rect {size} fill='{color}'/>")

    def line(self, x: NDArray[np.float64], y: NDArray[np.float64], color: str, width: float) -> None:
        """Draw a line that has gaps where a value is no number."""
        drawn = " ".join(f"M{self._points(x[piece], y[piece])}" for piece in _pieces(y))
        self.parts.append(f"<path d='{drawn}' fill='none' stroke='{color}' stroke-width='{width}'/>")

    def band(self, x: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
        """Fill what is between two lines."""
        drawn = " ".join(
            f"M{self._points(x[piece], high[piece])}L{self._points(x[piece][::-1], low[piece][::-1])}Z"
            for piece in _pieces(low + high)
        )
        self.parts.append(f"<path d='{drawn}' fill='{FORECAST}' fill-opacity='0.2'/>")

    def legend(self, lines: Mapping[str, tuple[str, float]]) -> None:
        """Name the lines, each with its color and width, in a corner of the frame."""
        for number, (name, (color, width)) in enumerate(lines.items()):
            at = LEFT + 12 + 90 * number
            self.parts.append(f"<path d='M{at} {TOP + 12}h22' stroke='{color}' stroke-width='{width}'/>")
            self.text(at + 28, TOP + 16, name)

    def picture(self) -> dg.MarkdownMetadataValue:
        """The picture as Dagster's UI shows it."""
        frame = f"<path d='M{LEFT} {TOP}V{BOTTOM}H{RIGHT}' fill='none' stroke='#000'/>"
        size = f"width='{WIDTH}' height='{HEIGHT}' viewBox='0 0 {WIDTH} {HEIGHT}'"
        font = "font-family='sans-serif' font-size='12'"
        title = f"<text x='{LEFT}' y='{TOP - 14}' font-size='13'>{escape(self.title)}</text>"
        ground = "<rect width='100%' height='100%' fill='#fff'/>"
        drawn = (
            f"<svg xmlns='http://www.w3.org/2000/svg' {size} {font}>{ground}{title}{''.join(self.parts)}{frame}</svg>"
        )
        return dg.MetadataValue.md(f"![plot](data:image/svg+xml;base64,{base64.b64encode(drawn.encode()).decode()})")

    def _points(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
        places = zip(self._across(x).tolist(), self._down(y).tolist(), strict=True)
        return "L".join(f"{across:.1f} {down:.1f}" for across, down in places)

    def _across(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        low, high = self.x
        return LEFT + (RIGHT - LEFT) * (np.asarray(value) - low) / (high - low)

    def _down(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        low, high = self.y
        return BOTTOM - (BOTTOM - TOP) * (np.asarray(value) - low) / (high - low)


def _pieces(values: NDArray[np.float64]) -> list[slice]:
    """The runs of values that are numbers."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.isfinite(values), [False]]).astype(np.int8)))
    return [slice(begin, end) for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
