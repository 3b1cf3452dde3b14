"""A seeded source database that a grocer would recognise: sales and known covariates of stores and items."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import numpy as np

from many_models.errors import InputError
from many_models.onboarding import demo_plans
from many_models.onboarding.demo_settings import COUNTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

FUTURE_DAYS = 63  # prices and promotions are planned for nine weeks
LEAST_SERIES, LEAST_DAYS = 10, 60

Key = tuple[str, str]

_STORES = (
    "Berlin Mitte|Hamburg Altona|München Schwabing|Frankfurt Bahnhof|Köln/Ehrenfeld|"
    'Leipzig "Am Markt"|Düsseldorf Königsallee|Dresden Neustadt|Mainz O\'Connell-Platz|Bremen Viertel|'
    "Nürnberg Südstadt|Rostock Warnemünde|Erfurt Anger|Kiel 2. Förde|Freiburg St. Georgen|"
    "Aachen Burtscheid|Kassel Mitte_Nord|Ulm & Neu-Ulm|Trier 100 % Bio|Görlitz Altstadt"
).split("|")
_ITEMS = (
    "Whole milk 1 l|Butter 250 g|Crème fraîche 200 g|Gouda, sliced|Natural yogurt 500 g|"
    "Eggs, 10 pcs|Rye bread ½ loaf|Baguette|Croissant|Baker's yeast|"
    "Bananas|Apples Elstar|Tomatoes|Cucumber|Potatoes 2.5 kg|"
    "Strawberries 🍓 500 g|Asparagus|Lettuce|Lemons|Onions 1 kg|"
    "Water 6 × 1.5 l|Orange juice 100 % 1 l|Cola 1.25 l|Lager beer 0.5 l|Alcohol-free beer 0.5 l|"
    "Coffee beans 1 kg|Black tea|Müsli 'Classic' 500 g|Rolled oats|Sugar 1 kg|"
    "Wheat flour 405|Spaghetti N°5|Basmati rice 1 kg|Tomato passata|Olive oil 0.75 l|"
    'Chocolate "dark" 70 %|Gingerbread|Gummy bears|Crisps/paprika|Salted peanuts|'
    "Vanilla ice cream 1 l|Frozen pizza|Frozen peas|Fish fingers|Spinach, frozen|"
    "Detergent 20 loads|Toilet paper 8 rolls|Toothpaste|Shampoo|Candles"
).split("|")
_KINDS = ("", "organic", "family pack", "own brand", "mini", "XL", "light", "premium")
_WEIGHED = frozenset({"Gouda, sliced", "Bananas", "Apples Elstar", "Tomatoes", "Asparagus"})
_SUMMER = frozenset({"Vanilla ice cream 1 l", "Strawberries 🍓 500 g", "Lager beer 0.5 l", "Asparagus"})
_WINTER = frozenset({"Gingerbread", "Candles", 'Chocolate "dark" 70 %', "Black tea", "Lemons"})
_OPEN_ON_SUNDAY = "Frankfurt Bahnhof"
_ROWS_FOR_SALES = "München Schwabing"  # its till exports a row only for what was sold

_SCHEMA = """
CREATE TABLE sales (
    store TEXT NOT NULL, item TEXT NOT NULL, date TEXT, sales REAL, price REAL, promotion INTEGER);
CREATE TABLE covariates (
    store TEXT NOT NULL, item TEXT NOT NULL, date TEXT NOT NULL, price REAL NOT NULL, promotion INTEGER NOT NULL);
