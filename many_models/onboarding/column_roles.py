"""Which columns are keys, timestamp, target and known covariates, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import numpy as np

from many_models.errors import InputError
from many_models.onboarding.grid import listed
from many_models.onboarding.profile import codes_of, name_suggests
from many_models.onboarding.value_types import mixed_decimals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.onboarding.profile import TableProfile
    from many_models.onboarding.value_types import Column

Confidence = Literal["sure", "likely", "unsure"]
T = TypeVar("T")

LEVELS = 12  # a text covariate with more different words is too thin to learn from

_SITES = (
    "store shop branch filiale market markt site warehouse lager region state location standort outlet restaurant "
    "country land city stadt station depot plant werk zone district customer kunde tienda magasin winkel center centre"
).split()
_SHOPS = (
    "store shop branch filiale warehouse lager standort outlet restaurant depot plant tienda magasin winkel"
).split()
_ITEMS = (
    "item product produkt sku article artikel dept department abteilung brand marke category family material part well "
    "meter sensor id uid series device line route key gtin ean upc producto warengruppe channel segment name code nr "
    "title goods"
).split()
_PEOPLE = "customer kunde user order receipt invoice bestellung beleg cashier employee transaction ticket".split()
TIMES = "date ds day tag datum time timestamp week woche month monat period hour fecha jour dt zeit starting".split()
HOURS = "hour hr stunde minute".split()
_NOT_TIMES = "created updated modified loaded inserted birth expiry delivery expires".split()
TARGETS = (
    "sales quantity qty units demand menge absatz stueck stück volume sold verkauf value target consumption verbrauch "
    "orders count cnt production kwh bbl barrels passengers visits traffic rides trips vente ventas cantidad quantité "
    "aantal afzet anzahl nachfrage output footfall calls load"
).split()
_MONEY = "revenue umsatz turnover amount erlös gmv income betrag".split()
_LEAKS = (
    "lag rolling roll moving mean avg average mittel cum ytd prev previous forecast predict predicted prediction yhat "
    "fitted residual revenue umsatz turnover profit margin gewinn customers transactions stock inventory bestand "
    "onhand returns returned stockout"
).split()
_KNOWN = (
    "price preis promo aktion discount rabatt advert ad ads werbung event holiday feiertag ferien vacation school "
    "snap campaign kampagne coupon deal display feature open closed planned prix precio flyer markdown"
).split()


@dataclass(frozen=True, slots=True)
class Inferred(Generic[T]):
    """One guess: what, why, how sure, and what else it could be."""

    value: T
    reason: str
    confidence: Confidence = "sure"
    alternatives: tuple[str, ...] = ()


# --- Timestamp ------------------------------------------------------------------------------------------------------
def choose_time(columns: Mapping[str, Column], given: str) -> Inferred[str]:
    """The column that says when. Raises InputError when there is none, or the given one holds no dates."""
    if given:
        if columns[given].kind != "time":
            raise InputError(f"--timestamp {given}: its values are not dates that `init` can read; write 2026-01-31")
        return Inferred(given, "given")
    scores = {
        name: 3 * name_suggests(name, TIMES)
        - 4 * name_suggests(name, _NOT_TIMES)
        - column.unread / max(1, len(column.codes))
        for name, column in columns.items()
        if column.kind == "time" and len(column.levels) > 1
    }
    if not scores:
        raise InputError(
            f"no column with two dates among {listed(list(columns))}; name one with --timestamp, written like "
            "2026-01-31, or a year and a month in two columns"
        )
    best, *others = sorted(scores, key=lambda name: -scores[name])
    column = columns[best]
    style = {"native": "", "iso": "", "%Y%m%d": ""}.get(column.type.style, f", written as {column.type.style}")
    reason = f"dates from {np.nanmin(column.levels)!s:.10} to {np.nanmax(column.levels)!s:.10}{style}"
    if column.type.or_else:
        reason += f" (days and months could also be the other way round: {column.type.or_else})"
    confidence: Confidence = "unsure" if column.type.or_else else "likely" if others else "sure"
    return Inferred(best, reason, confidence, tuple(f"--timestamp {name}" for name in others))


# --- Keys -----------------------------------------------------------------------------------------------------------
def choose_keys(profile: TableProfile, given: tuple[str, ...], target: str) -> Inferred[tuple[str, ...]]:
    """The columns that together name a series; none when the table holds one series. Raises InputError."""
    if given:
        return Inferred(given, "given")
    if profile.unique_share(()) > 0.999 and not profile.are_events:  # receipts differ by the second
        return _keys_of_one(profile, target)
    scores = {name: _key_score(profile, name) for name in profile.columns if name != target}
    candidates = sorted((name for name in scores if scores[name] > -5), key=lambda name: -scores[name])[:9]
    if profile.are_events:
        return _with_only_site(profile, _keys_with_repeats(profile, candidates, scores), target)
    return _with_only_site(profile, _unique_keys(profile, candidates, scores), target)


def _with_only_site(profile: TableProfile, found: Inferred[tuple[str, ...]], target: str) -> Inferred[tuple[str, ...]]:
    """`found` and a column that names the only shop of an excerpt: the next file may hold another shop's rows."""
    if any(name_suggests(name, _SITES) for name in found.value):
        return found
    only = [
        name
        for name, column in profile.columns.items()
        if len(column.levels) == 1 and not column.missing and name not in {target, *found.value}
        if (column.kind == "text" or column.type.whole) and name_suggests(name, _SHOPS)
    ]
    if not only:
        return found
    return replace(
        found,
        value=(only[0], *found.value),
        reason=f"{found.reason}; {only[0]} is one and the same here, and names the series of the next file",
    )


