"""What people are told: alerts from facts, and which of them are new to an address. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from many_models.keys import SeriesKey, digest
from many_models.ports import Message
from many_models.settings import WEEKDAYS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from many_models.setting_sections import AlertSettings, BoardSettings, Topic

NAMED = 10  # series that a digest names
LEVEL = 0.8
NIGHTLY: frozenset[Topic] = frozenset({"series", "drift"})  # one digest a night
NIGHT = timedelta(hours=20)


@dataclass(frozen=True, slots=True)
class Failed:
    """A series that failed at a stage, or is set aside there."""

    series_id: str
    stage: str
    reason: str
    set_aside: bool


@dataclass(frozen=True, slots=True)
class Realised:
    """What the last weeks' forecasts were worth over all series: bias, coverage of the 80 % interval, cutoffs."""

    bias: float
    cover80: float
    since: str
    until: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found. None: that could not be asked, so nothing is said of it and what was told stays told.

    `stages`: stage → why its newest run failed as a whole. `settled`: the night's work is at its end. `late`: the
    newest period, where the next one should be there by now; "" where it is not late.
    """

    as_of: str = ""
    settled: bool = True
    stages: Mapping[str, str] | None = None
    series: Sequence[Failed] | None = None
    proposal: Mapping[str, object] | None = None
    quarantine: Mapping[str, int] | None = None
    late: str | None = None
    realised: Realised | None = None
    drifted: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """What is to be told of a topic; `mark` differs when something changed that is worth telling again."""

    topic: Topic
    mark: str
    title: str
    text: str
    page: str
    urgent: bool = False


@dataclass(slots=True)
class Told:
    """What an address has been told: topic → mark, and of digests the night and the moment."""

    marks: dict[str, str] = field(default_factory=dict[str, str])
    nights: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


def alerts_of(facts: Facts, wanted: AlertSettings) -> tuple[list[Alert], set[Topic]]:
    """The alerts that hold now, and the topics that were asked: those of them without an alert are in order."""
    made: dict[Topic, tuple[bool, list[Alert]]] = {
        "stage": (facts.stages is not None, _stages(facts)),
        "series": (facts.series is not None, _series(facts)),
        "proposal": (facts.proposal is not None, _proposal(facts)),
        "quarantine": (facts.quarantine is not None, _quarantine(facts, wanted)),
        "no_data": (facts.late is not None, _late(facts, wanted)),
        "accuracy": (facts.realised is not None, _accuracy(facts, wanted)),
        "drift": (facts.drifted is not None, _drift(facts)),
    }
    known: set[Topic] = {topic for topic, (asked, _) in made.items() if asked and topic in wanted.about}
    return [alert for topic, (_, alerts) in made.items() if topic in known for alert in alerts], known


def news(
    alerts: Sequence[Alert], known: set[Topic], told: Told, facts: Facts, now: datetime
) -> tuple[list[Alert], Told]:
    """The alerts that an address has not been told, and what it has been told once it has got them.

    A digest waits for the end of the night's work, and there is one a night. What is in order is forgotten, so that it
    is told when it happens again.
    """
    by_topic = {alert.topic: alert for alert in alerts}
    after = Told(dict(told.marks), dict(told.nights))
    new = list[Alert]()
    for topic in known:
        alert = by_topic.get(topic)
        if topic in NIGHTLY and not facts.settled:
            continue
        if alert is None:
            after.marks.pop(topic, None)
            continue
        if told.marks.get(topic) == alert.mark:
            continue
        if topic in NIGHTLY and _had_tonight(told.nights.get(topic), facts.as_of, now):
            continue
        after.marks[topic] = alert.mark
        if topic in NIGHTLY:
            after.nights[topic] = (facts.as_of, now.isoformat())
        new.append(alert)
    return sorted(new, key=lambda alert: alert.topic), after


def _had_tonight(told: tuple[str, str] | None, as_of: str, now: datetime) -> bool:
    return told is not None and told[0] == as_of and now - datetime.fromisoformat(told[1]) < NIGHT


def message_of(alert: Alert, board: BoardSettings) -> Message:
    """The message of an alert, with the address of the board's page about it."""
    return Message(f"many_models: {alert.title}", f"{alert.text}\n\n{board.page_url(alert.page)}", alert.urgent)


def is_late(moved: datetime, now: datetime, by: str, every: timedelta, skipped: frozenset[str]) -> bool:
    """Whether no new period came in the time `every` up to today's hour `by`; `moved`: when the newest one came.

    Of daily data, nothing is expected of a day in `skipped` (weekdays as monday).
    """
    hour, minute = map(int, by.split(":"))
    deadline = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if now < deadline:
        return False
    yesterday = WEEKDAYS[(now - timedelta(days=1)).weekday()]
    if every <= timedelta(days=1) and yesterday in skipped:
        return False
    return moved < deadline - max(every, timedelta(days=1))