"""
_INDEXES = "CREATE INDEX sales_by_date ON sales (date); CREATE INDEX covariates_by_date ON covariates (date);"


@dataclass(frozen=True, slots=True)
class DemoFacts:
    """What was put into the source: for the summary, and as the truth that tests compare with.

    `first` and `last` are the first and the last day with usable rows; `rows` counts every row of the sales table.
    `dirty` maps a reason to quarantine (as in `many_models.data.row_checks.REASONS`) to its number of rows. `ended` had
    no sale in the last year. `newest` has one row, on the last day; `short` has ten. `rows_for_sales` is the store
    that has a row only for days on which an item was sold, "" where the demo is too small to have it. `shifted` sell
    40 % more in the last two weeks. `changes` says how many rows each author wrote.
    """

    path: Path
    stores: int
    items: int
    series: int
    rows: int
    covariate_rows: int
    first: date
    last: date
    dirty: Mapping[str, int]
    constant: Key
    all_zero: Key
    newest: Key
    short: Key
    ended: tuple[Key, ...]
    rows_for_sales: str
    shifted: tuple[Key, ...] = ()
    categories: int = 0
    changes: Mapping[str, int] = field(default_factory=dict[str, int])

    def sentences(self) -> list[str]:
        """What is in the source, for people."""
        authors = ", ".join(f"{count} by {author}" for author, count in sorted(self.changes.items()))
        since = self.last - timedelta(days=demo_plans.SHIFT_DAYS - 1)
        lift, items = demo_plans.SHIFT - 1, f"{self.items} items in {self.categories} categories"
        shift = f"level shift: {len(self.shifted)} items of one store sell {lift:.0%} more since {since}"
        return [
            f"source: {self.rows:,} rows, {self.stores} stores, {self.series} series, {self.first} to {self.last}",
            f"people's tables: {items}, terms of stock for each series, changes of forecasts ({authors})",
            *([shift] if self.shifted else []),
        ]


@dataclass(frozen=True, slots=True)
class _Calendar:
    """Every day of history and of the planned future; `days` of them are history."""

    days: int
    dates: list[str]
    weekday: NDArray[np.int64]
    year_angle: Floats
    holiday: NDArray[np.bool_]
    holiday_effect: Floats

    @property
    def everywhere_open(self) -> NDArray[np.bool_]:
        return ~self.holiday & (self.weekday != 6)


@dataclass(frozen=True, slots=True)
class _Store:
    """One store: it trades in [opens, closes), but for the days in [shut, reopens)."""

    name: str
    size: float
    opens: int
    closes: int
    shut: int
    reopens: int
    items: NDArray[np.int64]

    def trading(self, calendar: _Calendar) -> NDArray[np.bool_]:
        day = np.arange(len(calendar.dates))
        trading = (day >= self.opens) & (day < self.closes) & ~((day >= self.shut) & (day < self.reopens))
        return trading if self.name == _OPEN_ON_SUNDAY else trading & calendar.everywhere_open


@dataclass(frozen=True, slots=True)
class _Range:
    """The items of the chain, one value (or row of days) each: what they sell, for how much, from when to when."""

    names: list[str]
    level: Floats
    weighed: NDArray[np.bool_]
    season: Floats
    peak: Floats
    weekend: Floats
    elasticity: Floats
    price: Floats
    promotion: NDArray[np.bool_]
    echo: NDArray[np.bool_]
    listed: NDArray[np.int64]
    delisted: NDArray[np.int64]


def write_source(
    path: Path,
    *,
    series: int = 500,
    days: int = 1095,
    end: date,
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DemoFacts:
    """Write the SQLite database `path` (in place of one that is there) with `days` days up to and with `end`.

    Table `sales` (store, item, date as ISO text, sales, price, promotion) has a row for every day on which a store is
    open and lists the item (one store: on which it sold the item), and a few dirty rows; `covariates` has price and
    promotion for the history and `FUTURE_DAYS` more. The same arguments give the same rows. `progress` is told (series
    done, series).
    Raises InputError under `LEAST_SERIES` or `LEAST_DAYS`.
    """
    if series < LEAST_SERIES or days < LEAST_DAYS:
        raise InputError(
            f"the demo needs at least {LEAST_SERIES} series and {LEAST_DAYS} days, got {series} and {days}"
        )
    calendar = _calendar(days, end)
    stores = _stores(np.random.default_rng([seed, 1]), calendar, series)
    range_ = _range(np.random.default_rng([seed, 2]), calendar, 1 + max(int(store.items.max()) for store in stores))
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as database:
        database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA + "BEGIN;")
        plans, done = demo_plans.Plans(), 0
        for number, store in enumerate(stores):
            _write_store(
                database, np.random.default_rng([seed, 3, number]), calendar, store, range_, plans, special=not number
            )
            done += len(store.items)
            if progress:
                progress(done, series)
        demo_plans.write_plans(database, plans, range_.names, days, calendar.dates)
        first, last = database.execute("SELECT min(date), max(date) FROM sales").fetchone()
        keys = [(stores[0].name, range_.names[item]) for item in stores[0].items[-4:]]
        span = (first, calendar.dates[int(days * 0.95)])
        spared = [item for _, item in keys]
        dirty = _soil(database, np.random.default_rng([seed, 4]), max(1, series // 125), span, spared)
        database.execute("COMMIT")
        database.executescript(_INDEXES)
        facts = _facts(database, path, end, dirty, keys, (first, last))
    unfinished.replace(path)
    return replace(facts, shifted=tuple(plans.shifted))


# --- What there is --------------------------------------------------------------------------------------------------
def _calendar(days: int, end: date) -> _Calendar:
    import holidays

    first = end - timedelta(days=days - 1)
    all_days = [first + timedelta(days=n) for n in range(days + FUTURE_DAYS)]
    years = range(first.year, all_days[-1].year + 2)
    closed = holidays.country_holidays(COUNTRY, years=years)
    holiday = np.array([day in closed for day in all_days])
    # People buy ahead of a day on which shops are closed, most of all for Christmas and Easter.
    effect = np.zeros(len(all_days))
    for index, day in enumerate(all_days):
        for ahead, lift in ((1, 0.32), (2, 0.18), (3, 0.08)):
            if day + timedelta(days=ahead) in closed:
                effect[index] = max(effect[index], lift)
        if day - timedelta(days=1) in closed:
            effect[index] += 0.1
        if (day.month, day.day) in {(12, 21), (12, 22), (12, 23)}:
            effect[index] += 0.3
    return _Calendar(
        days,
        [day.isoformat() for day in all_days],
        np.array([day.weekday() for day in all_days]),
        np.array([2 * math.pi * day.timetuple().tm_yday / 365.25 for day in all_days]),
        holiday,
        effect,
    )


def _stores(rng: np.random.Generator, calendar: _Calendar, series: int) -> list[_Store]:
    """Store of different sizes whose assortments hold `series` items together.

    From six stores on, every fifth opened later, one was rebuilt, and a small one closed for good.
    """
    count = min(40, max(1, round(math.sqrt(series / 5))))
    sizes = np.linspace(1.25, 0.75, count)
    if count > 5:
        sizes[-1] = 0.1
    listed = np.maximum(1, np.floor(sizes / sizes.sum() * series)).astype(int)
    listed[0] += series - listed.sum()
    items = math.ceil(listed.max() * 1.1)
    stores: list[_Store] = []
    days = calendar.days
    for number in range(count):
        later = count > 5 and number % 5 == 3
        gone = count > 5 and number == count - 1
        rebuilt = days - int(rng.integers(80, 300)) if count > 5 and number == 1 else days
        stores.append(
            _Store(
                name=_name(_STORES, ("", "II", "III"), number),
                size=float(sizes[number] * rng.uniform(0.8, 1.2)) if not gone else 0.4,
                opens=int(days * rng.uniform(0.2, 0.7)) if later else 0,
                closes=days - int(days * 0.1) if gone else days + FUTURE_DAYS,
                shut=max(rebuilt, 0),
                reopens=max(rebuilt, 0) + (42 if rebuilt < days else 0),
                items=np.sort(rng.choice(items, listed[number], replace=False)),
            )
        )
    return stores


def _name(names: Sequence[str], kinds: Sequence[str], number: int) -> str:
    name, kind = names[number % len(names)], number // len(names)
    return name if kind == 0 else f"{name} {kinds[kind]}" if kind < len(kinds) else f"{name} no. {kind}"


def _range(rng: np.random.Generator, calendar: _Calendar, count: int) -> _Range:
    names = [_name(_ITEMS, _KINDS, number) for number in range(count)]
    plain = [_ITEMS[number % len(_ITEMS)] for number in range(count)]
    slow = rng.random(count) < 0.15
    level = np.where(slow, rng.uniform(0.08, 0.6, count), np.exp(rng.normal(2.3, 0.9, count)))
    strong = np.array([name in _SUMMER or name in _WINTER for name in plain])
    peak = np.array(
        [0.0 if name in _WINTER else math.pi if name in _SUMMER else rng.uniform(0, 6.28) for name in plain]
    )
    price, promotion = _prices(rng, calendar, count)
    echo = np.zeros_like(promotion)  # cupboards are full for a week after a promotion
    for lag in range(1, 8):
        echo[:, lag:] |= promotion[:, :-lag]
    days = calendar.days
    listed, delisted = np.zeros(count, np.int64), np.full(count, days + FUTURE_DAYS)
    fate = rng.random(count)
    listed[fate < 0.15] = (days * rng.uniform(0.1, 0.8, count))[fate < 0.15]
    listed[fate < 0.04] = days - rng.integers(8, 46, count)[fate < 0.04]
    gone_long = (fate > 0.96) if days < 500 else np.arange(count) % 33 == 17
    delisted[fate > 0.96] = (days * rng.uniform(0.6, 0.98, count))[fate > 0.96]
    delisted[gone_long] = max(days - 400, days // 3)
    listed[gone_long] = 0
    return _Range(
        names=names,
        level=level,
        weighed=np.array([name in _WEIGHED for name in plain]) & ~slow,
        season=np.where(strong, rng.uniform(0.8, 1.5, count), rng.uniform(0.0, 0.25, count)),
        peak=peak,
        weekend=rng.uniform(0.1, 0.5, count),
        elasticity=rng.uniform(0.8, 2.6, count),
        price=price,
        promotion=promotion,
        echo=echo & ~promotion,
        listed=listed,
        delisted=delisted,
    )


def _prices(rng: np.random.Generator, calendar: _Calendar, count: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Shelf price (euros) and promotion per item and day: a step about once a year, campaigns of a week."""
    length = len(calendar.dates)
    steps = np.where(rng.random((count, length)) < 1 / 330, rng.uniform(0.0, 0.09, (count, length)), 0.0)
    base = np.exp(rng.normal(0.9, 0.6, count))[:, None] * np.exp(np.cumsum(steps, axis=1))
    weeks = (np.arange(length) - calendar.weekday + 6) // 7
    number_of_weeks = int(weeks.max()) + 1
    campaign = rng.random((count, number_of_weeks)) < rng.uniform(0.02, 0.12, count)[:, None]
    depth = rng.choice([0.1, 0.15, 0.2, 0.25, 0.33], (count, number_of_weeks))
    promotion = campaign[:, weeks] & (calendar.weekday != 6)
    regular = np.maximum(np.round(base * 10) / 10 - 0.01, 0.19)
    reduced = np.maximum(np.round(regular * (1 - depth[:, weeks]) * 20) / 20 - 0.01, 0.09)
    price: Floats = np.where(promotion, reduced, regular).round(2)
    return price, promotion


