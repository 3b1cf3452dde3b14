"""What the source holds of each period of raw_sales: the versions that are wanted."""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from many_models.data.aggregation import is_coarse
from many_models.data.clock import now, step_days
from many_models.data.periods import (
    COMPLETE_OVER,
    LIKE_PERIODS,
    complete_until,
    end_offset,
    last_complete_day,
    period_key,
    period_start,
    period_starts,
)
from many_models.errors import InputError
from many_models.keys import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from many_models.ports import DayCount, SalesTable, Source
    from many_models.settings import Settings


RECENT_DAYS = (60, 400)  # of the source, in which as_of is looked for: first in few, then in more, at last in all
NOT_COPIED = digest("not copied")  # the version of a period that is wanted whatever the source holds of it


def source_versions(settings: Settings, source: Source, sales: SalesTable, since: datetime | None) -> dict[str, str]:
    """Partition key → fingerprint of what the source holds of that period, up to the last complete one.

    Days are judged by their rows: as_of is the last one that most series have reported for, not after the wall clock
    and not after `data.until`. Periods without rows are there too, so that a closed day makes no gap.
    """
    opening = _opening(settings, since)
    days = source.days(sales, _judged_from(settings, opening))
    return _period_versions(settings, _from(days, opening), _last_complete(settings, days), opening)


def _last_complete(settings: Settings, days: Sequence[DayCount]) -> datetime | None:
    """The last complete day of `days`; where rows of several days become one, the last day of the last complete period
    of the data's frequency, which may be after the last row.
    """
    share, latest = settings.data.complete_share, _latest(settings)
    as_of = last_complete_day(days, share, latest)
    if as_of is None or not _gathers(settings):
        return as_of
    told = [day for day in days if day.day <= latest]
    last = complete_until(told, as_of, settings.data.frequency, share) - timedelta(days=1)
    return min(last, period_start("day", latest))


def _gathers(settings: Settings) -> bool:
    """Whether rows of several days become one."""
    return bool(settings.data.aggregates) and is_coarse(settings.data.frequency)


def _judged_from(settings: Settings, opening: datetime) -> datetime:
    """From when on days are counted to tell which one is the last complete one: it has to be the same one whatever the
    first day that is looked at. Otherwise ten silent days after a copy would be judged by one another.
    """
    if settings.partitions.grain in {"hour", "day"} and not _gathers(settings):
        judged = COMPLETE_OVER * math.ceil(step_days(settings))
    else:
        judged = max(RECENT_DAYS[0], 2 * COMPLETE_OVER * math.ceil(step_days(settings)))
    return max(opening - timedelta(days=judged), datetime.combine(settings.data.start, datetime.min.time()))


def _recent_days(settings: Settings) -> tuple[int, ...]:
    """RECENT_DAYS, with those that LIKE_PERIODS of the data's frequency have."""
    if not _gathers(settings):
        return RECENT_DAYS
    like = (LIKE_PERIODS[1] + 2) * math.ceil(step_days(settings))
    return tuple(max(days, like) for days in RECENT_DAYS)


def _from(days: Sequence[DayCount], opening: datetime) -> list[DayCount]:
    first = datetime.combine(opening, datetime.min.time())
    return [day for day in days if day.day >= first]


def versions_of_copy(
    settings: Settings, source: Source, sales: SalesTable, starts: Sequence[datetime]
) -> Callable[[Sequence[DayCount] | None], Mapping[str, str]]:
    """Call before copying the periods that start at `starts`. Returns a function that takes the day counts of what was
    copied (None if unknown) and returns the periods' source versions.

    This way a source that changes during the copy is copied again. Where many days are copied, only the newest are
    counted in the source.
    """
    opening = _opening(settings, min(starts))
    whole_days = settings.partitions.grain in {"hour", "day"}
    least = max(starts) if whole_days else None  # what is copied is versioned, whether or not its day is complete
    by_rows = settings.partitions.grain != "hour" and not sales.changed  # an hour has its day's version
    if by_rows and max(starts) - opening > timedelta(days=RECENT_DAYS[0]):
        as_of = _as_of_near(settings, source, sales, opening, max(starts))
        if as_of is not None:
            return lambda copied: (
                _counted_versions(settings, source, sales, opening, least)
                if copied is None
                else _period_versions(settings, _from(_once(copied), opening), as_of, opening, least)
            )
    counted = _counted_versions(settings, source, sales, opening, least)
    return lambda _: counted


