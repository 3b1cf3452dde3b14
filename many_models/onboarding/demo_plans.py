"""What the demo's people write into its source: categories, terms of stock, changes of forecasts; and what befell it.

Three made-up people change forecasts, in a round every four weeks. One knows of large orders that the model cannot
know of; one sets targets; one guesses. Ten items that a canteen buys in the first store sell
40 % more since two weeks ago.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

SHIFT, SHIFT_DAYS, SHIFTED = 1.4, 14, 10
ROUND, ROUNDS = 28, 3  # days from one round of changes to the next, and past rounds
ENTERED = 5  # days before a round that people write: a cutoff lies before Sundays and holidays, when most are closed
GOOD, BAD, NOISY = "Mara (key accounts)", "Boris (sales)", "Nele (store)"
_TARGET = 1.25  # what the bad one makes of a category
_ORDERS, _GUESSES = 3, 8  # a round: large orders of a store, guesses of the noisy one
_STEADY = 4.0  # units a day from which on an item gets orders and guesses

_CATEGORIES = (
    (6, "dairy and eggs"),
    (10, "bakery"),
    (20, "fruit and vegetables"),
    (27, "drinks"),
    (35, "pantry"),
    (40, "sweets and snacks"),
    (45, "frozen"),
    (50, "household"),
)
_TERMS = {  # category → lead time, its deviation, review, service, level, pack
    "dairy and eggs": (1, 0.0, 2, "fill", 0.97, 6),
    "bakery": (1, 0.0, 1, "fill", 0.95, 1),
    "fruit and vegetables": (1, 0.0, 1, "fill", 0.95, 1),
    "drinks": (2, 0.0, 7, "cycle", 0.95, 12),
    "pantry": (3, 0.0, 7, "cycle", 0.95, 6),
    "sweets and snacks": (3, 0.0, 7, "cycle", 0.95, 12),
    "frozen": (2, 0.0, 3, "fill", 0.98, 6),
    "household": (4, 0.5, 7, "cycle", 0.9, 4),
}

_SCHEMA = """
CREATE TABLE items (item TEXT NOT NULL, category TEXT);
CREATE TABLE stock (store TEXT, item TEXT, lead_time REAL, lead_time_sd REAL, review INTEGER, service TEXT,
    service_level REAL, on_hand REAL, on_order REAL, pack REAL, least_order REAL, holding_cost REAL, missing_cost REAL);
CREATE TABLE changes (store TEXT, item TEXT, category TEXT, "from" TEXT, "to" TEXT, action TEXT, value REAL,
    author TEXT, reason TEXT, entered_at TEXT, expires TEXT);
"""


class Order(NamedTuple):
    """A large order: the item's position, its first and last day, and the units that it adds to each of them."""

    item: int
    first: int
    last: int
    units: float


class Change(NamedTuple):
    """A row of the table changes."""

    store: str | None
    item: str | None
    category: str | None
    first: str
    last: str
    action: str
    value: float
    author: str
    reason: str
    entered_at: str
    expires: None = None


@dataclass
class Plans:
    """What the stores' people know and write, gathered store by store; `shifted` are (store, item)."""

    shifted: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    changes: list[Change] = field(default_factory=list[Change])
    stock: list[tuple[object, ...]] = field(default_factory=list[tuple[object, ...]])


def category(number: int) -> str:
    """The category of the item `number` of the chain's range."""
    return next(name for end, name in _CATEGORIES if number % 50 < end)


@dataclass(frozen=True, slots=True)
class Customers:
    """Who may give large orders in a store: what items `usual`ly sell a day, those that get orders, `most` first, and
    where an item is sold (items × days and more).
    """

    usual: Floats
    most: NDArray[np.int64]
    trading: NDArray[np.bool_]

    def round(self, rng: np.random.Generator, begin: int) -> list[Order]:
        """The orders of the round that begins on the day `begin`."""
        orders = list[Order]()
        for item in rng.permutation(self.most)[:_ORDERS].tolist():
            open_days = [day for day in range(begin + 2, begin + 12) if self.trading[item, day : day + 2].all()]
            if open_days:
                first, units = int(rng.choice(open_days)), float(np.rint(self.usual[item] * rng.uniform(1.5, 3.0)))
                orders.append(Order(item, first, first + 1, units))
        return orders


