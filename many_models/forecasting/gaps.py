"""Periods without a row, and values beyond all that a series ever had: what they mean for learning."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from many_models.forecasting.openings import closed_between
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.spec import rhythm
from many_models.keys import SEPARATOR, unescape_part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.forecasting.openings import Spans
    from many_models.forecasting.spec import Spec

UNKNOWN, ZERO, CLOSED = 0, 1, 2
_CODES = {"unknown": UNKNOWN, "zero": ZERO, "closed": CLOSED}
_IMPLAUSIBLE = 9.2  # mean gaps: a Poisson process is silent for longer with a chance of e^-9.2, one in 10,000

LEARNED = 28  # observations before a value can be called an outlier
SOLD = 10  # of these, how many must not be zero
BEYOND_LARGEST = 10.0  # times the largest value before it
BEYOND_USUAL = 30.0  # times the mean of the nonzero values before it
USUAL_AFTER = 3  # values beyond the limit that make such values usual: a new level, or lumpy sales


def meaning_of(series_id: str, spec: Spec) -> str:
    """What a period without a row means for a series, weekdays apart: as `spec.missing_at` says of its first key."""
    at = dict(spec.missing_at)
    return at.get(unescape_part(series_id.split(SEPARATOR, maxsplit=1)[0]), spec.missing) if at else spec.missing


def meanings(ds: NDArray[np.datetime64], spec: Spec, series: Sequence[str], sizes: Sequence[int]) -> NDArray[np.int8]:
    """What a period without a row means at each of `ds`: UNKNOWN, ZERO or CLOSED. The first sizes[0] periods are of
    series[0], and so on.

    A weekday that is always closed becomes a ZERO: the loop that judges states sees by itself that such days never
    sell, and a series that sells rarely learns the weekday as one without sales.
    """
    result = np.repeat(np.array([_CODES[meaning_of(name, spec)] for name in series], np.int8), sizes)
    if spec.missing_on:
        weekday = (ds.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
        for day, meaning in spec.missing_on:
            result[weekday == day] = ZERO if meaning == "closed" else _CODES[meaning]
    return result


def weekday_letters(series_id: str, spec: Spec) -> str:
    """What a period without a row means for a series from Monday to Sunday, as packs hold it (see `loader.GAPS`)."""
    words = [meaning_of(series_id, spec)] * 7
    for day, meaning in spec.missing_on:
        words[day] = meaning
    return "".join(word[0] for word in words)


def silence_limit(
    spec: Spec, series: Sequence[str], rows: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Periods without an observation after which each of `series` has ended.

    Where a missing row is a zero, a series that sells rarely may be silent for longer than the frequency's limit:
    `rows` sales between the step numbers `first` and `last` tell how long is still plausible.
    """
    limit = np.full(len(rows), spec.ended_after or rhythm(spec.frequency).ended, np.int64)
    zero = np.array([meaning_of(name, spec) == "zero" for name in series], np.bool_)
    if not zero.any() or spec.ended_after is not None:
        return limit
    gap = (last - first + 1) / np.maximum(rows, 1)
    return np.where(zero & (rows > 1), np.maximum(limit, np.ceil(_IMPLAUSIBLE * gap).astype(np.int64)), limit)


def alive(  # noqa: PLR0913, PLR0917  (what is known of each, one array a thing)
    spec: Spec,
    series: Sequence[str],
    rows: NDArray[np.int64],
    first: NDArray[np.datetime64],
    last: NDArray[np.datetime64],
    end: np.datetime64,
    openings: Mapping[str, Spans] | None = None,
) -> NDArray[np.bool_]:
    """Whether each of `series`, with `rows` from `first` to `last`, has not ended at `end`, which is not before `last`.
    `openings` has open spans of series: closed periods are not silence, and after the last span a series has ended.
    """
    numbers = [pack.step_number(np.asarray(stamps, "datetime64[us]"), spec.frequency) for stamps in (first, last)]
    now = int(pack.step_number(np.array([end], "datetime64[us]"), spec.frequency)[0])
    silence, over = now - numbers[1], np.zeros(len(rows), np.bool_)
    places = {name: at for at, name in enumerate(series)} if openings else {}
    for name, spans in (openings or {}).items():
        at = places[name]
        silence[at] -= closed_between(spans, int(numbers[1][at]), now)
        over[at] = now > spans[-1][1]
    return (silence < silence_limit(spec, series, rows, *numbers)) & ~over


def outliers(y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values of one series' history (NaN where missing) are beyond everything before them by an absurd factor.

    A value is judged by earlier ones alone, outliers left out: it is one when its size is more than BEYOND_LARGEST
    times their largest and BEYOND_USUAL times the mean of those that are not zero. After USUAL_AFTER of them such
    values are usual.
    """
    found = np.zeros(len(y), np.bool_)
    size = np.abs(np.nan_to_num(y))
    seen = np.isfinite(y)
    if seen.sum() <= LEARNED:
        return found
    began = int(np.flatnonzero(np.cumsum(seen) > LEARNED)[0])
    times = 0
    while times < USUAL_AFTER:
        before = np.maximum.accumulate(np.where(found, 0.0, size))
        jumps = np.flatnonzero((size[began:] > BEYOND_LARGEST * before[began - 1 : -1]) & ~found[began:]) + began
        at = next((int(t) for t in jumps if _is_beyond(size, seen & ~found, int(t))), None)
        if at is None:
            break
        found[at] = True
        began, times = at + 1, times + 1
        if began >= len(y):
            break
    return found


def _is_beyond(size: NDArray[np.float64], usable: NDArray[np.bool_], at: int) -> bool:
    earlier = size[:at][usable[:at]]
    sold = earlier[earlier > 0]
    return len(sold) >= SOLD and bool(size[at] > BEYOND_USUAL * math.fsum(sold) / len(sold))