# --- What is sold ---------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Process:
    """What the units of a store's items are drawn from: the logarithm of their mean (items × all days), to which the
    `wave` of history belongs (items × days), and the shape of the gamma noise about it (items × 1).
    """

    log_mean: Floats
    wave: Floats
    spread: Floats
    weighed: NDArray[np.bool_]

    def drawn(self, rng: np.random.Generator, wave: Floats, first: int) -> Floats:
        """Units (kilograms of what is weighed) of the days of `wave`, of which the earliest is the day `first`."""
        days = wave.shape[1]
        log_mean = self.log_mean[:, first : first + days] + wave
        noise = rng.gamma(self.spread, 1 / self.spread, (len(wave), days))
        intensity = np.exp(np.clip(log_mean, -8, 8)) * noise
        sold: Floats = rng.poisson(intensity).astype(np.float64)
        return np.where(self.weighed[:, None], np.round(intensity, 3), sold)


def _process(
    rng: np.random.Generator, calendar: _Calendar, store: _Store, range_: _Range, steady: NDArray[np.bool_]
) -> _Process:
    """The process of the store's items; the `steady` ones sell at least 60 a day and vary little."""
    days, items = calendar.days, store.items
    weekday = np.array([-0.15, -0.2, -0.12, 0.0, 0.5, 0.6, -0.4])[calendar.weekday]
    yearly = np.cos(calendar.year_angle[None] - range_.peak[items, None]) * range_.season[items, None]
    discount = np.log(range_.price[items] / range_.price[items, :1])
    level = range_.level[items] * store.size * np.exp(rng.normal(0, 0.25, len(items)))
    log_mean = (
        np.log(np.where(steady, np.maximum(level, 60.0), level))[:, None]
        + weekday * (0.6 + range_.weekend[items, None])
        + yearly
        + calendar.holiday_effect * rng.uniform(0.5, 1.3, len(items))[:, None]
        - range_.elasticity[items, None] * discount
        + 0.3 * range_.promotion[items]
        - 0.12 * range_.echo[items]
        + rng.normal(0, 0.08, len(items))[:, None] * np.arange(len(calendar.dates)) / 365
    )
    wave = np.where(steady[:, None], 0.0, _drift(rng, len(items), days))
    spread = np.where(steady, 400.0, rng.uniform(8, 40, len(items)))[:, None]
    return _Process(log_mean, wave, spread, range_.weighed[items])