def customers(demand: Floats, trading: NDArray[np.bool_], shifts: NDArray[np.bool_], *, special: bool) -> Customers:
    """The customers of a store with this `demand` (items × days). Items that shift get no orders, and the last four of
    the special store do not.
    """
    days = demand.shape[1]
    usual = np.where(trading[:, days - ROUND : days].sum(1) > ROUND / 2, demand[:, -ROUND:].mean(1), 0.0)
    if special:
        usual[-4:] = 0.0
    order = np.argsort(-usual, kind="stable")
    return Customers(usual, order[(usual[order] >= _STEADY) & ~shifts[order]], trading)


def befall(
    rng: np.random.Generator,
    demand: Floats,
    who: Customers,
    weighed: NDArray[np.bool_],
    shifts: NDArray[np.bool_],
) -> tuple[Floats, list[int], list[Order]]:
    """Demand (items × days) after large orders and the shift of the items `shifts`; the items that shifted, and the
    orders, those of the coming round too.
    """
    days, shifted = demand.shape[1], np.flatnonzero(shifts).tolist()
    found = demand.copy()
    found[shifted, days - SHIFT_DAYS :] *= SHIFT
    orders = [order for begin in round_starts(days) for order in who.round(rng, begin)]
    for one in orders:
        found[one.item, one.first : one.last + 1] += one.units
    return in_units(found, weighed), shifted, orders


def in_units(sold: Floats, weighed: NDArray[np.bool_]) -> Floats:
    """What is `sold` (items × days) in whole units, and in grams where it is `weighed`."""
    return np.where(weighed[:, None], sold.round(3), np.rint(sold))


def round_starts(days: int) -> list[int]:
    """The first days of the rounds: those of the past that the history holds, and the one to come."""
    return [days - ROUND * back for back in range(ROUNDS, -1, -1) if days - ROUND * back >= ROUND]


def plan_store(  # noqa: PLR0913, PLR0917 - what a store's people look at
    plans: Plans,
    rng: np.random.Generator,
    store: str,
    names: Sequence[str],
    numbers: Sequence[int],
    found: tuple[Floats, list[int], list[Order]],
    price: Floats,
    dates: Sequence[str],
    *,
    guesses: bool,
) -> None:
    """Add what the people of `store` write: their stock, the announced orders, and, with `guesses`, guesses."""
    demand, shifted, orders = found
    days = demand.shape[1]
    plans.shifted += [(store, names[i]) for i in shifted]
    plans.changes += [
        Change(
            store,
            names[one.item],
            None,
            dates[one.first],
            dates[one.last],
            "add",
            one.units,
            GOOD,
            "large order",
            dates[max(start for start in round_starts(days) if start <= one.first) - ENTERED],
        )
        for one in orders
    ]
    usual = demand[:, -ROUND:].mean(1)
    for i, (name, number) in enumerate(zip(names, numbers, strict=True)):
        lead, spread, review, service, level, pack = _TERMS[category(number)]
        on_hand = float(np.floor(usual[i] * rng.uniform(0.5, lead + review + 2)))
        plans.stock.append((store, name, lead, spread, review, service, level, on_hand, 0.0, pack, pack,
                            round(0.002 * float(price[i]), 4), round(0.3 * float(price[i]), 2)))  # fmt: skip
    if guesses:
        busy = {(one.item, start) for one in orders for start in round_starts(days) if 0 <= one.first - start < ROUND}
        best: list[int] = np.argsort(-usual)[: 2 * _GUESSES].tolist()
        for start in round_starts(days):
            for i in [i for i in best if (i, start) not in busy][:_GUESSES]:
                plans.changes.append(Change(
                    store, names[i], None, dates[start], dates[start + 6], "multiply",
                    round(float(rng.uniform(0.65, 1.35)), 2), NOISY, "feeling", dates[start - ENTERED]))  # fmt: skip


def write_plans(
    database: sqlite3.Connection, plans: Plans, names: Sequence[str], days: int, dates: Sequence[str]
) -> None:
    """Write the tables items, stock and changes; the targets of the bad one are for whole categories."""
    targets = [
        Change(
            None,
            None,
            _CATEGORIES[(at * 3 + 3) % len(_CATEGORIES)][1],
            dates[start],
            dates[start + ROUND - 1],
            "multiply",
            _TARGET,
            BAD,
            "target",
            dates[start - ENTERED],
        )
        for at, start in enumerate(round_starts(days))
    ]
    tables: dict[str, list[tuple[object, ...]]] = {
        "items": [(name, category(number)) for number, name in enumerate(names)],
        "stock": plans.stock,
        "changes": [*plans.changes, *targets],
    }
    for statement in _SCHEMA.split(";"):
        database.execute(statement)
    for table, rows in tables.items():
        marks = ", ".join("?" * len(rows[0]))
        database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608