def _stages(facts: Facts) -> list[Alert]:
    if not facts.stages:
        return []
    lines = [f"{stage}: {reason}" for stage, reason in sorted(facts.stages.items())]
    title = f"{' and '.join(sorted(facts.stages))} failed"
    text = "\n".join([*lines, "", "Forecasts that are live stay live. The next run tries again."])
    return [Alert("stage", digest(lines), title, text, "/", urgent=True)]


def _series(facts: Facts) -> list[Alert]:
    rows = sorted(facts.series or (), key=lambda row: (row.set_aside, row.stage, row.series_id))
    if not rows:
        return []
    aside = {row.series_id for row in rows if row.set_aside}
    failed = {row.series_id for row in rows} - aside
    parts = [f"{len(names):,} {word}" for names, word in ((failed, "failed"), (aside, "set aside")) if names]
    lines = [
        f"{shown(row.series_id)} ({row.stage}{', set aside' if row.set_aside else ''}): {row.reason}"
        for row in rows[:NAMED]
    ]
    if len(rows) > NAMED:
        lines.append(f"… and {len(rows) - NAMED:,} more")
    title = f"series: {', '.join(parts)}"
    page = "/items?is.state=failed&is.state=set+aside"
    mark = digest([(row.series_id, row.stage, row.reason, row.set_aside) for row in rows])
    return [Alert("series", mark, title, "\n".join([*lines, "", "All other series are done."]), page)]


def _proposal(facts: Facts) -> list[Alert]:
    proposal = facts.proposal
    if not proposal:
        return []
    text = (
        f"A release waits for approval: {proposal['series_changed']} series get another model, "
        f"{proposal['series_leaving']} leave. Until then the old release stays live."
    )
    return [Alert("proposal", str(proposal["proposal"]), "a release waits for approval", text, "/proposal")]


def _quarantine(facts: Facts, wanted: AlertSettings) -> list[Alert]:
    reasons = facts.quarantine or {}
    count = sum(reasons.values())
    if count < wanted.quarantine_rows:
        return []
    lines = [f"{reason}: {rows:,} rows" for reason, rows in sorted(reasons.items(), key=lambda one: -one[1])]
    doublings = int(math.log2(count / wanted.quarantine_rows))
    return [
        Alert(
            "quarantine",
            f"{wanted.quarantine_rows} x 2^{doublings}",
            f"{count:,} rows in quarantine",
            "\n".join(lines[:NAMED]),
            "/",
        )
    ]


def _late(facts: Facts, wanted: AlertSettings) -> list[Alert]:
    if not facts.late:
        return []
    text = f"The newest period is {facts.late}; the next should be there by {wanted.no_data_by}. Look at the source."
    return [Alert("no_data", facts.late, f"no new data since {facts.late}", text, "/", urgent=True)]


def _accuracy(facts: Facts, wanted: AlertSettings) -> list[Alert]:
    found = facts.realised
    if found is None:
        return []
    off = list[tuple[str, str]]()
    gap = found.cover80 - LEVEL
    if math.isfinite(gap) and abs(gap) > wanted.cover80_within:
        said = f"{found.cover80:.0%} of actuals lie in the 80 % interval"
        off.append((f"coverage {_size(gap, wanted.cover80_within)}", said))
    if math.isfinite(found.bias) and abs(found.bias) > wanted.bias_within:
        said = f"forecasts are {abs(found.bias):.0%} {'above' if found.bias > 0 else 'below'} the actuals"
        off.append((f"bias {_size(found.bias, wanted.bias_within)}", said))
    if not off:
        return []
    text = f"Forecasts made from {found.since} to {found.until}, all series together: " + "; ".join(
        said for _, said in off
    )
    return [Alert("accuracy", "; ".join(mark for mark, _ in off), off[0][1], f"{text}.", "/")]


def _size(gap: float, bound: float) -> str:
    """How far off in whole bounds, with its side: it is told again when it gets worse by another bound."""
    return f"{'+' if gap > 0 else '-'}{int(abs(gap) / bound)}"


def _drift(facts: Facts) -> list[Alert]:
    names = sorted(facts.drifted or ())
    if not names:
        return []
    more = [f"… and {len(names) - NAMED:,} more"] if len(names) > NAMED else []
    text = "\n".join(["Their errors are no longer those of the backtest:", *map(shown, names[:NAMED]), *more])
    return [Alert("drift", digest(names), f"{len(names):,} series drifted", text, "/items?sort=drift")]


def shown(series_id: str) -> str:
    """A series as people call it, on one line."""
    return " ".join(" · ".join(SeriesKey.parse(series_id).parts).split()) or series_id
