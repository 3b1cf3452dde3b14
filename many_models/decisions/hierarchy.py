"""Forecasts that add up: bottom-up, or every node's own forecast reconciled by trace minimisation (MinT).

With bottom series b, a matrix A of zeros and ones that sums them into upper nodes, and W the variance of the base
forecasts' errors (diagonal), MinT of Wickramasuriya, Athanasopoulos & Hyndman (2019) is

    b' = b + Wb Aᵀ (A Wb Aᵀ + Wu)⁻¹ (u − A b),   u' = A b'

which needs a linear system of as many equations as there are upper nodes. Sums are made of b' and so agree exactly.
Negative bottom forecasts become zero and sums are made again (Di Fonzo & Girolimetto 2023, set-negative-to-zero).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    Floats = NDArray[np.float64]

Method = Literal["bottom_up", "mint_structural", "mint_variance"]
TOTAL = "total"
SEPARATOR = "|"


@dataclass(frozen=True)
class Hierarchy:
    """Upper nodes over the bottom `series`: their `names` (LEVEL|VALUE|…), `levels`, and `sums`, nodes × series."""

    series: Sequence[str]
    names: list[str]
    levels: list[str]
    sums: csr_matrix

    @property
    def sizes(self) -> Floats:
        """How many bottom series each node sums."""
        return np.asarray(self.sums.sum(axis=1), np.float64).ravel()


def build_hierarchy(
    series: Sequence[str], levels: Sequence[Sequence[str]], values: Mapping[str, Mapping[str, str | None]]
) -> tuple[Hierarchy, list[dict[str, str]]]:
    """The nodes of `levels` (each a list of columns; an empty one is the total, which is always there), and problems.

    `values` has for each series its value of each column (keys and attributes). A series without a value of a level is
    in none of this level's nodes, which is a problem; it stays in the other levels. Levels may be crossed.
    """
    from scipy.sparse import csr_matrix

    problems = list[dict[str, str]]()
    names, of_level = [TOTAL], [TOTAL]
    rows, columns = [0] * len(series), list(range(len(series)))
    for level in dict.fromkeys(tuple(level) for level in levels if level):
        label, found = "+".join(level), dict[tuple[str, ...], int]()
        for at, name in enumerate(series):
            parts = [values.get(name, {}).get(column) for column in level]
            if lacking := [column for column, part in zip(level, parts, strict=True) if part is None or part == ""]:
                problems.append(
                    {
                        "origin": "hierarchy",
                        "series_id": name,
                        "row": "",
                        "reason": f"it has no {', '.join(lacking)}, so it is in no sum of the level {label}: fill the "
                        "attributes table",
                    }
                )
                continue
            node = found.setdefault(tuple(str(part) for part in parts), len(names) + len(found))
            rows.append(node)
            columns.append(at)
        names += [SEPARATOR.join((label, *parts)) for parts in found]
        of_level += [label] * len(found)
    shape = (len(names), len(series))
    return Hierarchy(series, names, of_level, csr_matrix((np.ones(len(rows)), (rows, columns)), shape)), problems


def reconcile(  # noqa: PLR0913 - forecasts, and how they are made to agree
    hierarchy: Hierarchy,
    bottom: Floats,
    upper: Floats,
    *,
    method: Method,
    bottom_variance: Floats | None = None,
    upper_variance: Floats | None = None,
    nonnegative: bool = True,
) -> tuple[Floats, Floats]:
    """Coherent forecasts of bottom series and of upper nodes (rows × steps), from their own ones.

    A node whose own forecast is not finite, or whose variance is unknown with `mint_variance`, says nothing and gets
    the sum. `mint_structural` takes the number of series below as the variance of a node.
    """
    bottom = np.asarray(bottom, np.float64)
    if method != "bottom_up":
        told = np.isfinite(upper).all(1)
        if method == "mint_variance" and bottom_variance is not None and upper_variance is not None:
            told &= np.isfinite(upper_variance) & (upper_variance > 0)
            below, above = np.maximum(np.nan_to_num(bottom_variance), 1e-12), np.nan_to_num(upper_variance)
        else:
            below, above = np.ones(len(bottom)), hierarchy.sizes
        above = np.asarray(above, np.float64)
        bottom = bottom + _moved(hierarchy.sums[told], bottom, upper[told], below, above[told])
    if nonnegative:
        bottom = np.maximum(bottom, 0.0)
    return bottom, hierarchy.sums @ bottom


def _moved(sums: csr_matrix, bottom: Floats, upper: Floats, below: Floats, above: Floats) -> Floats:
    """What the upper nodes' own forecasts move the bottom ones by (see the module)."""
    from scipy.linalg import cho_factor, cho_solve

    if not len(upper):
        return np.zeros_like(bottom)
    weighted = sums.multiply(below[None, :]).tocsr()
    system = (weighted @ sums.T).toarray()
    system[np.diag_indices_from(system)] += above
    found: Floats = weighted.T @ cho_solve(cho_factor(system, lower=True), upper - sums @ bottom)
    return found


