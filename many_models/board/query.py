"""Search, filter, sort and cut the table of items, as the address of the page says. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.board.items import Items

NUMBERS = {  # column → how people call it
    "volume": "volume", "turnover": "turnover", "wape": "WAPE", "skill": "skill", "noise_floor": "noise floor",
    "bias": "bias", "cover80": "coverage", "real_wape": "realised WAPE", "real_bias": "realised bias",
    "real_cover80": "realised coverage", "drift": "drift", "cost": "cost", "ahead": "forecast", "change": "change",
}  # fmt: skip
CHOICES = ("state", "abc", "xyz", "fallback", "candidate")
PAGE = 50
LONGEST_TEXT = 200


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of the table: `text` in any key, values `named`, bounds of numbers, order and page."""

    text: str = ""
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    sort: str = "cost"
    descending: bool = True
    page: int = 1


def filterable(items: Items) -> dict[str, str]:
    """Column → name of everything that is filtered by its value: keys, attributes, choices."""
    named = {key: key for key in items.keys} | {f"attribute {name}": name for name in items.attributes}
    return named | {name: name for name in CHOICES}


def parse_query(pairs: Iterable[tuple[str, str]], items: Items) -> Query:
    """The query that an address has. What it does not understand it leaves out: an address is typed by people."""
    values, bounds = dict[str, tuple[str, ...]](), dict[str, tuple[float, float]]()
    plain = dict[str, str]()
    columns = filterable(items)
    for name, value in pairs:
        if name.startswith("is.") and name[3:] in columns and value != "":
            values[name[3:]] = (*values.get(name[3:], ()), value)
        elif name.startswith(("min.", "max.")) and name[4:] in NUMBERS:
            low, high = bounds.get(name[4:], (-math.inf, math.inf))
            if (number := _number(value)) is not None:
                bounds[name[4:]] = (number, high) if name.startswith("min.") else (low, number)
        else:
            plain.setdefault(name, value)
    sort = plain.get("sort", "cost")
    sortable = {*NUMBERS, *columns, "series_id", "observations"}
    page = plain.get("page", "1")
    return Query(
        plain.get("q", "").strip()[:LONGEST_TEXT],
        values,
        bounds,
        sort if sort in sortable else "cost",
        plain.get("order", "down") != "up",
        int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 7 else 1,
    )


def _number(text: str) -> float | None:
    try:
        number = float(text.strip().removesuffix("%")) / (100.0 if text.strip().endswith("%") else 1.0)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def chosen(items: Items, query: Query, visible: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """The rows of the table that the query names, in its order; of `visible` ones only, where that is given."""
    frame = items.frame
    mask = np.ones(len(frame), bool) if visible is None else visible.copy()
    for word in query.text.casefold().split():
        mask &= np.char.find(items.searched, word) >= 0
    for name, wanted in query.named.items():
        mask &= frame[name].astype(str).isin(wanted).to_numpy()
    for name, (low, high) in query.bounds.items():
        numbers = frame[name].to_numpy(float)
        with np.errstate(invalid="ignore"):
            mask &= (numbers >= low) & (numbers <= high)
    rows = np.flatnonzero(mask)
    return rows[_order(frame[query.sort].to_numpy()[rows], descending=query.descending)]


def _order(values: NDArray[np.generic], *, descending: bool) -> NDArray[np.int64]:
    """What sorts `values`; those that are not known come last in either order."""
    if values.dtype.kind in "fiub":
        numbers = values.astype(float)
        return np.argsort(np.where(np.isnan(numbers), np.inf, -numbers if descending else numbers), kind="stable")
    order = np.argsort(np.char.lower(values.astype(str)), kind="stable")
    return order[::-1] if descending else order


def pages(count: int) -> int:
    """The number of pages that the rows take."""
    return max(1, -(-count // PAGE))


def options(items: Items, column: str, visible: NDArray[np.bool_] | None, most: int = 60) -> Sequence[str]:
    """The values that people choose from, where there are few enough to list."""
    values = items.frame[column].astype(str)
    found = sorted(set(values if visible is None else values[visible]) - {"", "nan"})
    return found if len(found) <= most else []