def true_futures(*, series: int, days: int, end: date, seed: int, steps: int, draws: int) -> dict[Key, Floats]:
    """What the items of the demo of these arguments may sell in the `steps` days after `end`: `draws` (draws × steps)
    of the process that made their history, given that history. 0 where a store is closed or does not list the item.

    The shifted items sell more still, and each round has other large orders: nobody but the one who announces them
    knows which. Empty shelves are left out, and so are the last four items of the first store.
    """
    calendar = _calendar(days, end)
    stores = _stores(np.random.default_rng([seed, 1]), calendar, series)
    range_ = _range(np.random.default_rng([seed, 2]), calendar, 1 + max(int(store.items.max()) for store in stores))
    found: dict[Key, Floats] = {}
    for number, store in enumerate(stores):
        past = _history(np.random.default_rng([seed, 3, number]), calendar, store, range_, special=not number)
        rng = np.random.default_rng([seed, 5, number])
        paths = np.stack([_future(rng, past, days, steps) for _ in range(draws)])
        for at, item in enumerate(store.items.tolist()[: None if number else -4]):
            found[store.name, range_.names[item]] = paths[:, at]
    return found


def _future(rng: np.random.Generator, past: _History, days: int, steps: int) -> Floats:
    """One draw of what the items of a store sell in the `steps` days after its history (items × steps)."""
    process, who = past.process, past.customers
    wave = _drift(rng, len(past.steady), steps, process.wave[:, -1]) * ~past.steady[:, None]
    sold = process.drawn(rng, wave, days) * np.where(past.steady, demo_plans.SHIFT, 1.0)[:, None]
    for begin in range(days, days + steps, demo_plans.ROUND):
        for one in who.round(rng, begin):
            sold[one.item, one.first - days : one.last + 1 - days] += one.units
    return demo_plans.in_units(sold, process.weighed) * who.trading[:, days : days + steps]


