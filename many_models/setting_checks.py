"""Checks of single settings, and what an error about them says: the nearest name that there is, and what to write."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_WORDS = {
    "hourly": "h", "hour": "h", "daily": "D", "day": "D", "days": "D", "weekly": "W-MON", "week": "W-MON",
    "monthly": "MS", "month": "MS", "quarterly": "QS", "quarter": "QS", "yearly": "YS", "annual": "YS", "year": "YS",
}  # fmt: skip
_DAYS = "MON|TUE|WED|THU|FRI|SAT|SUN"
_MONTHS = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_FREQUENCY = re.compile(rf"\d*(h|H|min|D|B|W(-({_DAYS}))?|M|MS|ME|(Q|QS|QE|Y|YS|YE|A|AS)(-({_MONTHS}))?)")
_CRON = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


def nearest(name: str, names: Iterable[str], most: int = 1) -> str:
    """` (did you mean …?)` for the `names` that look like `name`, or nothing."""
    folded = {other.casefold(): other for other in names}
    near = [folded[one] for one in difflib.get_close_matches(name.casefold(), folded, n=most, cutoff=0.6)]
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def known_timezone(name: str) -> str:
    """`name`, which is empty or an IANA time zone. Raises ValueError with the nearest names for any other text."""
    from zoneinfo import available_timezones

    if not name or name in available_timezones():
        return name
    hint = nearest(name, available_timezones(), 2)
    raise ValueError(f"there is no time zone {name!r}{hint}: use an IANA name such as Europe/Berlin or UTC")


def known_frequency(name: str) -> str:
    """`name`, which looks like a pandas offset alias. Raises ValueError that says what to write for any other text."""
    if _FREQUENCY.fullmatch(name):
        return name
    meant = _WORDS.get(name.casefold().strip())
    hint = f" (did you mean {meant}?)" if meant else ""
    raise ValueError(f"there is no frequency {name!r}{hint}: use h, D, B, W-MON (weeks from Monday on), MS, QS or YS")


def known_cron(text: str) -> str:
    """`text`, which is a cron expression of five fields. Raises ValueError that names the field that is wrong."""
    fields = text.split()
    example = 'write five fields, as "0 6 * * *" for 6 o\'clock every day'
    if len(fields) != len(_CRON):
        raise ValueError(f"{text!r} is not a cron expression: it has {len(fields)} fields; {example}")
    for field, (what, low, high) in zip(fields, _CRON, strict=True):
        bounds, _, _ = field.replace("*", str(low)).partition("/")
        numbers = [int(number) for number in re.findall(r"\d+", bounds)]
        if not re.fullmatch(r"[\dA-Za-z*/,#?-]+", field) or any(not low <= number <= high for number in numbers):
            raise ValueError(f"{text!r} is not a cron expression: its {what} is {field!r}; {example}")
    return text


def known_country(code: str) -> str:
    """`code`, which is empty or an ISO code of a country with a holiday calendar. Raises ValueError for any other."""
    if not code:
        return code
    import holidays

    there = holidays.list_supported_countries()
    if code in there:
        return code
    hint = f" (did you mean {code.upper()}?)" if code.upper() in there else ""
    raise ValueError(
        f"there is no holiday calendar for {code!r}{hint}: use an ISO code such as DE or US, or leave it out"
    )


def explained(errors: Sequence[Mapping[str, Any]], sections: Mapping[str, Iterable[str]]) -> list[str]:
    """One sentence for each setting that is wrong, from pydantic's `errors` and the settings' names by section."""
    told = dict[str, str]()
    for error in errors:
        place = [str(part) for part in error["loc"]]
        name = ".".join(place[:2]) or "settings"
        if error["type"] == "extra_forbidden":
            told.setdefault(name, f"{'.'.join(place)}: there is no such setting{_elsewhere(place, sections)}")
        elif name == "data.aggregate":
            told.setdefault(
                name,
                f"{name} is {error['input']!r}: use sum, mean, min, max, first, last, count or "
                'count_distinct for the target, or by column, as {quantity = "sum"}',
            )
        else:
            said = str(error["msg"]).removeprefix("Value error, ")
            given = "" if said.count(repr(error["input"])) or not place else f", it is {error['input']!r}"
            key = ".".join(place) or "settings"
            told.setdefault(key, f"{key}: {said}{given if isinstance(error['input'], str | int | float) else ''}")
    return list(told.values())


def _elsewhere(place: Sequence[str], sections: Mapping[str, Iterable[str]]) -> str:
    if len(place) == 1:
        return nearest(place[0], sections) or f"; sections are {', '.join(sections)}"
    section, name = place[0], place[1]
    if hint := nearest(name, sections.get(section, ())):
        return hint
    if others := [other for other, names in sections.items() if name in names]:
        return f" (it is in [{others[0]}])"
    return f"; [{section}] has {', '.join(sections.get(section, ()))}"
