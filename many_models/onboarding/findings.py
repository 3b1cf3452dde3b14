"""What the user of a table should know before anything is forecast: rows that cannot be used, gaps, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from many_models.onboarding.column_roles import HOURS, TARGETS, centred
from many_models.onboarding.frequency import unit_of
from many_models.onboarding.profile import codes_of, name_suggests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.onboarding.profile import TableProfile


def warnings_of(
    profile: TableProfile, target: str, frequency: str, kind: str, aggregate: str, missing: str
) -> list[str]:
    """Sentences for the user; `aggregate` and `missing` are the settings of these names."""
    column, time = profile.columns[target], profile.time
    dated = np.flatnonzero(~np.isnat(profile.ds))
    repeats = 0 if aggregate else round((1 - profile.unique_share(profile.keys, dated)) * len(dated))
    quarantined = {
        "rows without a date that is understood": time.unread + time.missing,
        "rows dated later than now": profile.late,
        f"values of {target} that are not numbers": column.unread,
        f"missing values of {target}": column.missing,
        "rows that repeat a series and date": repeats,
    }
    found = [f"{what}: {count:,}, to be quarantined" for what, count in quarantined.items() if count]
    if repeats:
        found[-1] += " (the first of them is used)"
    hours = [name for name in profile.columns if name_suggests(name, HOURS) and not profile.is_calendar(name)]
    if hours and not (profile.ds.astype("datetime64[h]") != profile.ds.astype("datetime64[D]"))[dated].any():
        found.append(f"{time.name} has no time of day: put it and {hours[0]} into one column for hourly forecasts")
    numbers = [name for name, other in profile.columns.items() if other.kind == "number"]
    if profile.series_count == 1 and len(numbers) > 1 and not name_suggests(target, TARGETS):
        found.append(
            f"if {', '.join(numbers[:3])} … are series, write them below one another: a row per series and date"
        )
    if time.type.or_else:
        found.append(f"the dates also read as {time.type.or_else}; check the first and last day")
    if kind == "sql" and time.type.style not in {"native", "iso", "%Y%m%d"}:
        found.append(f"the source reads dates like 2026-01-31 only: make a view that writes {time.name} so")
    found += _gaps(profile, frequency, missing)
    if is_noise(profile, target):
        found.append(f"{target} looks like noise around a mean: no model can beat the mean")
    return found


def _gaps(profile: TableProfile, frequency: str, missing: str) -> list[str]:
    per_unit = {"h": 1 / 24, "D": 1.0, "W": 7.0, "M": 30.44, "Q": 91.3, "Y": 365.25}[unit_of(frequency)]
    rows = profile.some_series
    codes = codes_of(profile.series[rows])
    times = profile.ds[rows].astype("datetime64[s]").astype(np.int64) / 86400
    first = np.full(int(codes.max()) + 1, np.inf)
    last = np.full(len(first), -np.inf)
    np.minimum.at(first, codes, times)
    np.maximum.at(last, codes, times)
    expected = np.round((last - first) / per_unit) + 1
    absent = 1 - np.bincount(codes).sum() / expected.sum()
    found: list[str] = []
    if absent > 0.02:
        found.append(
            f"{absent:.0%} of the periods between a series' first and last row have no row: read as {missing!r} "
            "(data.missing)"
        )
    ended = float((last < np.nanmax(last) - 26 * per_unit).mean())
    if ended > 0.05:
        found.append(
            f"{ended:.0%} of the series end more than 26 periods before the last date: the longest gone get no forecast"
        )
    return found


def is_noise(profile: TableProfile, target: str) -> bool:
    """No lag up to 14 and no weekday or month says anything of the deviation from the series' mean."""
    rows, same = profile.some_series, profile.neighbours
    y = np.nan_to_num(profile.columns[target].values[rows])
    series = profile.series[rows]
    deviation = centred(y[:, None], series)[:, 0]
    spread = np.sqrt(_centred_mean(deviation**2, series))
    z = np.where(spread > 0, deviation / np.maximum(spread, 1e-12), 0.0)
    if len(z) < 500 or not same.any() or float((z**2).mean()) < 0.5:
        return False
    limit = 0.015 + 3.5 / np.sqrt(len(z))
    for lag in range(1, 15):
        pairs = series[lag:] == series[:-lag]
        if pairs.sum() > 200 and abs(float((z[lag:] * z[:-lag])[pairs].mean())) > limit:
            return False
    day = profile.day[rows]
    month = profile.ds[rows].astype("datetime64[M]").astype(np.int64) % 12
    for part in (day % 7, month):
        means = np.bincount(part, z, 12) / np.maximum(np.bincount(part, minlength=12), 1)
        if float((means[part] ** 2).mean()) > 0.005 + 12 * 3 / len(z):
            return False
    return True


def _centred_mean(values: NDArray[np.float64], series: NDArray[np.int64]) -> NDArray[np.float64]:
    codes = codes_of(series)
    return (np.bincount(codes, values) / np.bincount(codes))[codes]
