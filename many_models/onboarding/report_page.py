"""The page that `init` ends with: what was read and guessed, as one HTML file that loads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from many_models.onboarding.findings import is_noise
from many_models.onboarding.profile import codes_of
from many_models.onboarding.row_meaning import periods_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from many_models.onboarding.inferred import InferredSettings

PAGE = "many_models_init.html"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: .6rem 0; font-size: 14px }
td, th { border: 1px solid #ddd; padding: .2rem .6rem; text-align: left; vertical-align: top }
th { background: #f6f6f6 } td.n { text-align: right } .warn { color: #a33 } svg { display: block; margin: .3rem 0 1rem }
"""


@dataclass(frozen=True)
class SeriesFacts:
    """Arrays, one value a series: its name, first and last period, rows, sum, shares of zero and of missing periods."""

    names: list[str]
    length: NDArray[np.int64]
    rows: NDArray[np.int64]
    total: NDArray[np.float64]
    zeros: NDArray[np.float64]
    missing: NDArray[np.float64]


def series_facts(found: InferredSettings) -> SeriesFacts:
    """What the page says of each series."""
    profile = found.profile
    dated = np.flatnonzero(~np.isnat(profile.ds))
    series = profile.series[dated]
    period = periods_of(profile.ds[dated], found.frequency.value)
    count = int(profile.series.max()) + 1
    first, last = np.full(count, np.iinfo(np.int64).max), np.full(count, np.iinfo(np.int64).min)
    np.minimum.at(first, series, period)
    np.maximum.at(last, series, period)
    y = profile.columns[found.target.value].values[dated].astype(float)
    good = np.isfinite(y)
    cells = codes_of(series * (int(period.max()) - int(period.min()) + 1) + period - int(period.min()))
    owner = np.zeros(int(cells.max()) + 1, np.int64)
    owner[cells] = series
    sums = np.bincount(cells, np.where(good, y, 0.0))
    periods = np.bincount(owner, minlength=count)
    length = np.where(periods > 0, last - first + 1, 0)
    heads = np.zeros(count, np.int64)
    heads[series] = dated
    keys = [profile.columns[name] for name in profile.keys]
    names = [" / ".join(str(key.levels[key.codes[row]]) for key in keys) or "the only series" for row in heads]
    return SeriesFacts(
        names=names,
        length=length,
        rows=np.bincount(series, minlength=count),
        total=np.bincount(owner, sums, count).astype(np.float64),
        zeros=np.bincount(owner, sums == 0, count) / np.maximum(periods, 1),
        missing=1 - periods / np.maximum(length, 1),
    )