def copied_until(settings: Settings, source: Source, sales: SalesTable, starts: Sequence[datetime]) -> datetime | None:
    """The moment before which rows are copied; None where periods are copied as they are.

    Rows of several days that become one wait until their period is over, and so do the days of a running week or month
    that are not complete.
    """
    grain = settings.partitions.grain
    if not _gathers(settings) and grain in {"hour", "day"}:
        return None
    first = _judged_from(settings, _opening(settings, min(starts)))
    days = source.days(sales, max(first, max(starts) - timedelta(days=_recent_days(settings)[1])))
    as_of = _last_complete(settings, days)
    return None if as_of is None else as_of + timedelta(days=1)


def _counted_versions(
    settings: Settings, source: Source, sales: SalesTable, opening: datetime, least: datetime | None
) -> dict[str, str]:
    days = source.days(sales, _judged_from(settings, opening))
    return _period_versions(settings, _from(days, opening), _last_complete(settings, days), opening, least)


def _once(days: Sequence[DayCount]) -> list[DayCount]:
    """The days in order, each once: those at the end of a year are read with both years where weeks are whole."""
    return [day for _, day in sorted({day.day: day for day in days}.items())]


def _as_of_near(
    settings: Settings, source: Source, sales: SalesTable, opening: datetime, last: datetime
) -> datetime | None:
    """The last complete day of the source from `opening` on, looked for in the days around `last` before in all."""
    windows = [last - timedelta(days=days) for days in _recent_days(settings)]
    for since in (*(window for window in windows if window > opening), opening):
        days = source.days(sales, since)
        as_of = _last_complete(settings, days)
        if since == opening or (as_of is not None and sum(day.day < as_of for day in days) >= COMPLETE_OVER):
            return as_of
    return None


def _opening(settings: Settings, since: datetime | None) -> datetime:
    opening = datetime.combine(settings.data.start, datetime.min.time())
    return max(since, opening) if since else opening


def _latest(settings: Settings) -> datetime:
    """The latest that a day may be: the wall clock, `data.until`."""
    clock, grain = now(settings), settings.partitions.grain
    if end_offset(grain) == 0:
        clock = period_start(grain, clock) - timedelta(microseconds=1)
    return clock if settings.data.until is None else min(clock, settings.data.until)


def _period_versions(
    settings: Settings,
    days: Sequence[DayCount],
    as_of: datetime | None,
    opening: datetime,
    least: datetime | None = None,
) -> dict[str, str]:
    """The version of each period up to the last complete day `as_of`, or at least up to the one that is at `least`."""
    grain = settings.partitions.grain
    as_of = max((moment for moment in (as_of, least) if moment is not None), default=None)
    if as_of is None:
        return {}
    of_period = defaultdict[datetime, list[str]](list)
    for day in days:
        if day.day <= as_of:
            of_period[period_start("day" if grain == "hour" else grain, day.day)].append(day.fingerprint)
    last = as_of
    if grain == "hour":  # later hours of a running day have no partition yet
        last = max(as_of, min(period_start("day", as_of) + timedelta(hours=23), _latest(settings)))
    result = dict[str, str]()
    for start in period_starts(grain, opening, last):
        held = of_period.get(period_start("day", start) if grain == "hour" else start, [])
        result[period_key(grain, start)] = digest(*held)
    return result


def looked_at_from(settings: Settings, newest: datetime) -> datetime:
    """The start of the oldest period that is looked at again when `newest` is the newest one that was copied.

    It is a period's start: a part of a period would look like a change of it.
    """
    grain = settings.partitions.grain
    days = {"hour": 1, "day": 1, "week": 7, "month": 31}[grain]
    return period_start(grain, newest - timedelta(days=settings.data.look_back * days))


def first_period(settings: Settings) -> str:
    """The key of the period that `data.start` is in."""
    grain = settings.partitions.grain
    return period_key(grain, period_start(grain, _opening(settings, None)))


def first_periods(settings: Settings, source: Source, sales: SalesTable) -> dict[str, str]:
    """Every period from the source's first row to its last complete one, which all are to be copied: what they hold is
    counted when they are, since a look at every row takes as long as copying it.
    """
    opening = _opening(settings, None)
    span = source.span(sales, opening, _latest(settings))
    as_of = None if span is None else _as_of_near(settings, source, sales, span[0], span[1])
    if span is None or as_of is None:
        start, table = settings.data.start, settings.source.table
        raise InputError(f"table {table!r} has no row dated from {start} (data.start) until now: nothing to forecast")
    return dict.fromkeys(_period_versions(settings, (), as_of, span[0]), NOT_COPIED)
