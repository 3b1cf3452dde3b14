"""What the UI shows of a run: plain metadata, tables of the worst and of what was decided."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from many_models.orchestration import plots
from many_models.orchestration.stage_run import WORST, Metadata, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from many_models.ports import Release
    from many_models.promotion.policy import Decision

SINGLE = 10  # series; a run over more of them plots none
HISTORY_SHOWN = 120


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


OF_TRAINING = ["series_id", "skill", "wape", "baseline_wape", "bias", "candidate", "history", "fallback"]


def training_summary(parts: Sequence[pa.Table]) -> Metadata:
    """WAPE against the baseline over all series of a run, fallbacks, the distribution of skill, and the worst.

    `parts` have the columns `OF_TRAINING`, a row for each series.
    """
    import pyarrow as pa

    if not parts:
        return {}
    rows = pa.concat_tables(parts, promote_options="permissive").select(OF_TRAINING).to_pylist()
    scored = [r for r in rows if r["skill"] is not None and math.isfinite(r["skill"])]
    fallbacks = Counter(row["fallback"] for row in rows if row["fallback"])
    worst = sorted(scored, key=lambda row: row["skill"])[:WORST]
    shown = [name for name in OF_TRAINING if name != "fallback"]
    summary: Metadata = {
        "candidates": table(
            [{"candidate": c, "series": n} for c, n in Counter(r["candidate"] for r in rows).most_common()]
        ),
    }
    if scored:
        summary["skill"] = plots.skill([row["skill"] for row in scored])
        summary["worst"] = table([{name: row[name] for name in shown} for row in worst])
        summary["median_skill"] = sorted(row["skill"] for row in scored)[len(scored) // 2]
    if fallbacks:
        summary["fallbacks"] = table([{"fallback": name, "series": count} for name, count in fallbacks.most_common()])
    return summary


def promotion_summary(decisions: Sequence[Decision], release: Release | None) -> Metadata:
    """Decisions by rule, the kept and rejected ones with their reasons, and the release that is live now."""
    by_rule = Counter((decision.action, decision.rule) for decision in decisions)
    others = [decision for decision in decisions if decision.action != "promote"][:200]
    summary: Metadata = {
        "decisions": table([{"action": a, "rule": r, "series": n} for (a, r), n in by_rule.most_common()]),
        "release": release.release_id if release else "none",
    }
    if others:
        rows = [{"series": d.series_id, "action": d.action, "rule": d.rule, "reason": d.reason} for d in others]
        summary["not_promoted"] = table(rows)
    return summary
