"""What several rows of a series and period mean, and what a period without a row means, by evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from many_models.onboarding.column_roles import TARGETS, Inferred, is_receipt_number
from many_models.onboarding.frequency import unit_of
from many_models.onboarding.profile import codes_of, name_suggests
from many_models.settings import WEEKDAYS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from many_models.onboarding.profile import TableProfile

Missing = Literal["unknown", "zero", "closed"]
Aggregate = Literal["", "sum", "mean", "count"]
_FEW = 0.02  # a share of periods or rows that is not a rule of the table
_LEVELS = "price temperature temp rate percent pct ratio level share stock inventory kw load index score".split()
_ORDERS = "order invoice receipt transaction ticket bill beleg bon rechnung auftrag facture pedido kassenbon".split()
_EXPECTED = 6  # rows that a weekday would have if it were like others, before none says that it is closed
_SITES = 200  # values of the first key that are looked at one by one
_TOLD = 60  # periods that can tell what a store's missing rows mean
_CELLS = 4_000_000  # of the series × period matrix that the evidence is taken from


def periods_of(ds: NDArray[np.datetime64], frequency: str) -> NDArray[np.int64]:
    """The number of the period that each time (datetime64[us]) is in: hours, days, weeks, months … since 1970."""
    unit = unit_of(frequency)
    if unit == "h":
        return ds.astype("datetime64[h]").astype(np.int64)
    days = ds.astype("datetime64[D]")
    if unit == "D":
        return days.astype(np.int64)
    if unit == "W":
        names = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
        first = names.index(frequency.partition("-")[2]) if frequency.partition("-")[2] in names else 0
        return (days.astype(np.int64) + 3 - first) // 7
    months = days.astype("datetime64[M]").astype(np.int64)
    return months // {"M": 1, "Q": 3, "Y": 12}[unit]


def infer_aggregate(
    profile: TableProfile, target: str, frequency: str, given: str | None = None
) -> Inferred[Aggregate]:
    """How several rows of a series and period become one; "" where there is one row each. `given` is taken."""
    if given is not None:
        return Inferred(given, "given")  # pyright: ignore[reportReturnType]
    if is_receipt_number(profile, target):
        return Inferred("count", "a row is one that was sold: rows are counted", "likely", ("--target",))
    dated = ~np.isnat(profile.ds)
    rows = np.flatnonzero(dated)
    period = codes_of(periods_of(profile.ds[rows], frequency))
    groups = codes_of(profile.series[rows] * (int(period.max()) + 1) + period)
    counts = np.bincount(groups)
    repeated = 1 - len(counts) / len(rows)
    off = _off_grid(profile, rows, frequency)
    if repeated <= _FEW and not off and not _some_are_repeated(profile, rows, groups, counts, period):
        return Inferred("", "one row for each series and period", "sure")
    how: Aggregate = "mean" if name_suggests(target, _LEVELS) else "sum"
    if not off and repeated <= _FEW:
        several = f"{int((counts > 1).sum()):,} of {len(counts):,} series and periods with rows have several"
        return Inferred(how, f"{several}, where most periods have none: each is a sale", "likely", ('aggregate = ""',))
    if repeated > _FEW and _same_rows(profile, rows, groups, counts):
        reason = f"{repeated:.0%} of the rows are there twice, with the same values: an export loaded twice"
        return Inferred("", reason, "likely", (f"aggregate = {how}",))
    if repeated > _FEW:
        many = int(np.argmax(counts))
        values = profile.columns[target].values[rows][groups == many]
        finite = values[np.isfinite(values)]
        said = " + ".join(f"{value:g}" for value in finite[:4]) + (" + …" if len(finite) > 4 else "")
        reason = (
            f"{len(rows) / len(counts):.1f} rows a series and period; for example {said} is read as {finite.sum():g}, "
            f"while one row each would keep {finite[0]:g} alone"
            if len(finite)
            else f"{len(rows) / len(counts):.1f} rows a series and period"
        )
        return Inferred(how, reason, "likely", ('aggregate = ""',))
    return Inferred(
        how, f"{off:,} rows are dated within a period and not on its first day: they belong to it", "likely"
    )


def _some_are_repeated(
    profile: TableProfile,
    rows: NDArray[np.int64],
    groups: NDArray[np.int64],
    counts: NDArray[np.int64],
    period: NDArray[np.int64],
) -> bool:
    """Whether rows are single sales: at most half of the periods have one, and by chance some have several."""
    if int((counts > 1).sum()) < 3 or _same_rows(profile, rows, groups, counts):
        return False
    periods = np.unique(profile.ds[rows].astype("datetime64[D]"))
    days = int((periods[-1] - periods[0]).astype(np.int64)) + 1
    steps = max(int(period.max()) + 1, round(days * (int(period.max()) + 1) / max(1, len(periods))))
    return len(counts) < 0.5 * profile.series_count * steps


def _order_column(profile: TableProfile, target: str) -> str:
    """The column that names the order or receipt that a row is of, "" where there is none."""
    for name, column in profile.columns.items():
        if name in {target, profile.time.name} or name in profile.keys or column.kind not in {"text", "number"}:
            continue
        many = len(column.levels) > 0.1 * profile.rows
        if many and name_suggests(name, _ORDERS) and not name_suggests(name, TARGETS) and column.kind != "time":
            return name
    return ""


def _off_grid(profile: TableProfile, rows: NDArray[np.int64], frequency: str) -> int:
    """How many rows are not on the label of their period."""
    unit, ds = unit_of(frequency), profile.ds[rows]
    days = ds.astype("datetime64[D]")
    if unit in {"h", "D"}:
        return int((ds != ds.astype(f"datetime64[{unit}]")).sum())
    if unit == "W":
        names = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
        return int(((days.astype(np.int64) + 3) % 7 != names.index(frequency.partition("-")[2])).sum())
    months = days.astype("datetime64[M]")
    label = (months + 1).astype("datetime64[D]") - 1 if frequency.split("-", maxsplit=1)[0].endswith("E") else months
    return int((days != label.astype("datetime64[D]")).sum())


def _same_rows(
    profile: TableProfile, rows: NDArray[np.int64], groups: NDArray[np.int64], counts: NDArray[np.int64]
) -> bool:
    """Whether rows of a series and period agree in every column, as in an export that was loaded twice."""
    if int(np.median(counts[counts > 1])) != 2:
        return False
    whole = groups
    for column in profile.columns.values():
        whole = codes_of(whole * len(column.levels) + column.codes[rows])
    different = (int(whole.max()) + 1 - len(counts)) / max(1, int((counts > 1).sum()))
    return different < 0.1


def steady_in_periods(
    profile: TableProfile, known: Inferred[tuple[str, ...]], frequency: str
) -> Inferred[tuple[str, ...]]:
    """`known` without columns that differ within one series and period: a receipt's price is not a plan."""
    rows = np.flatnonzero(~np.isnat(profile.ds))
    period = codes_of(periods_of(profile.ds[rows], frequency))
    groups = codes_of(profile.series[rows] * (int(period.max()) + 1) + period)
    several = int((np.bincount(groups) > 1).sum())
    kept, left = list[str](), list[str]()
    for name in known.value:
        column = profile.columns[name]
        both = codes_of(groups * len(column.levels) + column.codes[rows])
        differ = int(both.max()) - int(groups.max())
        (left if differ > 0.05 * max(1, several) else kept).append(name)
    if not left:
        return known
    reason = f"{known.reason}; left out, since they differ from row to row of one period: {', '.join(left)}"
    return Inferred(tuple(kept), reason, known.confidence, (*known.alternatives, *left))