def whole_numbers(bottom: Floats) -> Floats:
    """Bottom forecasts (series × steps) as whole numbers whose total at each step is the rounded total.

    Largest remainders get the units that rounding down left over, the first series first where they are alike.
    """
    down = np.floor(bottom)
    left = np.rint(bottom.sum(0)) - down.sum(0)
    order = np.argsort(-(bottom - down), axis=0, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(len(bottom))[:, None], axis=0)
    return down + (rank < left[None, :])


def node_errors(hierarchy: Hierarchy, errors: Floats) -> Floats:
    """Errors of sums (nodes × windows × steps) from those of the bottom series, which need not be independent.

    A window counts for a node where more than half of its series have it; the others' errors count as zero.
    """
    n, windows, steps = errors.shape
    known = np.asarray(np.isfinite(errors).all(axis=2))
    flat = np.where(known[..., None], errors, 0.0).reshape(n, windows * steps)
    found = np.asarray(hierarchy.sums @ flat, np.float64).reshape(-1, windows, steps)
    share = np.asarray(hierarchy.sums @ known.astype(float)) / np.maximum(hierarchy.sizes[:, None], 1.0)
    good = np.asarray(share > 0.5)
    return np.where(good[..., None], found, np.nan)


def sum_intervals(
    hierarchy: Hierarchy, upper: Floats, errors: Floats, past: Floats, levels: Sequence[int], *, nonnegative: bool
) -> dict[str, Floats]:
    """Bounds loNN and hiNN (nodes × steps) of the coherent forecasts `upper`.

    `errors` are those of sums over the backtest (see `node_errors`), `past` what the sums' forecasts were there. Each
    node has its own spread, drawn towards that of its level; the shape is that of all nodes of the level, and what the
    nodes of a window share is in it, because windows are taken whole.
    """
    size = np.maximum(np.abs(past), 1e-9)
    with np.errstate(invalid="ignore"):
        relative = errors / size.mean((1, 2), keepdims=True)
    found = {f"{side}{level}": np.empty_like(upper) for level in levels for side in ("lo", "hi")}
    for label in dict.fromkeys(hierarchy.levels):
        rows = np.array([i for i, level in enumerate(hierarchy.levels) if level == label])
        own, seen = relative[rows], np.isfinite(relative[rows])
        count = seen.sum((1, 2))
        squares = np.where(seen, own, 0.0) ** 2
        everyone = float(squares.sum() / max(count.sum(), 1))
        spread = np.sqrt((squares.sum((1, 2)) + _BELIEF * everyone) / (count + _BELIEF))
        scaled = (own / np.maximum(spread, 1e-12)[:, None, None])[seen]
        wider = 1.0 + _WIDER / max(int(seen.any((0, 2)).sum()), 1)
        deviation = np.maximum(np.abs(upper[rows]), 1e-9) * spread[:, None]
        for level in levels:
            tail = (1.0 - level / 100.0) / 2.0
            low, high = np.quantile(scaled, [tail, 1.0 - tail]) if len(scaled) else (0.0, 0.0)
            found[f"lo{level}"][rows] = upper[rows] + min(low, 0.0) * wider * deviation
            found[f"hi{level}"][rows] = upper[rows] + max(high, 0.0) * wider * deviation
    return {name: np.maximum(bound, 0.0) if nonnegative else bound for name, bound in found.items()}


_BELIEF = 14.0  # errors of a level that weigh as much in a node's spread as so many of its own
_WIDER = 0.3  # over the number of windows: sums share the luck of a window, and windows are few
