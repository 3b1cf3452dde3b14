"""Days of the year on which a series is closed although no calendar says so: found in earlier years.

A shop that is closed on 26 December has two zeros there, a year apart, between days that sold. One reading of a day's
date repeats (25 and 26 December, the Monday after Easter, the last Monday of May), and on all other days with the same
neighbours a zero would be implausible. Each series is judged by its own history, and by nothing later than a day itself
when the day is history, or than `lag` periods before it when it is forecast. So a day is found closed from the third
year on where two earlier ones were; a zero is called a closed day, and not a stock-out, from the second year on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.spec import rhythm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.forecasting.panel import Layout, Panel

AHEAD = 400  # days after a cutoff for which a pack knows closed days
IMPLAUSIBLE = 9.2  # minus the log of a chance of 1e-4
LEAST_SHARE = 0.75  # of the days around that sold: a series that sells less says nothing with a zero
LONGEST = (10, 3, 3, 1, 1)  # days of one closure, by reading: chance repeats a long one that moves too easily
AROUND = 100  # days on either side that tell how often the series sells
LEAST_AROUND = 20  # of them, how many are needed
MOSTLY = 0.75  # of the earlier occurrences that were closed
EASTER = (-63, 70)  # days from Easter Sunday that may move with it
LEAST_APART = 300  # days between two that a reading calls the same
NEAR = 3  # days from a holiday of the calendar that may move with it
NO_LABEL = -1
ROUNDING = 1e-6  # by which sums of weights may differ
MOST_READINGS = 8  # spans of days whose readings are kept in order
MOST_KEPT = 5_000  # histories whose closed days are kept: more than a worker has in a chunk

_KEPT: dict[bytes, NDArray[np.int64]] = {}
"""Digest of a history and of its calendar → the places that `expected` found closed.