def _unique_keys(
    profile: TableProfile, candidates: Sequence[str], scores: Mapping[str, float]
) -> Inferred[tuple[str, ...]]:
    """The fewest columns that name each row once for its date, the best-named of them first."""
    if not candidates:
        raise InputError(f"no column names the series among {listed(list(profile.columns))}; give --keys a,b")
    best: tuple[tuple[str, ...], float] | None = None
    for size in (1, 2, 3, 4):
        found: dict[tuple[str, ...], float] = {}
        for names in combinations(candidates, size):
            if profile.unique_share(names, profile.some_dates) > 0.995 and profile.unique_share(names) > 0.99:
                series = int(profile.group(names).max()) + 1
                full = profile.rows / (series * profile.dates)
                if profile.rows / series >= 3 and (full > 0.3 or min(scores[name] for name in names) >= 2):
                    found[names] = sum(scores[name] for name in names) / size + full
        if found:
            names = max(found, key=lambda names: found[names])
            best = (names, found[names])
            break
    if best is None:
        return _keys_with_repeats(profile, candidates, scores)
    names = _pair_for_id(profile, best[0], candidates)
    names = tuple(
        sorted(
            names,
            key=lambda name: (
                not name_suggests(name, _SITES) or name_suggests(name, _ITEMS[:6]),
                _levels(profile, name),
            ),
        )
    )
    series = int(profile.group(names).max()) + 1
    confidence: Confidence = "sure" if all(scores[name] >= 2 for name in names) else "likely"
    return Inferred(names, f"with the date they name every row once: {series:,} series", confidence)


def _levels(profile: TableProfile, name: str) -> int:
    return len(profile.columns[name].levels)


def _keys_of_one(profile: TableProfile, target: str) -> Inferred[tuple[str, ...]]:
    """Columns that are called like a key, where every date occurs once: one series, or few and sparse ones."""
    names = [
        name
        for name, column in profile.columns.items()
        if (column.kind == "text" or len(column.levels) == 1)
        and column.kind != "empty"
        and (name_suggests(name, _SITES) or name_suggests(name, _ITEMS))
        and len(column.levels) * 3 <= profile.rows
        and name != target
        and (len(column.levels) == 1 or not profile.is_calendar(name))
    ]
    why = "every date occurs once" + ("; by their names" if names else ": one series")
    return Inferred(tuple(sorted(names, key=lambda name: not name_suggests(name, _SITES))), why, "likely")