@dataclass(frozen=True)
class MissingRows:
    """What a period without a row means: in general, by weekday, and for single values of the first key."""

    missing: Inferred[Missing]
    missing_on: Inferred[dict[str, Missing]]
    missing_at: Inferred[dict[str, Missing]] = Inferred({}, "")  # noqa: RUF009  (it is frozen)


def infer_missing(
    profile: TableProfile, target: str, frequency: str, given: str = "", *, summed: bool = False
) -> MissingRows:
    """What periods without a row mean, by how they lie and by what the rows that are there say; `given` is taken,
    and no `target` means that rows are counted.

    `summed` says that a period's rows are summed up, as receipts: a period without one sold nothing.

    Weekdays without rows are closed. Gaps that all series of the first key share are closed days. Where no row is zero
    and gaps come independently of each other, as between the events of a Poisson process, nothing was sold. Where zeros
    are in rows of their own, a missing row is unknown. Where values of the first key differ in that, each has its own
    meaning.
    """
    if given:
        return MissingRows(Inferred(given, "given"), Inferred({}, ""))  # pyright: ignore[reportArgumentType]
    sparse = _Presence.of(profile, target, frequency)
    if sparse is None:
        return MissingRows(Inferred("unknown", "too few periods to tell", "likely"), Inferred({}, ""))
    inside, there = sparse.inside, sparse.there
    weekdays = _closed_weekdays(sparse) if unit_of(frequency) == "D" else {}
    if weekdays:
        open_days = ~np.isin((sparse.periods + 3) % 7, [WEEKDAYS.index(day) for day in weekdays])
        inside = inside & open_days
    on: Inferred[dict[str, Missing]] = Inferred(
        weekdays, f"no rows on {', '.join(day.title() for day in weekdays)}s: closed" if weekdays else "", "likely"
    )
    gaps = inside & ~there
    share = gaps.sum() / max(1, inside.sum())
    if summed and (share <= _FEW or sparse.zeros < 0.2 * share):
        reason = f"rows are summed up, and a period without one ({share:.1%} of them) sold nothing"
        return MissingRows(Inferred("zero", reason + sparse.example(gaps), "likely", ('missing = "unknown"',)), on)
    if share <= _FEW:
        few: Inferred[Missing] = Inferred("unknown", f"{share:.1%} of the periods have no row", "sure")
        return MissingRows(few, on, _by_site(profile, target, frequency, few, weekdays)[1])
    order = _order_column(profile, target)
    if order and share > 0.5 and sparse.zeros < 0.2 * share:
        reason = f"{share:.0%} of the periods have no row, and {order} makes a row an order: a row only when one came"
        return MissingRows(Inferred("zero", reason + sparse.example(gaps), "likely", ('missing = "unknown"',)), on)
    found = _meaning_of_gaps(sparse, inside, gaps, float(share))
    general, at = _by_site(profile, target, frequency, found, weekdays)
    return MissingRows(general, on, at)


