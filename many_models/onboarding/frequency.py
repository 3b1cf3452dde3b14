"""How often rows come, how far to forecast, and what negative targets mean, each with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from many_models.errors import InputError
from many_models.onboarding.column_roles import Inferred
from many_models.onboarding.profile import codes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from many_models.onboarding.profile import TableProfile

USUAL_HORIZON = {"h": 48, "D": 28, "W": 8, "M": 6, "Q": 4, "Y": 2}


def unit_of(frequency: str) -> str:
    """The letter of a pandas frequency: h, D, W, M, Q or Y."""
    head_ = frequency.split("-", maxsplit=1)[0]
    return {"MS": "M", "ME": "M", "QS": "Q", "QE": "Q", "YS": "Y", "YE": "Y", "H": "h", "B": "D"}.get(head_, head_)


def choose_frequency(profile: TableProfile, given: str) -> Inferred[str]:
    """How far rows of one series are apart, as a pandas frequency. Raises InputError when it cannot be told."""
    if given:
        if unit_of(given) not in USUAL_HORIZON:
            raise InputError(f"--frequency {given}: use h, D, W-MON … W-SUN, MS, QS or YS")
        return Inferred(given, "given")
    rows = profile.some_series
    ds = profile.ds[rows]
    steps = np.diff(ds)[profile.neighbours].astype("timedelta64[m]").astype(np.int64)
    steps = steps[steps > 0]
    if not len(steps):
        raise InputError("no series has two dates, so their distance is unknown; give --frequency, for example D")
    counts = np.bincount(np.minimum(steps, 60 * 24 * 400))
    common = int(counts.argmax())
    regular = counts[common] / counts.sum() >= 0.5
    if common < 60 * 24 and (ds.astype("datetime64[h]") != ds.astype("datetime64[D]")).any():
        return _frequency_within_days(common, regular=regular, per_day=_rows_per_day(profile))
    return _frequency_of_days(ds.astype("datetime64[D]"), round(common / 60 / 24))


def _rows_per_day(profile: TableProfile) -> float:
    rows = profile.some_series
    days = codes_of(codes_of(profile.series[rows]) * 1_000_000 + profile.day[rows])
    return len(rows) / (int(days.max()) + 1)


def _frequency_within_days(minutes: int, *, regular: bool, per_day: float) -> Inferred[str]:
    """Hours where rows are an hour or less apart all day; else days, to which the rows of a day are summed up."""
    if regular and minutes == 60:
        return Inferred("h", "rows of a series are mostly 1 h apart", "sure", ("--frequency D",))
    if regular and minutes < 60 and per_day > 24:
        return Inferred("h", f"rows are {minutes} minutes apart: they become hours", "likely", ("--frequency D",))
    told = f"{per_day:.1f} rows a series and day, at different times: they become days"
    return Inferred("D", told, "likely", ("--frequency h", "--frequency W-MON"))


def _frequency_of_days(days: NDArray[np.datetime64], common: int) -> Inferred[str]:
    month = days.astype("datetime64[M]")
    first = float((days == month.astype("datetime64[D]")).mean())
    last = float(((days + 1) == (month + 1).astype("datetime64[D]")).mean())
    if common >= 28 and (first > 0.95 or last > 0.95 or common in range(28, 32)):
        side = "S" if last <= first else "E"
        unit, word = ("M", "month") if common < 60 else ("Q", "quarter") if common < 200 else ("Y", "year")
        if max(first, last) > 0.95:
            where = "first" if side == "S" else "last"
            return Inferred(unit + side, f"one row a {word}, on the {where} of the month", "sure")
        return Inferred(unit + "S", f"rows are about a {word} apart, on changing days of the month", "unsure")
    weekdays = np.bincount((days.astype(np.int64) + 3) % 7, minlength=7)
    names = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
    if weekdays.max() > 0.9 * weekdays.sum() and common >= 7:
        frequency = f"W-{names[int(weekdays.argmax())]}"
        if common == 7:
            return Inferred(frequency, f"one row a week, on {names[int(weekdays.argmax())].title()}s", "sure")
        return Inferred(frequency, f"always the same weekday, mostly {common} days apart", "unsure", ("--frequency D",))
    if common == 1:
        if not weekdays[5:].any():
            return Inferred("D", "one row a day, none at weekends", "likely", ("--frequency B",))
        return Inferred("D", "one row a day", "sure")
    return Inferred("D", f"rows of a series are mostly {common} days apart, on different weekdays", "unsure")


def choose_horizon(profile: TableProfile, unit: str) -> Inferred[int]:
    """The usual number of periods ahead, less where there is little history."""
    usual = USUAL_HORIZON[unit]
    longest = max(1, profile.dates // 8)
    if longest < usual:
        return Inferred(longest, f"an eighth of the {profile.dates} periods there are", "likely")
    return Inferred(usual, "usual at this frequency", "likely")


def choose_negatives(profile: TableProfile, target: str) -> Inferred[Literal["allow", "quarantine"]]:
    """Whether values below zero are meant."""
    values = profile.columns[target].values
    share = float((values < 0).mean())
    if share > 0.001:
        return Inferred("allow", f"{share:.1%} of the values are below zero", "likely")
    return Inferred("quarantine", "sales below zero are mistakes" if share else "no value is below zero")
