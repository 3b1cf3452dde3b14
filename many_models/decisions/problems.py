"""What people wrote and could not be used: one form for all decisions."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.table_columns import PROBLEMS, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALIKE = 0.8  # of two names' letters, from which on one may be meant for the other


def problem_table(problems: Sequence[Mapping[str, str]]) -> pa.Table:
    """The problems as a table: what they are about (origin, series_id, row) and the reason."""
    return pa.Table.from_pylist([dict(problem) for problem in problems], schema_of(PROBLEMS))


def unknown(alike: str) -> str:
    """Why a row is passed over whose names no series has ever had; `alike` are names that look like them, or ""."""
    return f"there are no sales of it{f' (did you mean {alike}?)' if alike else ''}: write names as the sales do"


def misnamed(there: Sequence[str], needed: Sequence[str], known: Sequence[str] = ()) -> dict[str, str]:
    """Columns `there` that nothing reads, and that nearly have the name of one of `needed` that is missing; and what to
    do. Without their values a row would say something else: of all stores what it says of one. `known` are read, too.
    """
    missing = {_plain(name): name for name in needed if name not in there}
    found = dict[str, str]()
    for name in there:
        if name not in needed and name not in known and (near := get_close_matches(_plain(name), missing, 1, ALIKE)):
            found[name] = f"name it {missing[near[0]]}"
    return found


def unread(row: Mapping[str, object], wrong: Mapping[str, str]) -> str:
    """Why a row is left out that fills in one of the columns `wrong` (see `misnamed`), "" where it does not."""
    for name, advice in wrong.items():
        if row[name] not in {None, ""}:
            return f"nothing reads its column {name}: {advice}, or leave the column out"
    return ""


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()


def number_in(value: object) -> float | None:
    """A number as people write it; None where the cell is empty. Raises ValueError for all else."""
    text = "" if value is None else str(value).strip()
    if text == "" or (isinstance(value, float) and value != value):  # noqa: PLR0124 -- NaN
        return None
    number = float(text)
    if number in {float("inf"), float("-inf")} or number != number:  # noqa: PLR0124 -- NaN
        raise ValueError(text)
    return number