def noise_floor(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The WAPE of a Poisson count with a known mean: no forecast of sales in single units does better on average.

    Mean absolute deviation of a Poisson variable about its median m, divided by the mean (computed from its terms).
    """
    floors = np.full(len(mean), np.nan)
    for at, rate in enumerate(mean):
        if not rate > 0:
            continue
        if rate > 200:
            floors[at] = np.sqrt(2 / (np.pi * rate))
            continue
        counts = np.arange(int(rate + 12 * np.sqrt(rate) + 20))
        logs = counts * np.log(rate) - rate - np.cumsum(np.log(np.maximum(counts, 1)))
        share = np.exp(logs)
        median = int(np.searchsorted(np.cumsum(share), 0.5))
        floors[at] = float((share * np.abs(counts - median)).sum() / rate)
    return floors


def report_page(found: InferredSettings) -> str:
    """The page. Its texts from the table are escaped, it has no script, and it asks no server for anything."""
    facts = series_facts(found)
    title = f"First look at {found.location}"
    partly = "" if found.complete else " (the first rows only)"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{found.rows:,} rows, {found.series:,} series, {found.start} to {found.last}{partly}.</p>",
        *_what_was_read(found),
        *_unusable(found),
        *_plots(found, facts),
        *_shares(facts),
        *_sizes(facts),
        *_forecastable(found, facts),
        *_what_it_will_do(found),
        *_what_to_change(found),
    ]
    head = f"<meta charset='utf-8'><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _cell(cell: object) -> str:
    if isinstance(cell, (int, float)):
        return f"<td class='n'>{cell:,}</td>"
    return f"<td>{escape(str(cell))}</td>"


def _what_was_read(found: InferredSettings) -> list[str]:
    parts = ["<h2>What was read</h2>"]
    for reading in found.readings:
        parts.append(f"<p>I read this as {escape(reading.what)}.</p>")
        for title, rows in (("before", reading.before), ("after", reading.after)):
            if rows:
                parts.append(f"<p>{title}</p>" + _table([], rows))
        if reading.question:
            parts.append(f"<p class='warn'>Check: {escape(reading.question)}</p>")
    rows = [
        (name, column.kind, column.type.style, len(column.levels), column.missing, column.unread)
        for name, column in list(found.columns.items())[:60]
    ]
    head = ("column", "kind", "written as", "different values", "missing", "not understood")
    return [*parts, _table(head, rows)]


def _unusable(found: InferredSettings) -> list[str]:
    """Rows that cannot be used, by kind, with the first of each."""
    profile = found.profile
    target, time = profile.columns[found.target.value], found.profile.time
    y = target.values.astype(float)
    times = time.values
    late = np.isnat(profile.ds) & ~np.isnat(times)
    kinds = {
        f"no date in {time.name} that is understood": np.isnat(times),
        "dated later than now": late,
        f"{target.name} is missing or no number": ~np.isfinite(y),
    }
    if found.negatives.value == "quarantine":
        kinds[f"{target.name} is below zero"] = y < 0
    rows = [(kind, int(mask.sum()), _example(found, int(mask.argmax()))) for kind, mask in kinds.items() if mask.any()]
    if not found.aggregate.value:
        dated = np.flatnonzero(~np.isnat(profile.ds))
        cells = codes_of(profile.series[dated] * profile.dates + profile.ds_codes[dated])
        if repeated := len(dated) - int(cells.max()) - 1:
            seen, first = np.unique(cells, return_index=True)
            again = np.setdiff1d(np.arange(len(dated)), first[: len(seen)])
            rows.append(("repeats a series and date", repeated, _example(found, int(dated[again[0]]))))
    said = _table(("kind", "rows", "for example"), rows) if rows else "<p>All rows can be used.</p>"
    return ["<h2>Rows that cannot be used</h2>", said]


def _example(found: InferredSettings, row: int) -> str:
    names = [*found.profile.keys, found.timestamp.value, found.target.value]
    columns = [(name, found.profile.columns[name]) for name in names]
    return ", ".join(f"{name} {column.levels[column.codes[row]]!s:.30}" for name, column in columns)


def _plots(found: InferredSettings, facts: SeriesFacts) -> list[str]:
    """The largest series, the median one and a small one."""
    order = np.argsort(-facts.total, kind="stable")
    chosen = dict.fromkeys((int(order[0]), int(order[len(order) // 2]), int(order[int(len(order) * 0.9)])))
    parts = ["<h2>Three series</h2>"]
    profile = found.profile
    target = profile.columns[found.target.value]
    for series in chosen:
        rows = np.flatnonzero((profile.series == series) & ~np.isnat(profile.ds))
        rows = rows[np.argsort(profile.ds[rows], kind="stable")]
        y = target.values[rows].astype(float)
        parts.append(f"<p>{escape(facts.names[series])}: {len(rows):,} rows, {facts.total[series]:,.6g} in all</p>")
        parts.append(_svg(profile.ds[rows][np.isfinite(y)], y[np.isfinite(y)]))
    return parts


def _svg(ds: NDArray[np.datetime64], y: NDArray[np.float64]) -> str:
    if len(y) < 2:
        return "<p>too few rows to plot</p>"
    width, height, left = 900, 150, 70
    at = ds.astype("datetime64[m]").astype(np.int64)
    x = left + (at - at.min()) / max(1, int(at.max() - at.min())) * (width - left - 10)
    low, high = min(0.0, float(y.min())), float(y.max())
    v = height - 20 - (y - low) / (high - low or 1.0) * (height - 35)
    step = max(1, len(x) // 3000)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::step], v[::step], strict=True))
    labels = (
        f"<text x='{left - 6}' y='18' text-anchor='end'>{high:,.4g}</text>"
        f"<text x='{left - 6}' y='{height - 20}' text-anchor='end'>{low:,.4g}</text>"
        f"<text x='{left}' y='{height - 3}'>{ds.min()!s:.10}</text>"
        f"<text x='{width - 10}' y='{height - 3}' text-anchor='end'>{ds.max()!s:.10}</text>"
    )
    line = f"<polyline points='{points}' fill='none' stroke='#27c' stroke-width='1'/>"
    return f"<svg width='{width}' height='{height}' font-size='12' fill='#555' role='img'>{labels}{line}</svg>"


def _shares(facts: SeriesFacts) -> list[str]:
    weights = facts.length / max(1, facts.length.sum())
    missing, zeros = (facts.missing * weights).sum(), np.average(facts.zeros, weights=np.maximum(facts.rows, 1))
    text = (
        f"Of the periods from a series' first to its last row, {float(missing):.1%} have no row, and of those with one "
        f"{float(zeros):.1%} are zero."
    )
    return ["<h2>Zeros and missing periods</h2>", f"<p>{text}</p>"]


def _sizes(facts: SeriesFacts) -> list[str]:
    parts = ["<h2>Series by length and volume</h2>"]
    bounds = [0, 30, 90, 365, 730, 10**9]
    rows = [
        (
            f"{low + 1:,} to {high:,}" if high < 10**9 else f"more than {low:,}",
            int(((facts.length > low) & (facts.length <= high)).sum()),
        )
        for low, high in pairwise(bounds)
    ]
    parts.append(_table(("periods from first to last row", "series"), [row for row in rows if row[1]]))
    order = np.sort(facts.total)[::-1]
    share = np.cumsum(order) / max(float(order.sum()), 1e-12)
    if order.sum() > 0 and len(order) >= 10:
        tenth = share[max(0, len(order) // 10 - 1)]
        parts.append(f"<p>The largest tenth of the series sells {tenth:.0%} of the volume.</p>")
    return parts


def _forecastable(found: InferredSettings, facts: SeriesFacts) -> list[str]:
    """How well single counts can be forecast at best, by how much a series sells."""
    parts = ["<h2>What can be forecast</h2>"]
    periods = np.maximum(1, facts.length if found.missing.value != "unknown" else facts.length * (1 - facts.missing))
    mean = np.maximum(facts.total, 0) / periods
    whole = found.profile.columns[found.target.value].type.whole
    if whole:
        bounds = [0.0, 0.3, 1.0, 3.0, 10.0, 100.0, np.inf]
        rows: list[tuple[object, ...]] = []
        for low, high in pairwise(bounds):
            mine = (mean > low) & (mean <= high)
            if mine.any():
                some = np.flatnonzero(mine)[:500]
                floor = float(np.nansum(noise_floor(mean[some]) * mean[some]) / mean[some].sum())
                size = (
                    f"up to {high:g}" if low == 0 else f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
                )
                rows.append((size, int(mine.sum()), f"{floor:.0%}"))
        parts.append(
            "<p>Sales of single units scatter even where their mean is known. The noise floor is the error (WAPE, a "
            "period and series) that is left then, if they scatter as a Poisson process does.</p>"
        )
        parts.append(_table(("mean a period", "series", "noise floor"), rows))
    if is_noise(found.profile, found.target.value):
        parts.append("<p class='warn'>The target looks like noise around a mean: no model can beat the mean.</p>")
    short = int((facts.length < 2 * found.horizon.value).sum())
    parts.append(f"<p>{short:,} of {len(facts.length):,} series have less history than two horizons.</p>")
    return parts


def _what_it_will_do(found: InferredSettings) -> list[str]:
    from many_models.onboarding.questions import shown

    rows = [
        (name, shown(choice.value) or "(none)", choice.confidence, choice.reason)
        for name, choice in found.choices.items()
    ]
    what = f"{found.horizon.value} periods ({found.frequency.value}) of {found.target.value} for each series"
    text = f"many-models run forecasts {what}."
    return ["<h2>What it will do</h2>", f"<p>{escape(text)}</p>", _table(("setting", "value", "how sure", "why"), rows)]


def _what_to_change(found: InferredSettings) -> list[str]:
    items = [escape(warning) for warning in found.warnings]
    items += [
        f"{escape(name)}: {choice.confidence}; it could also be {escape(', '.join(choice.alternatives[:5]))}"
        for name, choice in found.choices.items()
        if choice.alternatives and choice.confidence != "sure"
    ]
    body = "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>" if items else "<p>Nothing stands out.</p>"
    return [
        "<h2>What to check and change</h2>",
        body,
        "<p>Each is a line of many_models.toml, or a flag of <code>many-models init</code>.</p>",
    ]
