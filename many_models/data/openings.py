"""The list of openings: from which day to which day series are open, by any part of their key."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime, time
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from many_models.data.aggregation import labels
from many_models.data.lake_tables import RAW_OPENINGS, read_if_there
from many_models.errors import InputError
from many_models.forecasting.openings import BEGINNING, END, Spans
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.keys import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from many_models.ports import Lake

OPENS, CLOSES = "opens", "closes"  # the first and the last day that a series is open
_SHOWN = 3  # examples in a sentence
Named = tuple[str | None, ...]  # a value for each key, None for any


def from_source(raw: pa.Table, keys: Sequence[str], told: list[str] | None = None) -> pa.Table:
    """The list under inner names: all of `keys` (string, null for any), `opens` and `closes` (date, null for no limit).

    Rows that cannot be used are left out with all others about the same keys, which are then open throughout: a day
    that is none, a closing before the opening, spans that overlap. `told` gets a sentence for each. Raises InputError
    for a table without any key, or without `opens` and `closes`.
    """
    import pyarrow as pa

    there = [name for name in keys if name in raw.column_names]
    if not there:
        raise InputError(f"the table of openings has none of the keys {', '.join(keys)}: add one")
    if not {OPENS, CLOSES} & set(raw.column_names):
        raise InputError(
            f"the table of openings has neither {OPENS} nor {CLOSES}, it has {', '.join(raw.column_names)}: name the "
            f"first open day {OPENS}, and the last one {CLOSES}"
        )
    named = [raw[name].cast(pa.string()).to_pylist() if name in there else [None] * raw.num_rows for name in keys]
    limits = [raw[name].to_pylist() if name in raw.column_names else [None] * raw.num_rows for name in (OPENS, CLOSES)]
    spans, bad = dict[Named, list[tuple[date | None, date | None]]](), dict[Named, str]()
    for *parts, opens, closes in zip(*named, *limits, strict=True):
        about = tuple(part or None for part in parts)
        try:
            spans.setdefault(about, []).append((_day(opens), _day(closes)))
        except ValueError:
            bad.setdefault(about, f"{opens!r} to {closes!r} are not days, write them as 2024-12-31")
    for about, own in spans.items():
        if problem := _problem(own):
            bad.setdefault(about, problem)
    if told is not None and bad:
        told += _of_bad(bad)
    rows = [(*about, *span) for about, own in spans.items() if about not in bad for span in sorted(own, key=_first)]
    fields = [*((name, pa.string()) for name in keys), (OPENS, pa.date32()), (CLOSES, pa.date32())]
    columns = list(zip(*rows, strict=True)) or [()] * len(fields)
    return pa.table(
        [pa.array(column, kind) for column, (_, kind) in zip(columns, fields, strict=True)], pa.schema(fields)
    )


def _day(value: object) -> date | None:
    """The day that a cell names, None for an empty one. Raises ValueError."""
    if value is None or str(value).strip() in {"", "nan"}:
        return None
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    return datetime.fromisoformat(str(value).strip()).date()


def _first(span: tuple[date | None, date | None]) -> date:
    return span[0] or date.min


def _problem(spans: Sequence[tuple[date | None, date | None]]) -> str:
    """What makes the spans of some keys unusable, or nothing."""
    for opens, closes in spans:
        if opens and closes and closes < opens:
            return f"it closes on {closes}, before it opens on {opens}"
    ordered = sorted(spans, key=_first)
    for (_, closes), (opens, _) in pairwise(ordered):
        if closes is None or opens is None or opens <= closes:
            return f"it is open until {closes or 'ever'}, and opens within that time, on {opens or 'no day'}"
    return ""


def _of_bad(bad: Mapping[Named, str]) -> list[str]:
    said = [f"{_words(about)}: {why}" for about, why in bad.items()]
    more = f"; and {len(said) - _SHOWN:,} more" if len(said) > _SHOWN else ""
    return [
        f"the list of openings cannot be used for {len(said):,} of its names, which are open throughout: "
        + "; ".join(said[:_SHOWN])
        + f"{more}. Correct these rows"
    ]


def _words(about: Named) -> str:
    return " / ".join(part for part in about if part is not None) or "all series"


@dataclass(frozen=True)
class Openings:
    """Open spans, as step numbers of a frequency, by what the list names."""

    spans: Mapping[Named, Spans] = field(default_factory=dict[Named, Spans])

    @classmethod
    def of(cls, rows: pa.Table | None, keys: Sequence[str], frequency: str) -> Openings:
        """Of `rows` as `from_source` makes them. A period that is open in part is open."""
        found = dict[Named, list[tuple[int, int]]]()
        for row in [] if rows is None else rows.to_pylist():
            opens, closes = row[OPENS], row[CLOSES]
            first = BEGINNING if opens is None else _number(datetime.combine(opens, time.min), frequency)
            last = END if closes is None else _number(datetime.combine(closes, time.max), frequency)
            found.setdefault(tuple(row[name] for name in keys), []).append((first, last))
        return cls({about: _joined(own) for about, own in found.items()})

    def of_series(self, series: Iterable[str]) -> dict[str, Spans]:
        """The open spans of those of `series` that the list is about: open is what all rows about a series leave open,
        those of its store, of its item and its own.
        """
        shapes = {tuple(part is not None for part in about) for about in self.spans}
        found = dict[str, Spans]()
        for name in series if shapes else ():
            parts = SeriesKey.parse(name).parts
            for shape in sorted(shapes):
                about = tuple(part if own else None for part, own in zip(parts, shape, strict=False))
                if (own := self.spans.get(about)) is not None:
                    found[name] = _both(found[name], own) if name in found else own
        return found


def read(lake: Lake, keys: Sequence[str], frequency: str) -> Openings:
    """The openings that the lake holds; none where there is no list."""
    return Openings.of(read_if_there(lake, RAW_OPENINGS), keys, frequency)


def _number(moment: datetime, frequency: str) -> int:
    stamp = labels(np.array([moment], "datetime64[us]"), frequency)
    return int(pack.step_number(stamp, frequency)[0])


def _joined(spans: list[tuple[int, int]]) -> Spans:
    """`spans` in order, those that meet as one: of two days apart, in one week."""
    result = list[tuple[int, int]]()
    for first, last in sorted(spans):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(last, result[-1][1])
        else:
            result.append((first, last))
    return tuple(result)


def _both(some: Spans, others: Spans) -> Spans:
    """The periods that are in both; one that is in none where they share nothing."""
    shared = [(max(a, c), min(b, d)) for a, b in some for c, d in others if max(a, c) <= min(b, d)]
    return tuple(sorted(shared)) or ((BEGINNING, BEGINNING),)


def sold_while_closed(openings: Openings, sales: Mapping[str, tuple[datetime, datetime]], frequency: str) -> list[str]:
    """Series whose first or last row, as `sales` has them, is of a time in which the list says that they are closed."""
    found = list[str]()
    for name, spans in openings.of_series(sales).items():
        first, last = pack.step_number(np.array(sales[name], "datetime64[us]"), frequency).tolist()
        if first < spans[0][0] or last > spans[-1][1]:
            at = sales[name][0] if first < spans[0][0] else sales[name][1]
            found.append(f"{name} on {at:%Y-%m-%d}")
    if not found:
        return []
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return [
        "there are rows of times in which the list of openings says closed: "
        + ", ".join(sorted(found)[:_SHOWN])
        + f"{more}. They are not used; where they are demand, correct the list"
    ]
