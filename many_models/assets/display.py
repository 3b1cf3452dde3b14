"""What the UI shows of a run: plain metadata, tables of the worst, small plots as SVG."""

from __future__ import annotations

import base64
import math
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from many_models.assets.stage import WORST, Metadata, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from many_models.ports import Release
    from many_models.promotion import Decision

WIDTH, HEIGHT = 640, 200
SINGLE = 10  # runs over at most so many series get a plot of each
HISTORY_SHOWN = 120
BINS = 20


def plain(values: Mapping[str, object]) -> Metadata:
    """Values as metadata: numbers rounded and finite, nothing empty."""
    result: Metadata = {}
    for name, value in values.items():
        if isinstance(value, float):
            if math.isfinite(value):
                result[name] = round(value, 4)
        elif isinstance(value, (bool, int, str)) and value != "":
            result[name] = value
    return result


def training_summary(parts: Sequence[pa.Table]) -> Metadata:
    """WAPE against the baseline over all series of a run, fallbacks, the distribution of skill, and the worst."""
    import pyarrow as pa

    if not parts:
        return {}
    rows = pa.concat_tables(parts, promote_options="permissive").to_pylist()
    scored = [r for r in rows if r["skill"] is not None and math.isfinite(r["skill"])]
    fallbacks = Counter(row["fallback"] for row in rows if row["fallback"])
    worst = sorted(scored, key=lambda row: row["skill"])[:WORST]
    shown = ("series_id", "skill", "wape", "baseline_wape", "bias", "candidate", "history")
    summary: Metadata = {
        "skill": image(
            histogram([row["skill"] for row in scored], "skill over the baseline (1: perfect, 0: no better)")
        ),
        "worst": table([{name: row[name] for name in shown} for row in worst]),
        "candidates": table(
            [{"candidate": c, "series": n} for c, n in Counter(r["candidate"] for r in rows).most_common()]
        ),
    }
    if scored:
        summary["median_skill"] = sorted(row["skill"] for row in scored)[len(scored) // 2]
    if fallbacks:
        summary["fallbacks"] = table([{"fallback": name, "series": count} for name, count in fallbacks.most_common()])
    return summary


def promotion_summary(decisions: Sequence[Decision], release: Release | None) -> Metadata:
    """Decisions by rule, the kept and rejected ones with their reasons, and the release that is live now."""
    by_rule = Counter((decision.action, decision.rule) for decision in decisions)
    others = [decision for decision in decisions if decision.action != "promote"][:200]
    return {
        "decisions": table([{"action": a, "rule": r, "series": n} for (a, r), n in by_rule.most_common()]),
        "not_promoted": table(
            [{"series": d.series_id, "action": d.action, "rule": d.rule, "reason": d.reason} for d in others]
        ),
        "release": release.release_id if release else "none",
    }


def image(svg: str) -> dg.MarkdownMetadataValue:
    """An SVG as a picture in the UI."""
    encoded = base64.b64encode(svg.encode()).decode()
    return dg.MetadataValue.md(f"![plot](data:image/svg+xml;base64,{encoded})")


def histogram(values: Sequence[float], title: str) -> str:
    """The distribution of `values`, those below -1 counted as -1, as SVG."""
    clipped = [max(-1.0, min(1.0, value)) for value in values]
    counts = Counter(min(BINS - 1, int((value + 1) / 2 * BINS)) for value in clipped)
    most = max(counts.values(), default=1)
    bar = WIDTH / BINS
    bars = list[str]()
    for i, n in counts.items():
        height, colour = 130 * n / most, "#4f43dd" if i >= BINS // 2 else "#d9534f"
        place = f'x="{i * bar + 1:.0f}" y="{160 - height:.1f}" width="{bar - 2:.0f}" height="{height:.1f}"'
        bars.append(f'<rect {place} fill="{colour}"/>')
    labels = [
        f'<text x="{x}" y="178" font-size="12">{t}</text>' for x, t in ((2, "-1"), (WIDTH / 2, "0"), (WIDTH - 12, "1"))
    ]
    return _svg(title, [*bars, *labels])


def forecast_plot(
    history: Sequence[tuple[float, float | None]], forecast: Sequence[tuple[float, float, float, float]], title: str
) -> str:
    """A history of (x, y) and a forecast of (x, y_hat, lo, hi), as SVG."""
    xs = [point[0] for point in history] + [point[0] for point in forecast]
    ys = [y for _, y in history if y is not None] + [point[3] for point in forecast] + [point[2] for point in forecast]
    if not xs or not ys:
        return _svg(title, [])
    left, span = min(xs), max(max(xs) - min(xs), 1e-9)
    low, high = min(0.0, *ys), max(ys)
    height = max(high - low, 1e-9)

    def at(x: float, y: float) -> str:
        return f"{(x - left) / span * (WIDTH - 10) + 5:.1f},{180 - (y - low) / height * 150:.1f}"

    past, ahead = (at(x, y) for x, y in history if y is not None), (at(x, y) for x, y, _, _ in forecast)
    band = [at(x, hi) for x, _, _, hi in forecast] + [at(x, lo) for x, _, lo, _ in reversed(forecast)]
    return _svg(title, [
        f'<polygon points="{" ".join(band)}" fill="#4f43dd" fill-opacity="0.2"/>',
        f'<polyline points="{" ".join(past)}" fill="none" stroke="#555"/>',
        f'<polyline points="{" ".join(ahead)}" fill="none" stroke="#4f43dd" stroke-width="2"/>',
    ])  # fmt: skip


def _svg(title: str, parts: Sequence[str]) -> str:
    escaped = title.replace("&", "&amp;").replace("<", "&lt;")
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
    paper = f'<rect width="100%" height="100%" fill="#fff"/><text x="6" y="16" font-size="13">{escaped}</text>'
    return f"{head}{paper}{''.join(parts)}</svg>"