def _key_score(profile: TableProfile, name: str) -> float:
    """How much a column looks like a name of something; -9 when it cannot be one."""
    column = profile.columns[name]
    levels = len(column.levels)
    number = column.kind == "number"
    if (
        column is profile.time
        or column.kind not in {"text", "number", "flag"}
        or levels < 2
        or name_suggests(name, HOURS)
    ):
        return -9
    if number and not column.type.whole:
        return -9
    named = name_suggests(name, _SITES) or name_suggests(name, _ITEMS)
    if levels * 3 > profile.rows or (levels * 8 > profile.rows and not named):
        return -9
    if profile.is_calendar(name) or (profile.follows_time(name) and profile.dates < profile.rows):
        return -9
    score = 3.0 * named + 1.0 * (column.kind == "text") - 4 * name_suggests(name, _KNOWN)
    score -= (
        3 * (name_suggests(name, TARGETS) and not named)
        + 2 * (column.kind == "flag")
        + 3 * (name_suggests(name, _MONEY))
    )
    return score - 2.0 * column.missing / profile.rows


def _pair_for_id(profile: TableProfile, names: tuple[str, ...], candidates: Sequence[str]) -> tuple[str, ...]:
    """A site and an item instead of one id that says the same: packs and reports are made of sites."""
    if len(names) != 1:
        return names
    series = int(profile.group(names).max()) + 1
    for pair in combinations([name for name in candidates if name not in names], 2):
        sites = [name for name in pair if name_suggests(name, _SITES)]
        items = [name for name in pair if name_suggests(name, _ITEMS)]
        if (
            sites
            and items
            and sites != items
            and int(profile.group(pair).max()) + 1 == series
            and profile.unique_share(pair) > 0.99
        ):
            return pair
    return names


def _keys_with_repeats(
    profile: TableProfile, candidates: Sequence[str], scores: Mapping[str, float]
) -> Inferred[tuple[str, ...]]:
    named = [
        name
        for name in candidates
        if scores[name] >= 2 and not name_suggests(name, _MONEY) and not name_suggests(name, _PEOPLE)
    ]
    if not named and profile.are_events:
        return Inferred((), "no column names a store or an item: one series", "unsure")
    if not named:
        raise InputError(
            f"no columns among {listed(list(profile.columns))} name each row once for its date; give --keys a,b"
        )
    chosen: list[str] = []
    for name in named:
        series = int(profile.group([*chosen, name]).max()) + 1
        known = any(profile.follows(name, profile.columns[other].codes) for other in chosen)
        if len(chosen) < 3 and profile.rows / series >= 10 and not known:
            chosen.append(name)
    chosen = chosen or named[:1]
    chosen.sort(key=lambda name: not name_suggests(name, _SITES) or name_suggests(name, _ITEMS[:6]))
    share = 1 - profile.unique_share(chosen)
    return Inferred(tuple(chosen), f"by their names; {share:.0%} of the rows repeat a series and date", "unsure")