def _by_site(
    profile: TableProfile, target: str, frequency: str, found: Inferred[Missing], weekdays: dict[str, Missing]
) -> tuple[Inferred[Missing], Inferred[dict[str, Missing]]]:
    """What missing rows mean in general, which is `found` of all rows, and for those values of the first key that are
    otherwise: a till that exports sales alone beside stores that write zeros, too.
    """
    tills, writers, count = dict[str, str](), dict[str, float](), 0
    for site, sparse in _sites(profile, target, frequency):
        inside, count = sparse.inside, count + 1
        if weekdays:
            inside = inside & ~np.isin((sparse.periods + 3) % 7, [WEEKDAYS.index(day) for day in weekdays])
        gaps = inside & ~sparse.there
        share = float(gaps.sum() / max(1, inside.sum()))
        if sparse.zeros > _FEW:
            writers[site] = share
        elif share > _FEW and inside.sum() >= _TOLD:
            own = _meaning_of_gaps(sparse, inside, gaps, share)
            if own.value == "zero":
                tills[site] = own.reason
    if not tills or not writers:
        return found, Inferred({}, "")
    site, reason = next(iter(tills.items()))
    key, named = profile.keys[0], ", ".join([*tills][:3]) + (f" and {len(tills) - 3:,} more" if len(tills) > 3 else "")
    why = f"{len(tills):,} of {count:,} values of {key} write rows for sales only ({named}), others write zeros, too"
    if len(tills) * 2 > count:
        at: dict[str, Missing] = {name: "unknown" for name, share in writers.items() if share > _FEW}
        return Inferred("zero", why, "likely", ('missing = "unknown"',)), Inferred(at, why, "likely")
    general = found if found.value != "zero" else Inferred[Missing]("unknown", why, "likely", ('missing = "zero"',))
    return general, Inferred(dict.fromkeys(tills, "zero"), f"{why}. {site}: {reason}", "likely")