def _steady(store: _Store, range_: _Range, days: int) -> NDArray[np.bool_]:
    """The store's items that a canteen buys every day: best sellers without much of a season that stay in the range.

    They are those whose level shifts (see `demo_plans`). The last four items of the store are left out.
    """
    items = store.items[:-4]
    stays = (range_.listed[items] == 0) & (range_.delisted[items] > days) & (range_.season[items] < 0.3)
    order = np.argsort(np.where(stays, -range_.level[items], np.inf), kind="stable")
    found = np.zeros(len(store.items), np.bool_)
    found[[int(i) for i in order[: demo_plans.SHIFTED] if stays[i]]] = True
    return found


def _drift(rng: np.random.Generator, items: int, days: int, last: Floats | None = None) -> Floats:
    """A slow wave of fashion in the logarithm of demand: first-order autoregression, deviation 0.12; it goes on from
    the `last` values, if given.
    """
    keep = 0.97
    shocks = rng.normal(0, 0.12 * math.sqrt(1 - keep**2), (days, items))
    if last is None:
        shocks[0] /= math.sqrt(1 - keep**2)
    else:
        shocks[0] += keep * last
    for day in range(1, days):
        shocks[day] += keep * shocks[day - 1]
    return shocks.T


def _stock_outs(rng: np.random.Generator, items: int, days: int) -> NDArray[np.bool_]:
    """Days on which shelves are empty: a third of the items runs out about every 200 days, for two to nine days."""
    starts = rng.random((items, days)) < np.where(rng.random(items) < 0.33, 1 / 200, 0)[:, None]
    out = np.zeros((items, days), np.bool_)
    for item, day in np.argwhere(starts):
        out[item, day : day + int(rng.integers(2, 10))] = True
    return out


