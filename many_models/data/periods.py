"""Time partitions of raw data: their keys, their windows, and the last complete period of a source."""

from __future__ import annotations

from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Literal

from many_models.data.aggregation import period_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from many_models.ports import DayCount

Grain = Literal["hour", "day", "week", "month"]
KEY_FORMATS: dict[Grain, str] = {"hour": "%Y-%m-%d-%H:%M", "day": "%Y-%m-%d", "week": "%Y-%m-%d", "month": "%Y-%m-%d"}
COMPLETE_OVER = 28  # as_of is judged against the median of this many days before
SAME_WEEKDAYS = 8  # a day without rows is usual where this many of its weekday before it have none
LIKE_PERIODS = (3, 12)  # at least and at most this many periods before tell on how many days of one there are rows


def period_start(grain: Grain, moment: datetime) -> datetime:
    """The start of the period that `moment` is in; weeks start on Monday."""
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if grain == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    if grain == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if grain == "month" else day


def next_period(grain: Grain, start: datetime) -> datetime:
    """The start of the period after the one that starts at `start`."""
    step = {
        "hour": timedelta(hours=1),
        "day": timedelta(days=1),
        "week": timedelta(days=7),
        "month": timedelta(days=32),
    }
    return period_start(grain, start + step[grain])


def period_key(grain: Grain, start: datetime) -> str:
    """The partition key of the period that starts at `start`."""
    return start.strftime(KEY_FORMATS[grain])


def period_of_key(grain: Grain, key: str) -> datetime:
    """The start of the period that a partition key names."""
    return datetime.strptime(key, KEY_FORMATS[grain])


def period_starts(grain: Grain, first: datetime, last: datetime) -> list[datetime]:
    """The starts of all periods from the one `first` is in to the one `last` is in."""
    starts, start = list[datetime](), period_start(grain, first)
    while start <= last:
        starts.append(start)
        start = next_period(grain, start)
    return starts


def spans(grain: Grain, starts: Iterable[datetime]) -> list[tuple[datetime, datetime]]:
    """Periods as [since, before) spans: contiguous ones together, but never across a year."""
    result = list[tuple[datetime, datetime]]()
    for start in sorted(starts):
        end = next_period(grain, start)
        if result and result[-1][1] == start and result[-1][0].year == start.year:
            result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


def end_offset(grain: Grain) -> int:
    """How many running periods are partitions: none where a period is at most a day, else the running one, so that
    days are not held back until their week or month is over.
    """
    return 0 if grain in {"hour", "day"} else 1


def last_complete_day(days: Sequence[DayCount], share: float, latest: datetime) -> datetime | None:
    """The last day up to `latest` that most series have reported for, or None when there is none.

    A day counts as complete with at least `share` of the median number of rows of the COMPLETE_OVER days with rows
    before it (the first one has none before it, and counts). Days without a target, as those of a plan, are left out.
    """
    counts = [day for day in days if day.rows and day.day <= latest]
    for index in range(len(counts) - 1, -1, -1):
        before = [day.rows for day in counts[max(0, index - COMPLETE_OVER) : index]]
        if not before or counts[index].rows >= share * median(before):
            return counts[index].day
    return None


def complete_until(days: Sequence[DayCount], as_of: datetime, frequency: str, share: float) -> datetime:
    """The end of the last period of `frequency`, which is coarser than a day, that has all its rows by `as_of`.

    `as_of` is the last complete day of `days`. The period that it is in is over when no more is to come: each of its
    later days has as many rows (`share` of them) as its weekday usually has, which may be none, or all periods before
    have rows on the same number of days, as data have that were summed before, and this one has them, too.
    """
    first, after = period_of(as_of, frequency)
    rows = {day.day: day.rows for day in days if day.rows}
    opening = min(rows, default=as_of)
    later = (as_of + timedelta(days=at) for at in range(1, (after - as_of).days))
    if all(_as_usual(rows, day, opening, share) for day in later):
        return after
    numbers, start = list[int](), first
    while len(numbers) < LIKE_PERIODS[1]:
        before = period_of(start - timedelta(days=1), frequency)[0]
        if before < opening and numbers:  # the first one may be a part
            break
        numbers.append(sum(before <= day < start for day in rows))
        start = before
    alike = len(numbers) >= LIKE_PERIODS[0] and set(numbers) == {sum(first <= day < after for day in rows)}
    return after if alike else first


def _as_usual(rows: Mapping[datetime, int], day: datetime, opening: datetime, share: float) -> bool:
    """Whether `day` has as many `rows` as its weekday had in the SAME_WEEKDAYS weeks before."""
    earlier = [day - timedelta(weeks=weeks) for weeks in range(1, SAME_WEEKDAYS + 1)]
    if earlier[-1] < opening:
        return False
    usual = [rows.get(moment, 0) for moment in earlier]
    return not any(usual) or rows.get(day, 0) >= max(1, share * median(usual))
