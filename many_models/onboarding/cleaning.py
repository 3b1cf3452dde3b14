"""Rows and names of a table that are not what they seem: totals among the rows, one name written in two ways."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.data.findings import of_names
from many_models.keys import folded
from many_models.onboarding.profile import codes_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.onboarding.profile import TableProfile
    from many_models.onboarding.value_types import Column

_TOTAL = (
    r"(?i)^\W*((grand|sub|overall)[ -]?)?(totals?|sum|summe|gesamt|gesamtsumme|zwischensumme|totale|suma|totaal|celkem)"
    r"\W*$"
)
_SCENARIOS = 6
_ACTUAL = frozenset("actual actuals observed observation history historical ist real réel réalisé sales sold".split())
_PLANNED = frozenset(
    "forecast forecasted predicted prediction budget plan planned prognose soll presupuesto prévision previsto".split()
)
_TOTAL_OF = r"(?i)^\W*((grand|sub)[ -]?total|totals?|gesamtsumme|zwischensumme|summe)\b[: ].*$"


def totals_in(table: pa.Table) -> dict[str, tuple[str, ...]]:
    """By column the texts that mark a row as a total of others, like `Total` or `Gesamt`, or as a plan beside actuals.

    A total is a row whose numbers are the sum of others', or that has no text in another column which all others fill.
    A store that happens to be called Total is none.
    """
    found: dict[str, tuple[str, ...]] = {}
    texts = [name for name in table.column_names if pa.types.is_string(table[name].type)]
    for name in texts:
        column = table[name]
        is_total = pc.or_(pc.match_substring_regex(column, _TOTAL), pc.match_substring_regex(column, _TOTAL_OF))
        mask = pc.fill_null(is_total, fill_value=False)
        marked = pc.sum(mask).as_py() or 0
        if not marked and (planned := _planned(table, name)):
            found[name] = planned
        if not marked or marked > 0.6 * table.num_rows:
            continue
        totals, others = table.filter(mask), table.filter(pc.invert(mask))
        if _is_emptier(totals, others, name) or _is_sum(totals, others):
            found[name] = tuple(sorted(set(totals[name].to_pylist())))
    return found


def _planned(table: pa.Table, name: str) -> tuple[str, ...]:
    """The texts of a column that tells forecasts or a budget from what was sold, and says nothing else; its rows have
    numbers as all others have.
    """
    texts = [text for text in pc.unique(table[name]).to_pylist() if text and text.strip()]
    if not 2 <= len(texts) <= _SCENARIOS:
        return ()
    kinds = {text: (folded(text) in _ACTUAL, folded(text) in _PLANNED) for text in texts}
    if {(True, False), (False, True)} != set(kinds.values()):
        return ()
    planned = tuple(sorted(text for text, (_, is_planned) in kinds.items() if is_planned))
    mask = pc.fill_null(pc.is_in(table[name], pa.array(planned, pa.string())), fill_value=False)
    emptier = _is_emptier(table.filter(mask), table.filter(pc.invert(mask)), name)
    return () if emptier else planned  # a plan without sales is what is known of the future


def what_are(texts: Sequence[str]) -> str:
    """What the rows that `texts` mark are, in words."""
    return "a plan or a forecast" if {folded(text) for text in texts} <= _PLANNED else "totals of others"


def without(table: pa.Table, marks: Mapping[str, Sequence[str]]) -> pa.Table:
    """The rows that none of `marks` (texts by column) marks."""
    for name, texts in marks.items():
        if name in table.column_names and pa.types.is_string(table[name].type):
            marked = pc.fill_null(pc.is_in(table[name], pa.array(list(texts), pa.string())), fill_value=False)
            table = table.filter(pc.invert(marked))
    return table


def _is_emptier(totals: pa.Table, others: pa.Table, name: str) -> bool:
    """Whether totals lack what (nearly) all other rows have: a date, an item."""
    for column in totals.column_names:
        if column == name:
            continue
        full = _filled(others[column]) > 0.95
        if full and _filled(totals[column]) < 0.05:
            return True
    return False


def _filled(column: pa.ChunkedArray) -> float:
    if not len(column):
        return 0.0
    there = pc.is_valid(column)
    if pa.types.is_string(column.type):
        there = pc.and_(there, pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), ""), fill_value=False))
    return (pc.sum(there).as_py() or 0) / len(column)


def _is_sum(totals: pa.Table, others: pa.Table) -> bool:
    """Whether some column of numbers has the same sum over totals as over all others."""
    from many_models.onboarding.value_types import infer_column

    for name in totals.column_names:
        one, two = infer_column(name, totals[name]), infer_column(name, others[name])
        if one.kind == "number" and two.kind == "number":
            first, second = np.nansum(one.values), np.nansum(two.values)
            if second and abs(first - second) < 0.01 * abs(second):
                return True
    return False


# --- Names that differ in case, blanks or accents -------------------------------------------------------------------
def variants_in(profile: TableProfile, keys: Sequence[str]) -> dict[str, dict[str, str]]:
    """By key column, names that differ from another in case, blanks or how accents are composed → the usual one.

    Two names that have rows at the same times, with the other keys equal, are two things: they stay.
    """
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        column = profile.columns[key]
        if column.kind != "text":
            continue
        counts = np.bincount(column.codes, minlength=len(column.levels))
        groups: dict[str, list[int]] = {}
        for number, level in enumerate(column.levels):
            if isinstance(level, str) and counts[number]:
                groups.setdefault(folded(level), []).append(number)
        for same in groups.values():
            best = max(same, key=lambda number: counts[number])
            if len(same) > 1 and not _overlap(profile, keys, key, same):
                names = {column.levels[number]: column.levels[best] for number in same if number != best}
                found.setdefault(key, {}).update(names)
    return found


def alike_in(profile: TableProfile, keys: Sequence[str]) -> list[str]:
    """Sentences on names that look like one and stay several series, see `findings.of_names`."""
    found = list[str]()
    for key in keys:
        column = profile.columns[key]
        used = [column.levels[number] for number in np.unique(column.codes[~np.isnat(profile.ds)]) if number >= 0]
        texts = [level for level in used if isinstance(level, str)]
        found += of_names(pa.table({key: pa.array(texts, pa.string())}), [key])
    return found


def _overlap(profile: TableProfile, keys: Sequence[str], key: str, same: Sequence[int]) -> bool:
    column = profile.columns[key]
    rows = np.flatnonzero(np.isin(column.codes, same) & ~np.isnat(profile.ds))
    others = profile.group([name for name in keys if name != key], rows)
    places = codes_of(others * profile.dates + profile.ds_codes[rows])
    both = codes_of(places * len(column.levels) + column.codes[rows])
    distinct = int(both.max()) + 1 if len(both) else 0
    return distinct - (int(places.max()) + 1 if len(places) else 0) > 0.02 * distinct


def merged(column: Column, names: Mapping[str, str]) -> Column:
    """The column with some of its names replaced by others of its names."""
    at = {level: number for number, level in enumerate(column.levels) if isinstance(level, str)}
    to: NDArray[np.int64] = np.arange(len(column.levels))
    for variant, usual in names.items():
        to[at[variant]] = at[usual]
    return replace(column, codes=to[column.codes])