# --- Target ---------------------------------------------------------------------------------------------------------
def choose_target(profile: TableProfile, given: str) -> Inferred[str]:
    """The number to forecast. Raises InputError when there is none, or the given one is not a number."""
    if given:
        if profile.columns[given].kind not in {"number", "flag"}:
            mixed = mixed_decimals([profile.columns[given]])
            raise InputError(mixed or f"--target {given}: its values are not numbers")
        return Inferred(given, "given")
    numbers = [
        name
        for name, column in profile.columns.items()
        if column.kind == "number"
        and name not in profile.keys
        and profile.varies(name)
        and not _is_counter(profile, name)
    ]
    if numbers and all(is_receipt_number(profile, name) for name in numbers):
        reason = "no column says how much was sold: rows are counted, by their receipt's number"
        return Inferred(numbers[0], reason, "likely")
    numbers = [name for name in numbers if not is_receipt_number(profile, name)]
    scores = {name: _target_score(profile, name) for name in numbers if not profile.is_calendar(name)}
    ones = [
        name
        for name, column in profile.columns.items()
        if column.kind == "flag" and name not in profile.keys and name_suggests(name, (*TARGETS, *_MONEY))
    ]
    if ones and profile.are_events and all(name_suggests(name, _KNOWN) for name in scores):
        others = tuple(f"--target {name}" for name in scores)
        return Inferred(
            ones[0], "its name; a row is one that was sold, and the other numbers are prices", "likely", others
        )
    if not scores:
        found = f"no column of numbers that change with time among {listed(list(profile.columns))}"
        mixed = mixed_decimals(profile.columns.values())
        raise InputError(f"{found}. {mixed}" if mixed else f"{found}; give --target")
    for name in [name for name in scores if scores[name] > max(scores.values()) - 2.5]:
        scores[name] -= 2 * bool(_factors(profile, name, numbers))
    best, *others = sorted(scores, key=lambda name: -scores[name])
    near = [name for name in others if scores[name] > scores[best] - 0.75]
    reason = (
        "its name"
        if name_suggests(best, TARGETS) or best.casefold() == "y"
        else "the number that changes most with time"
    )
    if not others:
        reason = "the only number that changes with time"
    confidence: Confidence = "unsure" if near else "sure" if name_suggests(best, TARGETS) or not others else "likely"
    return Inferred(best, reason, confidence, tuple(f"--target {name}" for name in others[:3]))


def _is_counter(profile: TableProfile, name: str) -> bool:
    """A number of the row and nothing else."""
    column = profile.columns[name]
    return (
        len(column.levels) == profile.rows and column.type.whole and abs(abs(np.diff(column.values)).mean() - 1) < 0.01
    )


def is_receipt_number(profile: TableProfile, name: str) -> bool:
    """Whether a column numbers receipts in the order of time: whole, hardly ever falling, neither day nor money."""
    column = profile.columns[name]
    if not column.type.whole or name_suggests(name, TARGETS) or name_suggests(name, _MONEY):
        return False
    rows = np.flatnonzero(~np.isnat(profile.ds))
    values = column.values[rows].astype(np.float64)
    if len(rows) < 50 or len(column.levels) < max(20, 2 * profile.dates) or not np.isfinite(values).all():
        return False
    order = np.argsort(profile.ds[rows], kind="stable")
    ranks = np.argsort(np.argsort(values[order], kind="stable"), kind="stable")
    return float(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) > 0.98


def _target_score(profile: TableProfile, name: str) -> float:
    column = profile.columns[name]
    score = 2.0 * profile.change_rate(name) + 0.5 * column.type.whole
    score += (
        5 * (name.casefold() in {"y", "target"}) + 4 * name_suggests(name, TARGETS) + 1.5 * name_suggests(name, _MONEY)
    )
    score -= 6 * (name_suggests(name, _LEAKS) and not name_suggests(name, _MONEY)) + 5 * name_suggests(name, _KNOWN)
    score -= 1.0 * column.missing / profile.rows
    return score + 0.5 * min(1.0, _spread(profile, name))


def _spread(profile: TableProfile, name: str) -> float:
    values = profile.columns[name].values[profile.some_series]
    values = values[np.isfinite(values)]
    return float(values.std() / (abs(values).mean() + 1e-12)) if len(values) else 0.0


