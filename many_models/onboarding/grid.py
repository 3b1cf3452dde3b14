"""Rows of cells as people lay them out: where the header is, and what is above it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_VALUE = re.compile(r"[-+(]?[$€£]?\s*\d[\d.,' ]*\s*[%€$)-]?|\d{4}-\d\d-\d\d.*|\d\d?[./]\d\d?[./]\d{2,4}.*")
_LOOKED_AT = 40  # rows among which the header is looked for
SHOWN = 3  # example rows before and after


@dataclass(frozen=True, slots=True)
class Reading:
    """A way in which a file was read that its user should see: what, and some rows before and after."""

    what: str
    before: tuple[tuple[str, ...], ...] = ()
    after: tuple[tuple[str, ...], ...] = ()
    question: str = ""


def listed(names: Sequence[object], most: int = 5) -> str:
    """At most five of `names`, and how many others there are."""
    more = len(names) - most
    return ", ".join(map(str, names[:most])) + (f" and {more:,} more" if more > 0 else "")


def examples(rows: Sequence[Sequence[object]], columns: int = 8) -> tuple[tuple[str, ...], ...]:
    """Some rows as short texts, to be shown."""
    return tuple(tuple(text_of(cell)[:40] for cell in row[:columns]) for row in rows[:SHOWN])


def text_of(cell: object) -> str:
    """A cell as text: whole numbers without a fraction, dates as ISO 8601, an empty cell as ""."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime):
        return cell.isoformat(" ") if cell.time() != datetime.min.time() else cell.date().isoformat()
    return cell.isoformat() if isinstance(cell, date) else str(cell).strip()


def is_value(cell: object) -> bool:
    """Whether a cell is a number or a date, and no name of a column."""
    return (not isinstance(cell, str) if cell is not None and cell != "" else False) or bool(
        _VALUE.fullmatch(text_of(cell))
    )


def find_header(rows: Sequence[Sequence[object]]) -> int:
    """The row that names the columns: the first that is as wide as the table and holds names; -1 where there is none.

    Titles above a table are narrower than it. Names may be periods (2024-01, 2024-02 …) where they are all different.
    """
    widths = [sum(text_of(cell) != "" for cell in row) for row in rows]
    usual = Counter(width for width in widths if width > 1).most_common(1)
    if not usual:
        return -1
    wide = usual[0][0]
    for number, row in enumerate(rows[:_LOOKED_AT]):
        if widths[number] < max(2, 0.6 * wide):
            continue
        cells = [cell for cell in row if text_of(cell)]
        values = [cell for cell in cells if is_value(cell)]
        if not values or len(values) * 4 < len(cells) or _are_periods(cells, values, rows[number + 1 :]):
            return number
        return -1  # values before any name
    return -1


def _are_periods(cells: Sequence[object], values: Sequence[object], below: Sequence[Sequence[object]]) -> bool:
    """Whether values in a header are its periods: in order and different, after a name, above rows of numbers."""
    texts = [text_of(value) for value in values]
    if len(values) < 3 or len(set(texts)) < len(texts) or is_value(cells[0]) or not below:
        return False
    whole = [text for text in texts if re.fullmatch(r"\d{4,8}|\d{1,4}[-/.]\d{1,2}([-/.]\d{1,4})?( 00:00:00)?", text)]
    if len(whole) < len(texts):
        return False
    numbers = [int(text) for text in texts if text.isdigit()]
    return not numbers or (len(numbers) == len(texts) and sorted(numbers) == numbers and numbers[0] > 1800)