@dataclass(frozen=True, slots=True)
class _History:
    """What the items of a store sell up to now (`demand`: items × days), by which `process`, and to which large
    `customers`; which items are `steady`; where one is `listed` (items × all days); what shifted and was ordered.
    """

    process: _Process
    steady: NDArray[np.bool_]
    customers: demo_plans.Customers
    demand: Floats
    listed: NDArray[np.bool_]
    shifted: list[int]
    orders: list[demo_plans.Order]


def _history(
    rng: np.random.Generator, calendar: _Calendar, store: _Store, range_: _Range, *, special: bool
) -> _History:
    days, items = calendar.days, store.items
    steady = _steady(store, range_, days) if special else np.zeros(len(items), np.bool_)
    process = _process(rng, calendar, store, range_, steady)
    demand = process.drawn(rng, process.wave, 0)
    demand[_stock_outs(rng, len(items), days) & ~steady[:, None]] = 0.0
    trading, day = store.trading(calendar), np.arange(len(calendar.dates))
    listed = (day >= range_.listed[items, None]) & (day < range_.delisted[items, None])
    if special:
        open_days = np.flatnonzero(trading[:days])
        demand[-4], demand[-3] = 3.0, 0.0
        demand[-2:] = np.maximum(demand[-2:], 1.0)
        listed[-4:] = day >= np.array([0, 0, open_days[-1], open_days[-10]])[:, None]
    who = demo_plans.customers(demand, listed & trading, steady, special=special)
    demand, shifted, orders = demo_plans.befall(rng, demand, who, range_.weighed[items], steady)
    return _History(process, steady, who, demand, listed, shifted, orders)


def _write_store(  # noqa: PLR0913 - a store, and where all that is told of it goes
    database: sqlite3.Connection,
    rng: np.random.Generator,
    calendar: _Calendar,
    store: _Store,
    range_: _Range,
    plans: demo_plans.Plans,
    *,
    special: bool,
) -> None:
    days, items = calendar.days, store.items
    past = _history(rng, calendar, store, range_, special=special)
    demand, listed = past.demand, past.listed.copy()
    trading, day = store.trading(calendar), np.arange(len(calendar.dates))
    found = demand, past.shifted, past.orders
    names = [range_.names[item] for item in items]
    price = range_.price[items, days - 1]
    demo_plans.plan_store(plans, rng, store.name, names, items.tolist(), found, price, calendar.dates, guesses=special)
    never = ~(listed & trading)[:, :days].any(axis=1)
    listed[never] = True  # what the chain gave up before this store opened is sold here all the same
    in_range = listed & (day >= store.opens) & (day < store.closes)
    told = (listed & trading)[:, :days]
    if store.name == _ROWS_FOR_SALES:
        sold = told & (demand > 0)
        told = np.where(sold.any(axis=1, keepdims=True), sold, told)
    _insert(database, "sales", _columns(calendar, store, range_, told, demand))
    _insert(database, "covariates", _columns(calendar, store, range_, in_range, None))