def _factors(profile: TableProfile, name: str, numbers: Sequence[str], must: str = "") -> tuple[str, str] | None:
    """Two other columns whose product this one is (revenue = quantity × price), `must` among them where it is given.

    Pairs that fail on a few rows are not looked at further: there are very many of them in a table of many numbers.
    """
    others = [other for other in numbers if other != name]
    if not others:
        return None
    few, all_ = profile.few_values(name), np.stack([profile.few_values(other) for other in others], axis=1)
    rows = profile.some_series[:20_000]
    for at, first in enumerate(others):
        if must and first != must:
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            product = all_[:, at, None] * all_[:, 0 if must else at + 1 :]
        bad = np.isfinite(product) & np.isfinite(few)[:, None] & ~_close(product, few[:, None])
        for offset in np.flatnonzero(bad.sum(axis=0) <= 0.1 * len(few)):
            second = others[int(offset) + (0 if must else at + 1)]
            if second != first and _is_product(profile, name, (first, second), rows):
                return first, second
    return None


def _close(product: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isclose(product, values, rtol=0.005, atol=0.011)


def _is_product(profile: TableProfile, name: str, pair: tuple[str, str], rows: NDArray[np.int64]) -> bool:
    values = profile.columns[name].values[rows]
    product = profile.columns[pair[0]].values[rows] * profile.columns[pair[1]].values[rows]
    good = np.isfinite(product) & np.isfinite(values)
    return bool(good.sum() > 20 and _close(product[good], values[good]).mean() > 0.98 and np.ptp(values[good]) > 0)


# --- Known covariates -----------------------------------------------------------------------------------------------
def find_leaks(profile: TableProfile, target: str) -> dict[str, str]:
    """Columns that are made of the target, and how that shows."""
    numbers = [
        name
        for name, column in profile.columns.items()
        if column.kind in {"number", "flag"} and name not in profile.keys and name != target
    ]
    varying = [name for name in numbers if profile.varies(name)]
    found = {name: "its name says so" for name in varying if name_suggests(name, _LEAKS)}
    for name in varying:
        if _factors(profile, name, [*varying, target], must=target):
            found[name] = "it is the target times another column"
    found |= {
        name: "it follows from the target's own values"
        for name in _explained(profile, target, varying)
        if name not in found and not _is_event(profile, name)
    }
    return found


def _is_event(profile: TableProfile, name: str) -> bool:
    """Whether a column is a flag of something planned. Sales that double on promotions tell which days had one."""
    return _levels(profile, name) <= 3 and name_suggests(name, _KNOWN)


def _explained(profile: TableProfile, target: str, names: Sequence[str]) -> list[str]:
    """The columns that a linear function of the target's last fifteen values (now included) explains."""
    rows, lags = profile.some_series[: 60_000 if len(names) < 30 else 10_000], 15
    series, y = profile.series[rows], profile.columns[target].values[rows]
    if len(rows) < 4 * lags:
        return []
    at = np.arange(lags - 1, len(rows))
    at = at[series[at] == series[at - lags + 1]]
    design = np.stack([y[at - lag] for lag in range(lags)], axis=1)
    design = np.concatenate([design, np.stack([_running_mean(y, at, width) for width in (7, 14)], axis=1)], axis=1)
    explained: list[str] = []
    usable = np.isfinite(design).all(axis=1)
    bases: dict[bytes, NDArray[np.float64]] = {}
    for name in names:
        x = profile.columns[name].values[rows][at]
        good = usable & np.isfinite(x)
        if good.sum() < 200:
            continue
        mask = np.packbits(good).tobytes()
        if mask not in bases:  # nearly always one for all columns
            bases[mask] = _basis(centred(design[good], series[at][good]))
        two = centred(x[good, None], series[at][good])[:, 0]
        total = float((two**2).sum())
        if total <= 1e-12 * max(1.0, float((x[good] ** 2).sum())):
            continue
        if float(((two @ bases[mask]) ** 2).sum()) / total > 0.9:
            explained.append(name)
    return explained


def _basis(design: NDArray[np.float64]) -> NDArray[np.float64]:
    """An orthonormal basis of the columns, whose projections are least squares for any number of targets."""
    left, sizes, _ = np.linalg.svd(design, full_matrices=False)
    return left[:, sizes > 1e-10 * max(float(sizes.max()), 1e-300)]


def _running_mean(y: NDArray[np.float64], at: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    sums = np.cumsum(np.nan_to_num(np.concatenate([[0.0], y])))
    return (sums[at + 1] - sums[at + 1 - width]) / width


def centred(values: NDArray[np.float64], series: NDArray[np.int64]) -> NDArray[np.float64]:
    """Each column of `values` less its mean over the series that a row belongs to (`series`: codes from 0)."""
    codes = codes_of(series)
    counts = np.bincount(codes)
    means = np.stack([np.bincount(codes, values[:, j]) / counts for j in range(values.shape[1])], axis=1)
    return values - means[codes]


def choose_known(
    profile: TableProfile, target: str, given: Sequence[str] | None, leaks: Mapping[str, str]
) -> Inferred[tuple[str, ...]]:
    """The covariates that are known of the days to come; `leaks` are columns to leave out, with why."""
    if given is not None:
        return Inferred(tuple(given), "given")
    chosen: dict[str, Confidence] = {}
    maybe: list[str] = []
    for name, column in profile.columns.items():
        if (
            name in {target, *profile.keys}
            or column is profile.time
            or name in leaks
            or column.kind in {"time", "empty"}
        ):
            continue
        if not profile.varies(name) or (profile.is_calendar(name) and not name_suggests(name, _KNOWN)):
            continue
        confidence = _could_be_known(profile, name)
        if confidence:
            chosen[name] = confidence
        elif column.kind != "text" or len(column.levels) <= LEVELS:
            maybe.append(name)
    for name in _redundant(profile, list(chosen)):
        del chosen[name]
    reason = (
        "prices, promotions and events are usually planned; "
        if chosen
        else "nothing looks like a price, a promotion or an event; "
    )
    if leaks:
        reason += "left out: " + ", ".join(f"{name} ({why})" for name, why in leaks.items()) + "; "
    reason += "--known names others, all of them must be known for the days to come"
    sureness: Confidence = "likely" if all(how == "likely" for how in chosen.values()) else "unsure"
    return Inferred(tuple(chosen), reason, sureness, tuple(maybe))


def _could_be_known(profile: TableProfile, name: str) -> Confidence | None:
    """`likely` by its name, `unsure` by its behaviour: an event for all, a flag of a key, a price that rarely moves."""
    column = profile.columns[name]
    if name_suggests(name, _KNOWN):
        return "likely"
    if column.kind == "text":
        common = np.bincount(column.codes).max() / profile.rows
        return "unsure" if profile.follows_time(name) and common > 0.5 else None
    if name_suggests(name, TARGETS):
        return None
    if column.kind == "flag":
        keys = [
            profile.ds_codes,
            *(
                codes_of(profile.group([key]) * profile.dates + profile.ds_codes)
                for key in profile.columns
                if profile.columns[key].kind == "text" and _levels(profile, key) < 50
            ),
        ]
        shared = [
            group for group in keys if int(group.max()) + 1 < 0.7 * profile.rows
        ]  # several rows each, so it tells
        return "unsure" if any(profile.follows(name, group) for group in shared) else None
    return "unsure" if 0 < profile.change_rate(name) < 0.1 and len(column.levels) > 3 else None


def _redundant(profile: TableProfile, names: list[str]) -> list[str]:
    """Text covariates that others tell better, that are too rare, or have too many words."""
    texts = [name for name in names if profile.columns[name].kind == "text"]
    rare = 0.995 * profile.rows
    dropped = [name for name in texts if np.bincount(profile.columns[name].codes).max() > rare]
    for fine, coarse in ((a, b) for a in texts for b in texts if a != b):
        if {fine, coarse} & set(dropped) or not profile.follows(coarse, profile.columns[fine].codes):
            continue
        dropped.append(fine if _levels(profile, fine) > LEVELS else coarse)
    return dropped