A training fits each series several times on the same history, with and without what all series learned.
"""


@dataclass(frozen=True)
class Readings:
    """What each of some days is called: `labels` (readings × days), NO_LABEL where a reading has no name for a day.

    Readings, the first one that fits holds: month and day, days from Easter, days from the nearest holiday of the
    calendar, the nth weekday of a month, the nth from its end.
    """

    days: NDArray[np.int64]
    labels: NDArray[np.int64]

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """The places of days (readings × days); those that a reading calls the same are neighbours, in order."""
        return np.argsort(self.labels, axis=1, kind="stable")

    @classmethod
    def of(cls, days: NDArray[np.int64], holidays: NDArray[np.int64], slots: NDArray[np.int64]) -> Readings:
        """Of `days` since 1970; `holidays` are days, too, sorted, and `slots` the holiday that each of them is."""
        stamps = days.astype("datetime64[D]")
        month_start = stamps.astype("datetime64[M]")
        month = month_start.astype(np.int64) % 12
        day = (stamps - month_start.astype("datetime64[D]")).astype(np.int64)
        length = ((month_start + 1).astype("datetime64[D]") - month_start.astype("datetime64[D]")).astype(np.int64)
        weekday = (days + 3) % 7
        from_start = np.where(day < 28, month * 100 + weekday * 10 + day // 7, NO_LABEL)  # a fifth one is the last
        from_end = month * 100 + weekday * 10 + (length - 1 - day) // 7
        return cls(
            days, np.stack([month * 100 + day, _from_easter(days), _near(days, holidays, slots), from_start, from_end])
        )


def _from_easter(days: NDArray[np.int64]) -> NDArray[np.int64]:
    year = days.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970
    there, at = np.unique(year, return_inverse=True)
    since = days - np.array([_easter(int(one)) for one in there], np.int64)[at]
    inside = (since >= EASTER[0]) & (since <= EASTER[1])
    return np.where(inside, since - EASTER[0], NO_LABEL)


@lru_cache(512)
def _easter(year: int) -> int:
    from dateutil.easter import easter

    return int(np.datetime64(easter(year)).astype(np.int64))


def _near(days: NDArray[np.int64], holidays: NDArray[np.int64], slots: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(holidays):
        return np.full(len(days), NO_LABEL, np.int64)
    after = np.minimum(np.searchsorted(holidays, days), len(holidays) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(np.abs(holidays[before] - days) <= np.abs(holidays[after] - days), before, after)
    since = days - holidays[nearest]
    return np.where(np.abs(since) <= NEAR, slots[nearest] * (2 * NEAR + 1) + since + NEAR, NO_LABEL)


@dataclass(frozen=True)
class _Run:
    """Days without a sale between two that sold: places `first` to `last`, and to `begin` and `end` with the closed
    weekdays beside them. `weight` is minus the log of the chance of that at the share of days that sell around it.
    """

    first: int
    last: int
    begin: int
    end: int
    weight: float

    def agrees(self, at: int, other: _Run, other_at: int) -> bool:
        """Whether both begin and end on the same days, seen from `at` and `other_at`, closed weekdays apart."""
        return self.begins_like(at, other.begin - other_at, other.first - other_at) and _meet(
            self.last - at, self.end - at, other.last - other_at, other.end - other_at
        )

    def begins_like(self, at: int, begin: int, first: int) -> bool:
        return _meet(self.begin - at, self.first - at, begin, first)


def _meet(low: int, high: int, other_low: int, other_high: int) -> bool:
    return low <= other_high and other_low <= high


class _Days:
    """The history of one series day by day: which days are `seen`, `sold`, `zero`, and closed `weekly`."""

    def __init__(self, y: NDArray[np.float64], code: NDArray[np.int8], week: int) -> None:
        self.seen = code != pack.MISSING
        self.sold = self.seen & (y != 0)
        self.zero = self.seen & ~self.sold
        before = [_shifted(self.zero, week * back) for back in range(1, 5)]
        sold = [_shifted(self.sold, week * back) for back in range(1, 5)]
        self.weekly = (np.sum(before, axis=0) >= 3) & ~np.any(sold, axis=0)
        usable = self.seen & ~self.weekly
        self.usable_before = np.concatenate([[0], np.cumsum(usable)])
        self.sold_before = np.concatenate([[0], np.cumsum(self.sold & usable)])

    def runs(self) -> list[_Run]:
        """Runs that can be a closure, in order."""
        idle = self.zero | (self.weekly & ~self.sold)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], idle.astype(np.int8), [0]]))).reshape(-1, 2)
        edges = edges[(edges[:, 0] > 0) & (edges[:, 1] < len(idle))]
        begin, stop = edges[:, 0], edges[:, 1]
        surprise = self.surprise(begin, stop, stop + AROUND)
        own = self.zero & ~self.weekly
        place = np.arange(len(idle))
        first = np.minimum.accumulate(np.where(own, place, len(idle))[::-1])[::-1][begin]
        last = np.maximum.accumulate(np.where(own, place, -1))[stop - 1]
        count = np.concatenate([[0], np.cumsum(own)])
        weight = (count[stop] - count[begin]) * surprise
        chosen = self.sold[begin - 1] & self.sold[stop] & (weight > 0) & (last - first < LONGEST[0])
        kept = (values[chosen].tolist() for values in (first, last, begin, stop - 1, weight))
        return [_Run(*run) for run in zip(*kept, strict=True)]

    def surprise(
        self, begin: NDArray[np.int64], stop: NDArray[np.int64], until: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Minus the log of the chance that a day sells nothing, by the days around those from `begin` to before `stop`;
        0 where they say too little. Nothing from the place `until` on is looked at.
        """
        size = len(self.seen)
        low, until = np.maximum(begin - AROUND, 0), np.minimum(until, size)
        high = np.minimum(stop, until)
        usable, sold = (
            total[begin] - total[low] + total[until] - total[high] for total in (self.usable_before, self.sold_before)
        )
        share = sold / np.maximum(usable, 1)
        chance = (usable - sold + 1.0) / (usable + 2.0)  # Laplace's rule: that none was zero is not proof
        return np.where((usable >= LEAST_AROUND) & (share >= LEAST_SHARE), -np.log(chance), 0.0)

    def so_far(self) -> dict[int, tuple[int, int, float]]:
        """Each zero that can be a closure, by what is known on that day: where its run began, with closed weekdays and
        without, and the run's weight up to it.
        """
        idle = self.zero | (self.weekly & ~self.sold)
        own = np.flatnonzero(self.zero & ~self.weekly)
        open_before = np.maximum.accumulate(np.where(idle, -1, np.arange(len(idle))))
        begin = open_before[own] + 1
        opened = np.searchsorted(begin, begin)  # the place of the run's first zero among all
        first = own[opened]
        weight = (np.arange(len(own)) - opened + 1) * self.surprise(begin, own + 1, own + 1)
        chosen = (begin > 0) & self.sold[begin - 1] & (weight > 0) & (own - first < LONGEST[0])
        kept = (values[chosen].tolist() for values in (own, begin, first, weight))
        return {at: (start, zero, weight) for at, start, zero, weight in zip(*kept, strict=True)}