def _sites(profile: TableProfile, target: str, frequency: str) -> Iterator[tuple[str, _Presence]]:
    """Each value of the first of several keys, where they are at most _SITES, and which rows its series have."""
    if len(profile.keys) < 2:
        return
    rows, first = profile.some_series, profile.columns[profile.keys[0]]
    codes = codes_of(profile.group(profile.keys[:1], rows))
    if not 2 <= int(codes.max()) + 1 <= _SITES:
        return
    for code in range(int(codes.max()) + 1):
        own = rows[codes == code]
        sparse = _Presence.of(profile, target, frequency, own)
        if sparse is not None:
            yield _shown(first.levels[first.codes[own[0]]]), sparse


def _meaning_of_gaps(
    sparse: _Presence, inside: NDArray[np.bool_], gaps: NDArray[np.bool_], share: float
) -> Inferred[Missing]:
    told = f"{share:.0%} of the periods between a series' first and last row have no row"
    example = sparse.example(gaps)
    if sparse.zeros > 0.2 * share:
        reason = f"{told}, and zeros have their own rows ({sparse.zeros:.1%}): what a missing row was is not known"
        return Inferred("unknown", reason + example, "likely", ('missing = "zero"', 'missing = "closed"'))
    shared = _shared_by_site(sparse, inside, gaps)
    if shared > 0.8 and share < 0.3:
        reason = f"{told}, and {shared:.0%} of these are days on which no series of that {sparse.site} has one"
        return Inferred("closed", reason + example, "likely", ('missing = "zero"', 'missing = "unknown"'))
    # after a gap, is the next period a gap as often as any other? outages are long, days without sales come singly
    both = inside[:, 1:] & inside[:, :-1]
    expected = _per_series(gaps, inside)
    followed = (gaps[:, 1:] & gaps[:, :-1] & both).sum()
    chance = ((gaps[:, :-1] & both) * expected[:, None]).sum()
    ratio = float(followed / max(chance, 1e-9))
    if 0.6 < ratio < 1.3 and sparse.near_zero:
        reason = f"{told}, no row is zero, and gaps come as by chance: a row only when something was sold"
        return Inferred("zero", reason + example, "likely", ('missing = "unknown"', 'missing = "closed"'))
    if sparse.near_zero and _explained_by_rate(sparse, inside, gaps):
        reason = f"{told}, no row is zero, and series that sell less have more gaps: a row only when something was sold"
        return Inferred("zero", reason + example, "likely", ('missing = "unknown"', 'missing = "closed"'))
    reason = f"{told}, many in a row: they look like records that are lost"
    return Inferred("unknown", reason + example, "unsure", ('missing = "zero"', 'missing = "closed"'))


