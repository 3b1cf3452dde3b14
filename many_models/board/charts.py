"""Charts as plotly.js takes them: traces and a layout of plain values. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.board.frames import Frame

Chart = dict[str, Any]

INK, QUIET, RULE, WARN = "#1b1b19", "#62615b", "#dedbd2", "#9a3412"
FORECAST, BAND, WIDE = "#0b5d57", "#9cc6c1", "#d5e6e4"
PARTS = ("#d6d2c4", "#0b5d57", "#d08c34", "#6fa8a1", "#9a3412", "#8a8981", "#b9c98f")  # of drivers, the largest first
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
STRIP = 0.055  # of the height, for each line of events
STATES = {"closed": "closed", "stock_out": "stock-out", "missing": "no data"}
MOST_EVENTS = 4_000
LONGEST_GAP = 3  # periods without data that a line goes on over


def layout(height: int, **more: object) -> Chart:
    """What all charts have in common: thin rules, no frame, one line of hover."""
    axis = {"gridcolor": RULE, "zeroline": False, "linecolor": RULE, "tickcolor": RULE, "fixedrange": False}
    return {
        "height": height,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
        "font": {"family": FONT, "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": RULE, "font": {"family": FONT, "size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": QUIET}},
        "dragmode": "zoom",
        "xaxis": {**axis, "showgrid": False},
        "yaxis": {**axis, "rangemode": "tozero"},
        **more,
    }


def history_chart(
    history: Frame,
    forecast: Frame,
    future: Frame | None,
    holidays: Mapping[str, str],
    known: Sequence[str],
    name: str,
) -> Chart:
    """History and forecast with intervals; below them a strip of events, a line for each kind."""
    traces = [_line(_joined(history), "y", "actual", INK, 1.1)]
    traces += _forecast_traces(forecast)
    events = _events(history, forecast, future, holidays, known)
    bottom = len(events) * STRIP
    for row, (kind, (dates, texts)) in enumerate(events.items()):
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": dates,
                "y": [row] * len(dates),
                "text": texts,
                "yaxis": "y2",
                "showlegend": False,
                "hovertemplate": "%{text}<extra></extra>",
                "marker": {"size": 6, "color": _color(kind), "symbol": "square" if kind in known else "diamond"},
            }
        )
    shown = layout(380 + 22 * len(events))
    shown["yaxis"] |= {
        "domain": [bottom + 0.03 if events else 0.0, 1.0],
        "title": _title(name),
    }
    if events:
        shown["yaxis2"] = {
            "domain": [0.0, bottom],
            "range": [-0.6, len(events) - 0.4],
            "tickvals": list(range(len(events))),
            "ticktext": list(events),
            "showgrid": False,
            "zeroline": False,
            "fixedrange": True,
            "tickfont": {"color": QUIET, "size": 11},
            "automargin": True,
        }
    shown["xaxis"] |= {"range": _first_view(history, forecast), "anchor": "y2" if events else "y"}
    return {"data": traces, "layout": shown}


def _line(frame: Frame, column: str, name: str, color: str, width: float, **more: object) -> Chart:
    line = {"color": color, "width": width, **({"dash": more.pop("dash")} if "dash" in more else {})}
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": dates_of(frame),
        "y": numbers(frame, column),
        "line": line,
        "connectgaps": False,
        "hovertemplate": "%{y:.4~g}",
        **more,
    }


def _joined(history: Frame) -> Frame:
    """`history` without short gaps, as closed Sundays: the line goes on over them, and breaks at longer ones."""
    if history.empty:
        return history
    there = history["y"].notna()
    run = (there != there.shift()).cumsum()
    long = run.map(run.value_counts()) > LONGEST_GAP
    return history[there | long]


def _forecast_traces(forecast: Frame) -> list[Chart]:
    traces = list[Chart]()
    for level, color in ((95, WIDE), (80, BAND)):
        if f"lo{level}" not in forecast or forecast.empty:
            continue
        none = {"width": 0}
        band = {"hoverinfo": "skip", "showlegend": False, "hovertemplate": None}
        traces.append(_line(forecast, f"lo{level}", f"{level} % from", color, 0, **band) | {"line": none})
        traces.append(
            _line(forecast, f"hi{level}", f"{level} % interval", color, 0, fill="tonexty", fillcolor=color)
            | {"line": none, "hoverinfo": "skip", "hovertemplate": None}
        )
    if not forecast.empty:
        both = "%{y:.4~g}"
        if "lo80" in forecast:
            both = "%{y:.4~g}  (80 %%: %{customdata[0]:.4~g} to %{customdata[1]:.4~g})".replace("%%", "%")
        bounds = [list(pair) for pair in zip(numbers(forecast, "lo80"), numbers(forecast, "hi80"), strict=True)]
        traces.append(_line(forecast, "y_hat", "forecast", FORECAST, 2, customdata=bounds) | {"hovertemplate": both})
    return traces


def _events(
    history: Frame,
    forecast: Frame,
    future: Frame | None,
    holidays: Mapping[str, str],
    known: Sequence[str],
) -> dict[str, tuple[list[str], list[str]]]:
    """Kind → its dates and the texts to hover over, the lowest line first; without kinds that never happened."""
    found = dict[str, tuple[list[str], list[str]]]()
    if not history.empty:
        for state, name in STATES.items():
            dates = dates_of(history[history["state"] == state])
            found[name] = dates, [name] * len(dates)
    last = forecast["ds"].max() if not forecast.empty else None
    for name in known:
        parts = [history[["ds", name]]] if name in history else []
        if future is not None and name in future and last is not None:
            parts.append(future.loc[future["ds"] <= last, ["ds", name]])
        on = [part[part[name] == 1] for part in parts] if all(_is_flag(part[name]) for part in parts) else []
        dates = [date for part in on for date in dates_of(part)]
        found[name] = dates, [name] * len(dates)
    named = _named_days((history, forecast), holidays)
    found["holiday"] = list(named), list(named.values())
    return {kind: told for kind, told in found.items() if 0 < len(told[0]) <= MOST_EVENTS}


def _named_days(frames: Sequence[Frame], holidays: Mapping[str, str]) -> dict[str, str]:
    """The holidays on which one of `frames` has a row."""
    there = [frame["ds"].to_numpy("datetime64[D]") for frame in frames if not frame.empty]
    named = np.array(list(holidays), "datetime64[D]")
    seen = np.isin(named, np.concatenate(there)) if there else np.zeros(len(named), bool)
    return {date: name for (date, name), one in zip(holidays.items(), seen.tolist(), strict=True) if one}


def _is_flag(values: Frame) -> bool:
    return bool(values.dropna().isin([0, 1]).all())


def _color(kind: str) -> str:
    return {"closed": QUIET, "stock-out": WARN, "no data": RULE, "holiday": "#7c5c10"}.get(kind, FORECAST)


def _first_view(history: Frame, forecast: Frame, steps: int = 120) -> list[str] | None:
    dates = [*dates_of(history[-steps:]), *dates_of(forecast)]
    return [dates[0], dates[-1]] if dates else None


def earlier_chart(history: Frame, earlier: Mapping[datetime, Frame], name: str) -> Chart:
    """What came, and what had been forecast at each of the last cutoffs: the later, the darker."""
    first = min(earlier)
    shades = np.linspace(0.35, 1.0, len(earlier))
    traces = [
        _line(rows, "y_hat", f"forecast of {cutoff:%d %b %Y}", FORECAST, 1.2, opacity=float(shade))
        for shade, (cutoff, rows) in zip(shades, sorted(earlier.items()), strict=True)
    ]
    since = history[history["ds"] > first - (max(earlier) - first) * 0.15] if not history.empty else history
    traces.append(_line(_joined(since), "y", "actual", INK, 1.4))
    shown = layout(280, showlegend=False)
    shown["yaxis"] |= {"title": _title(name)}
    return {"data": traces, "layout": shown}


def parts_chart(ds: Sequence[str], parts: Mapping[str, Sequence[float]], y_hat: Sequence[float | None]) -> Chart:
    """What each driver adds to each step, stacked; the smallest together, and the forecast as a line."""
    stamps = [stamp.removesuffix("T00:00") for stamp in ds]
    order = sorted(parts, key=lambda name: (name != "level", -float(np.abs(parts[name]).sum())))
    shown, rest = order[: len(PARTS)], order[len(PARTS) :]
    values = {name: np.array(parts[name], float) for name in shown}
    if rest:
        values["all else"] = np.sum([np.array(parts[name], float) for name in rest], axis=0)
    bars: list[Chart] = [
        {
            "type": "bar",
            "name": name,
            "x": stamps,
            "y": [round(float(v), 4) for v in values[name]],
            "marker": {"color": color},
            "hovertemplate": "%{y:+.3~g}",
        }
        for name, color in zip(values, (*PARTS, RULE), strict=False)
    ]
    line = {"color": INK, "width": 1.6}
    bars.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "forecast",
            "x": stamps,
            "y": list(y_hat),
            "line": line,
            "hovertemplate": "%{y:.4~g}",
        }
    )
    return {"data": bars, "layout": layout(300, barmode="relative", bargap=0.25)}


def weeks_chart(weeks: Sequence[str], values: Sequence[float | None], promised: float | None) -> Chart:
    """A share by week, and what the backtest promised as a dashed line."""
    traces: list[Chart] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "realised",
            "x": list(weeks),
            "y": list(values),
            "line": {"color": FORECAST, "width": 2},
            "marker": {"size": 6},
            "hovertemplate": "%{y:.1%}",
        }
    ]
    if promised is not None and weeks:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "backtest",
                "x": [weeks[0], weeks[-1]],
                "y": [promised, promised],
                "line": {"color": QUIET, "width": 1.2, "dash": "dash"},
                "hovertemplate": "%{y:.1%}",
            }
        )
    shown = layout(200, showlegend=False)
    shown["margin"] = {"l": 48, "r": 8, "t": 6, "b": 44}
    shown["yaxis"] |= {"tickformat": ".0%", "rangemode": "normal", "nticks": 5}
    shown["xaxis"] |= {"nticks": 5}
    return {"data": traces, "layout": shown}


def sums_chart(
    past: NDArray[np.datetime64],
    recent: NDArray[np.floating],
    coming: NDArray[np.datetime64],
    ahead: NDArray[np.floating],
    name: str,
) -> Chart:
    """The sum of many items: what was and what is forecast."""

    def line(dates: NDArray[np.datetime64], values: NDArray[np.floating], what: str, color: str) -> Chart:
        return {
            "type": "scatter",
            "mode": "lines",
            "name": what,
            "x": dates.astype(str).tolist(),
            "y": [round(float(v), 4) if np.isfinite(v) else None for v in values],
            "line": {"color": color, "width": 1.6},
            "hovertemplate": "%{y:,.4~g}",
        }

    shown = layout(320)
    shown["yaxis"] |= {"title": _title(name)}
    return {"data": [line(past, recent, "actual", INK), line(coming, ahead, "forecast", FORECAST)], "layout": shown}


def _title(name: str) -> Chart:
    return {"text": name, "font": {"color": QUIET}}


def dates_of(frame: Frame) -> list[str]:
    """The stamps as plotly.js takes them."""
    minutes = frame["ds"].to_numpy("datetime64[m]") if len(frame) else np.empty(0, "datetime64[m]")
    days = minutes.astype("datetime64[D]")
    if (days == minutes).all():  # the usual case, and four times as quick
        return days.astype(str).tolist()
    return [text.removesuffix("T00:00") for text in minutes.astype(str).tolist()]


def numbers(frame: Frame, column: str) -> list[float | None]:
    """A column's numbers; None where there is none."""
    if column not in frame:
        return [None] * len(frame)
    values = frame[column].to_numpy(float)
    rounded = values.round(4).tolist()
    return rounded if np.isfinite(values).all() else [one if np.isfinite(one) else None for one in rounded]
