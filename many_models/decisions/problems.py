"""What people wrote and could not be used: one form for all decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from many_models.table_columns import PROBLEMS, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def problem_table(problems: Sequence[Mapping[str, str]]) -> pa.Table:
    """The problems as a table: what they are about (origin, series_id, row) and the reason."""
    return pa.Table.from_pylist([dict(problem) for problem in problems], schema_of(PROBLEMS))


def unknown(alike: str) -> str:
    """Why a row is passed over whose names no series has ever had; `alike` are names that look like them, or ""."""
    return f"there are no sales of it{f' (did you mean {alike}?)' if alike else ''}: write names as the sales do"


def number_in(value: object) -> float | None:
    """A number as people write it; None where the cell is empty. Raises ValueError for all else."""
    text = "" if value is None else str(value).strip()
    if text == "" or (isinstance(value, float) and value != value):  # noqa: PLR0124 -- NaN
        return None
    number = float(text)
    if number in {float("inf"), float("-inf")} or number != number:  # noqa: PLR0124 -- NaN
        raise ValueError(text)
    return number