def _per_series(gaps: NDArray[np.bool_], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    return gaps.sum(axis=1) / np.maximum(1, inside.sum(axis=1))


def _explained_by_rate(sparse: _Presence, inside: NDArray[np.bool_], gaps: NDArray[np.bool_]) -> bool:
    """Whether series have as many gaps as a Poisson process of their mean has zeros, within wide bounds."""
    mean = sparse.sums / np.maximum(1, inside.sum(axis=1))
    found, expected = _per_series(gaps, inside), np.exp(-mean)
    enough = inside.sum(axis=1) >= 30
    if enough.sum() < 3:
        return False
    near, weight = np.abs(found - expected) < 0.15, np.where(enough, found + expected, 0.0)
    return float((near * weight).sum()) > 0.6 * float(weight.sum())


def _closed_weekdays(sparse: _Presence) -> dict[str, Missing]:
    """Weekdays on which (nearly) no series has rows, while it has them on others."""
    day = (sparse.periods + 3) % 7
    shares = np.array(
        [
            (sparse.there[:, day == d].sum() / max(1, sparse.inside[:, day == d].sum())) if (day == d).any() else 1.0
            for d in range(7)
        ]
    )
    counts = np.array([sparse.inside[:, day == d].sum() for d in range(7)])
    usual = float(np.median(shares))
    closed = (shares < 0.1 * usual) & (counts >= 4) & (usual * counts >= _EXPECTED)
    return {WEEKDAYS[d]: "closed" for d in range(7) if closed[d]} if closed.any() and closed.sum() <= 4 else {}


def _shared_by_site(sparse: _Presence, inside: NDArray[np.bool_], gaps: NDArray[np.bool_]) -> float:
    """The share of gaps at which no series of the same first key has a row, where that is not a coincidence."""
    shared = total = 0
    for site in range(int(sparse.sites.max()) + 1):
        mine = sparse.sites == site
        if mine.sum() < 3:
            continue
        expected, none = inside[mine].sum(axis=0), ~sparse.there[mine].any(axis=0)
        together = none & (expected >= 3)
        shared += int(gaps[mine][:, together].sum())
        total += int(gaps[mine].sum())
    return shared / total if total else 0.0


@dataclass(frozen=True)
class _Presence:
    """Which of some series have a row in which period: arrays (series × periods), `inside` its first and last row."""

    there: NDArray[np.bool_]
    inside: NDArray[np.bool_]
    periods: NDArray[np.int64]
    sites: NDArray[np.int64]
    site: str
    sums: NDArray[np.float64]
    zeros: float
    near_zero: bool  # no value is zero, and some are as small as what is next to it
    names: list[str]

    @classmethod
    def of(
        cls, profile: TableProfile, target: str, frequency: str, rows: NDArray[np.int64] | None = None
    ) -> _Presence | None:
        """Of `rows` (default: those of some series); None for a table of a few periods."""
        rows = profile.some_series if rows is None else rows
        number = periods_of(profile.ds[rows], frequency)
        first, count = int(number.min()), int(number.max() - number.min()) + 1
        series = codes_of(profile.series[rows])
        if count < 8 or count > 100_000:
            return None
        kept = series < max(1, _CELLS // count)
        rows, number, series = rows[kept], number[kept] - first, series[kept]
        size = int(series.max()) + 1
        there = np.zeros((size, count), bool)
        there[series, number] = True
        at = np.arange(count)
        begin, end = there.argmax(axis=1), count - 1 - there[:, ::-1].argmax(axis=1)
        inside = (at >= begin[:, None]) & (at <= end[:, None])
        values = profile.columns[target].values[rows] if target else np.ones(len(rows))
        finite = np.isfinite(values)
        heads = np.zeros(size, np.int64)
        heads[series] = rows
        sites = codes_of(profile.group(profile.keys[:1], heads)) if profile.keys else np.zeros(size, np.int64)
        keys = [profile.columns[name] for name in profile.keys]
        names = [" / ".join(_shown(key.levels[key.codes[row]]) for key in keys) or "the series" for row in heads]
        sums = np.bincount(series, np.where(finite, values, 0.0), size).astype(np.float64)
        zeros = float((values[finite] == 0).mean()) if finite.any() else 0.0
        lowest = float(np.quantile(values[finite], 0.001)) if finite.any() else 0.0
        small = lowest < 0.25 * float(values[finite].mean()) if finite.any() else False
        near_zero = lowest > 0 and (small or ((not target or profile.columns[target].type.whole) and lowest <= 3))
        site = profile.keys[0] if profile.keys else ""
        return cls(there, inside, np.arange(count) + first, sites, site, sums, zeros, near_zero, names)

    def example(self, gaps: NDArray[np.bool_]) -> str:
        """Both readings of one series, in words: of that with the most gaps among those with ten rows."""
        many = np.where(self.there.sum(axis=1) >= 10, _per_series(gaps, self.inside), -1)
        row = int(many.argmax())
        held = int(self.there[row].sum())
        total, inside = float(self.sums[row]), int(self.inside[row].sum())
        if many[row] <= 0 or not held:
            return ""
        return (
            f". For example {self.names[row]}: {held} rows in {inside} periods; its mean is {total / inside:.3g} a "
            f"period where a missing row is zero, {total / held:.3g} where it is not known"
        )


def _shown(level: object) -> str:
    """A key's value as people write it: 7, and not 7.0."""
    return str(int(level)) if isinstance(level, float) and level.is_integer() else str(level)