def _columns(
    calendar: _Calendar, store: _Store, range_: _Range, where: NDArray[np.bool_], sold: Floats | None
) -> list[list[object]]:
    """The columns to be inserted: a row for each (item, day) in `where`, with what was `sold`, if given."""
    rows, columns = np.nonzero(where)
    items = store.items[rows]
    names, dates = np.array(range_.names, object), np.array(calendar.dates, object)
    return [
        [store.name] * len(rows),
        names[items].tolist(),
        dates[columns].tolist(),
        *([sold[rows, columns].tolist()] if sold is not None else []),
        range_.price[items, columns].tolist(),
        range_.promotion[items, columns].astype(int).tolist(),
    ]


def _insert(database: sqlite3.Connection, table: str, values: list[list[object]]) -> None:
    marks = ", ".join("?" * len(values))
    database.executemany(f"INSERT INTO {table} VALUES ({marks})", zip(*values, strict=True))  # noqa: S608


# --- What is wrong with it ------------------------------------------------------------------------------------------
def _soil(
    database: sqlite3.Connection, rng: np.random.Generator, each: int, span: tuple[str, str], spared: list[str]
) -> dict[str, int]:
    """Make `each` rows of every kind unusable, strictly within `span`; says how many of each reason."""
    copy = "INSERT INTO sales SELECT store, item, {date}, {sales}, price, promotion FROM sales WHERE rowid = ?"
    changes = {
        "missing_target": "UPDATE sales SET sales = NULL WHERE rowid = ?",
        "not_a_number": "UPDATE sales SET sales = 'n/a' WHERE rowid = ?",
        "infinite": "UPDATE sales SET sales = 9e999 WHERE rowid = ?",
        "negative": "UPDATE sales SET sales = -1 - abs(sales) WHERE rowid = ?",
        "bad_timestamp": "UPDATE sales SET date = '31.02.' || substr(date, 1, 4) WHERE rowid = ?",
        "after_now": copy.format(date="'2099-12-31'", sales="sales"),
        "duplicate": copy.format(date="date", sales="sales + rowid % 2"),
    }
    marks = ", ".join("?" * len(spared))
    usable = f"SELECT rowid FROM sales WHERE date > ? AND date < ? AND item NOT IN ({marks})"  # noqa: S608
    rows = database.execute(usable, (*span, *spared)).fetchall()
    chosen = [rows[index] for index in rng.choice(len(rows), each * len(changes), replace=False)]
    for number, statement in enumerate(changes.values()):
        database.executemany(statement, chosen[number * each : (number + 1) * each])
    return dict.fromkeys(changes, each)


def _facts(
    database: sqlite3.Connection,
    path: Path,
    end: date,
    dirty: Mapping[str, int],
    special: list[Key],
    span: tuple[str, str],
) -> DemoFacts:
    a_year_ago = (end - timedelta(days=365)).isoformat()
    newest_rows = "SELECT store, item FROM sales WHERE date < '2099' GROUP BY store, item HAVING max(date) < ?"
    everything = "SELECT count(*), count(DISTINCT store), count(DISTINCT item) FROM sales"
    rows, stores, items = database.execute(everything).fetchone()
    (series,) = database.execute("SELECT count(*) FROM (SELECT DISTINCT store, item FROM sales)").fetchone()
    (categories,) = database.execute("SELECT count(DISTINCT category) FROM items").fetchone()
    return DemoFacts(
        path=path,
        stores=stores,
        items=items,
        series=series,
        rows=rows,
        covariate_rows=database.execute("SELECT count(*) FROM covariates").fetchone()[0],
        first=date.fromisoformat(span[0]),
        last=date.fromisoformat(span[1]),
        dirty=dirty,
        constant=special[0],
        all_zero=special[1],
        newest=special[2],
        short=special[3],
        ended=tuple(database.execute(newest_rows, (a_year_ago,)).fetchall()),
        rows_for_sales=_ROWS_FOR_SALES if stores > _STORES.index(_ROWS_FOR_SALES) else "",
        categories=categories,
        changes=dict(database.execute("SELECT author, count(*) FROM changes GROUP BY author").fetchall()),
    )