def _shifted(values: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    out = np.zeros_like(values)
    out[by:] = values[: len(values) - by]
    return out


class _Evidence:
    """Closures of one series by what their days are called."""

    def __init__(self, days: _Days, readings: Readings, known: NDArray[np.int64]) -> None:
        self.days, self.readings, self.labels, self.known = days, readings, readings.labels, known
        self.runs = days.runs()
        self.of_day = {at: run for run in self.runs for at in range(run.first, run.last + 1) if days.zero[at]}

    def may_be(
        self, at: NDArray[np.int64], least: int, more: NDArray[np.float64] | float = 0.0, unknown: int = 0
    ) -> NDArray[np.bool_]:
        """Whether a reading may find the days `at` closed (readings × days): at least `least` of the earlier days that
        it calls the same were closed, and enough of them, and their weights, with those of the days' own runs (`more`),
        are implausible together. Up to `unknown` of the earlier days may be too new to be known.

        A bound: `closed` decides. It is slow, and few days are closed days.
        """
        from many_models.forecasting.zeros import alike_before

        size = self.labels.shape[1]
        closed, sold, weight, own = np.zeros((4, size))
        places = np.array(list(self.of_day), np.int64)
        closed[places], weight[places] = 1.0, [run.weight for run in self.of_day.values()]
        sold[: len(self.days.sold)] = self.days.sold & ~self.days.weekly
        own[at] = more
        found = np.zeros(self.labels.shape, np.bool_)
        alike_before(
            self.labels, self.readings.order, closed, sold, weight, own,
            (float(least), MOSTLY, float(unknown), IMPLAUSIBLE - ROUNDING), found,
        )  # fmt: skip
        return found[:, at]

    def explained_before(self, reading: int, places: list[int], at: int) -> bool:
        """Whether an earlier reading has one name for all `places`, of several, and another one for the day `at`."""
        if len(places) < 2:
            return False
        names = self.labels[:reading, places]
        one = (names[:, :1] == names).all(axis=1) & (names[:, 0] != NO_LABEL)
        return bool((one & (names[:, 0] != self.labels[:reading, at])).any())

    def closed(
        self,
        at: int,
        reading: int,
        places: NDArray[np.int64],
        least: int,
        now: tuple[int, int, float] | None = None,
    ) -> bool:
        """Whether the day at `at` is closed, by the earlier ones among `places`, which a reading calls the same.

        `now` is the run that the day is in so far: where it began, with closed weekdays and without, and its weight.
        """
        runs, open_last = self.earlier(at, places)
        if len(runs) < least or open_last or any(run.last - run.first >= LONGEST[reading] for _, run in runs):
            return False
        newest_at, newest = runs[-1]
        if not all(newest.agrees(newest_at, run, place) for place, run in runs):
            return False
        if self.explained_before(reading, [place for place, _ in runs], at):
            return False
        weight = sum(run.weight for _, run in runs)
        if now is not None:
            begin, first, more = now
            if not newest.begins_like(newest_at, begin - at, first - at):
                return False
            weight += more
        return weight > IMPLAUSIBLE

    def earlier(self, at: int, places: NDArray[np.int64]) -> tuple[list[tuple[int, _Run]], bool]:
        """The closures at `places` that were known when the day `at` was to be judged, and whether these days were open
        too often, or at one of the two newest times.
        """
        until = min(int(self.known[at]) + 1, at)
        runs, sold = list[tuple[int, _Run]](), list[int]()
        for place in places[places < until].tolist():
            if self.days.weekly[place]:
                continue
            run = self.of_day.get(place)
            if self.days.sold[place]:
                sold.append(place)
            elif run is not None and run.end + AROUND < until - 1:
                runs.append((place, run))
        often = len(runs) < MOSTLY * (len(runs) + len(sold))
        return runs, often or bool(runs and sold and sold[-1] > runs[-min(2, len(runs))][0])


def expected(
    y: NDArray[np.float64], code: NDArray[np.int8], readings: Readings, week: int, lag: int
) -> NDArray[np.bool_]:
    """Which of the days of `readings`, the history `y` and `code` and those after it, are closed by what was known
    `lag` days before. A day needs two earlier years.
    """
    found, periods = np.zeros(len(readings.days), np.bool_), len(y)
    known = np.minimum(np.arange(len(found)) - lag, periods - 1)
    evidence = _evidence(y, code, readings, week, known)
    if evidence is None:
        return found
    days = np.arange(len(found))
    for reading, at in np.argwhere(evidence.may_be(days, 2, unknown=1 + lag // LEAST_APART)).tolist():
        labels = readings.labels[reading]
        found[at] = found[at] or evidence.closed(at, reading, np.flatnonzero(labels == labels[at]), 2)
    return found


def recognised(y: NDArray[np.float64], code: NDArray[np.int8], readings: Readings, week: int) -> NDArray[np.bool_]:
    """Which zeros of a history `y`, `code` on the days of `readings` are closed days, each by what was known on it: one
    earlier year, and a closure that began on the same day.
    """
    found = np.zeros(len(y), np.bool_)
    evidence = _evidence(y, code, readings, week, np.arange(len(y)))
    if evidence is None:
        return found
    if not (so_far := evidence.days.so_far()):
        return found
    days, more = np.array(list(so_far), np.int64), np.array([weight for _, _, weight in so_far.values()])
    for reading, i in np.argwhere(evidence.may_be(days, 1, more)).tolist():
        at, labels = int(days[i]), readings.labels[reading]
        places = np.flatnonzero(labels == labels[at])
        found[at] = found[at] or evidence.closed(at, reading, places, 1, so_far[at])
    return found


def _evidence(
    y: NDArray[np.float64], code: NDArray[np.int8], readings: Readings, week: int, known: NDArray[np.int64]
) -> _Evidence | None:
    """The closures of a series, None where there is nothing to look for: most series."""
    if len(y) < AROUND + 300 or not (code != pack.MISSING).any() or not (y[code != pack.MISSING] == 0).any():
        return None
    evidence = _Evidence(_Days(y, code, week), readings, known)
    return evidence if evidence.runs else None


def closed_days(panel: Panel, layout: Layout) -> NDArray[np.int32]:
    """The days (since 1970) after the panel on which each series is expected to be closed, as a pack holds them."""
    found = np.full((len(panel.series), pack.CLOSED_DAYS), pack.EMPTY, np.int32)
    closures = Closures(layout, panel.ds, panel.periods)
    for i, first in enumerate(panel.first.tolist()):
        days = closures.ahead(panel.y[i], panel.code[i], first)
        found[i, : len(days)] = days
    return found


class Closures:
    """Closed days of series with periods of one layout; nothing where a period is not a day."""

    def __init__(self, layout: Layout, ds: NDArray[np.datetime64], periods: int) -> None:
        """`ds` are stamps of the history, `periods` of them, and of what follows."""
        self.periods, self.size = periods, len(ds)
        self._readings: dict[tuple[int, int], Readings] = {}
        self.daily = rhythm(layout.frequency).unit == "D" and layout.frequency in {"D", "B"}
        if not self.daily:
            return
        self.week = 5 if layout.frequency == "B" else 7
        self.lag = layout.horizon
        self.stamps = pack.stamps(
            pack.step_number(ds[:1], layout.frequency)[0] + np.arange(max(periods + AHEAD, len(ds))), layout.frequency
        )
        days, slots, _ = layout.holidays
        self.readings = Readings.of(self.stamps.astype("datetime64[D]").astype(np.int64), days, slots)
        calendar = self.readings.days.tobytes() + self.readings.labels.tobytes()
        self._about = repr((self.week, self.lag)).encode() + blake2b(calendar).digest()

    def announced(
        self, hol: NDArray[np.int64], y: NDArray[np.float64], code: NDArray[np.int8], first: int
    ) -> NDArray[np.int64]:
        """Holiday slots, and CLOSED_DAY on days that this series is expected to be closed on."""
        closed = self._expected(y, code, first)[: self.size]
        return np.where(closed, hol + pack.CLOSED_DAY, hol) if closed.any() else hol

    def ahead(self, y: NDArray[np.float64], code: NDArray[np.int8], first: int) -> NDArray[np.int64]:
        """The days (since 1970) after the history that this series is expected to be closed on, at most CLOSED_DAYS."""
        closed = np.flatnonzero(self._expected(y, code, first)[self.periods :])[: pack.CLOSED_DAYS]
        return self.readings.days[self.periods + closed] if len(closed) else np.zeros(0, np.int64)

    def recognised(self, y: NDArray[np.float64], code: NDArray[np.int8], first: int) -> NDArray[np.bool_]:
        """Which zeros of the history from the place `first` on are closed days."""
        found = np.zeros(len(y), np.bool_)
        if self.daily:
            found[first:] = recognised(y[first:], code[first:], self._from(first, len(y)), self.week)
        return found

    def _expected(self, y: NDArray[np.float64], code: NDArray[np.int8], first: int) -> NDArray[np.bool_]:
        if not self.daily:
            return np.zeros(self.size, np.bool_)
        y, code = y[first : self.periods], code[first : self.periods]
        key = blake2b(self._about, digest_size=16)
        for part in (repr((first, str(y.dtype))).encode(), y.tobytes(), code.tobytes()):
            key.update(part)
        if (places := _KEPT.get(key.digest())) is None:
            if len(_KEPT) >= MOST_KEPT:
                _KEPT.clear()
            found = expected(y, code, self._from(first, len(self.stamps)), self.week, self.lag)
            places = _KEPT[key.digest()] = first + np.flatnonzero(found)
        closed = np.zeros(len(self.stamps), np.bool_)
        closed[places] = True
        return closed

    def _from(self, first: int, stop: int) -> Readings:
        """The readings of some days; most series have the same ones, and their order is found once."""
        if (found := self._readings.get((first, stop))) is None:
            if len(self._readings) >= MOST_READINGS:
                self._readings.clear()
            found = Readings(self.readings.days[first:stop], self.readings.labels[:, first:stop])
            self._readings[first, stop] = found
        return found
