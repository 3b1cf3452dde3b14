"""What a stranger's table means: keys, timestamp, target, frequency and known covariates, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from many_models.errors import InputError
from many_models.onboarding.cleaning import alike_in, merged, totals_in, variants_in, what_are, without
from many_models.onboarding.column_roles import (
    TARGETS,
    TIMES,
    Confidence,
    Inferred,
    choose_keys,
    choose_known,
    choose_target,
    choose_time,
    find_leaks,
)
from many_models.onboarding.exposure import check_exposure
from many_models.onboarding.findings import warnings_of
from many_models.onboarding.frequency import choose_frequency, choose_horizon, choose_negatives, unit_of
from many_models.onboarding.grid import listed
from many_models.onboarding.inferred import InferredSettings
from many_models.onboarding.layout import open_table
from many_models.onboarding.profile import TableProfile, name_suggests
from many_models.onboarding.readers import SqlTable, head, require_table, sql_tables
from many_models.onboarding.row_meaning import infer_aggregate, infer_missing, steady_in_periods
from many_models.onboarding.stock_columns import choose_stock
from many_models.onboarding.value_types import infer_column, parse
from many_models.table_columns import RESERVED, is_reserved_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from numpy.typing import NDArray

    from many_models.onboarding.readers import TableReader
    from many_models.onboarding.row_meaning import MissingRows
    from many_models.onboarding.value_types import Column

FILE_ROWS, SQL_ROWS = 3_000_000, 1_000_000
DEFAULT_TABLE = "sales"
ONLY_SERIES = "series"  # the key that a table of one series is given
_SEASON = {"h": 24, "D": 7, "W": 52, "M": 12, "Q": 4, "Y": 1}


# --- The whole guess ------------------------------------------------------------------------------------------------
def infer_settings(  # noqa: PLR0913  (each flag of the command that overrules a guess)
    location: str,
    *,
    table: str = "",
    keys: Sequence[str] = (),
    timestamp: str = "",
    target: str = "",
    known: Sequence[str] | None = None,
    exposure: str = "",
    frequency: str = "",
    missing: str = "",
    aggregate: str | None = None,
    sheet: str = "",
    first: date | None = None,
    styles: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> InferredSettings:
    """What the table at `location` means: a file, a folder of files, or a SQLAlchemy URL (`URL::table` names a table).

    What is given (`keys`, `timestamp` …) is taken as it is; `styles` says how columns are written, by name. Raises
    InputError when something cannot be guessed: its text names what is there and the flag to give. Rows later than
    `now` (default: the clock) are not looked at.
    """
    opened = _Opened.of(location, table, sheet, first)
    rows, reader, url = opened.rows, opened.reader, opened.url
    told = {"keys": keys, "timestamp": [timestamp], "target": [target], "known": known or (), "exposure": [exposure]}
    _require(rows.column_names, told)
    totals = {} if url else totals_in(rows)
    look = _Look.of(without(rows, totals), reader, tuple(keys), timestamp, target, styles or {}, now)
    if planned := look.planned():
        sold = look.rows.filter(pa.array(~planned.mask))
        look = _Look.of(sold, reader, tuple(keys), timestamp, target, styles or {}, now)
    roles = _Roles.of(look, known, exposure, frequency, missing, aggregate)
    plan = _plan_table(url, opened.table.value, look.time.value, roles.known.value, planned)
    return _Finding(opened, look, roles, totals, planned, plan).settings(exposure, {"sheet": sheet, "first": first})


@dataclass(frozen=True)
class _Opened:
    """A table and its first rows. `location` and `public` have no password, `url` has it; both are "" for files."""

    location: str
    url: str
    public: str
    password: bool
    table: Inferred[str]
    reader: TableReader
    rows: pa.Table
    more: bool

    @classmethod
    def of(cls, location: str, table: str, sheet: str, first: date | None) -> _Opened:
        """Open the table of a database, or the file or folder of files."""
        from many_models.adapters.sql.connections import split_password

        url, named = _as_url(location)
        if not url:
            chosen = Inferred(table or DEFAULT_TABLE, "given" if table else "")
            file = open_table(location, sheet=sheet, first=first)
            rows, more = head(file, FILE_ROWS)
            return cls(location, "", "", password=False, table=chosen, reader=file, rows=rows, more=more)
        public, password = split_password(url)
        chosen = _choose_table(url, table or named)
        reader = SqlTable(url, chosen.value, SQL_ROWS)
        shown = f"{public}::{named}" if named else public
        rows, more = head(reader, SQL_ROWS)
        return cls(shown, url, public, bool(password), chosen, reader, rows, more)


@dataclass(frozen=True)
class _Planned:
    """Rows of the days to come: no target, and later than all rows that have one."""

    mask: NDArray[np.bool_]
    rows: int
    last: datetime


@dataclass(frozen=True)
class _Look:
    """A table's columns, and which of them are time, keys and target; keys written in two ways are one."""

    rows: pa.Table
    columns: Mapping[str, Column]
    time: Inferred[str]
    keys: Inferred[tuple[str, ...]]
    target: Inferred[str]
    variants: Mapping[str, Mapping[str, str]]
    profile: TableProfile

    @classmethod
    def of(  # noqa: PLR0913, PLR0917
        cls,
        rows: pa.Table,
        reader: TableReader,
        keys: tuple[str, ...],
        timestamp: str,
        target: str,
        styles: Mapping[str, str],
        now: datetime | None,
    ) -> _Look:
        """Raise InputError where one of them cannot be told."""
        comma = getattr(reader, "separator", ",") == ";"
        columns = {
            name: infer_column(
                name,
                rows[name],
                comma_first=comma,
                time_like=name == timestamp or name_suggests(name, TIMES),
                style=styles.get(name, ""),
            )
            for name in rows.column_names
        }
        time = choose_time(columns, timestamp)
        profile = TableProfile(columns, columns[time.value], now or datetime.now(UTC))
        found_keys = choose_keys(profile, keys, target)
        variants = variants_in(profile, found_keys.value) if reader.kind != "sql" else {}
        if variants:
            columns |= {name: merged(columns[name], names) for name, names in variants.items()}
            profile = TableProfile(columns, columns[time.value], now or datetime.now(UTC))
        profile.set_keys(found_keys.value)
        return cls(rows, columns, time, found_keys, choose_target(profile, target), variants, profile)

    def planned(self) -> _Planned | None:
        """The rows of a plan, or None where there are none."""
        column, ds = self.columns[self.target.value], self.columns[self.time.value].values
        if not column.missing:
            return None
        sold = np.isfinite(column.values) & ~np.isnat(ds)
        if not sold.any():
            return None
        last = ds[sold].max()
        mask = ~np.isfinite(column.values) & (ds > last)
        return _Planned(mask, int(mask.sum()), last.astype("datetime64[us]").item()) if mask.any() else None


@dataclass(frozen=True)
class _Roles:
    """What the other columns are, and what several rows of a period or none mean."""

    frequency: Inferred[str]
    known: Inferred[tuple[str, ...]]
    aggregate: Inferred[Any]
    absent: MissingRows
    available: Inferred[str]
    sold_out: Inferred[str]
    open_hours: Inferred[float]

    @classmethod
    def of(
        cls,
        look: _Look,
        known: Sequence[str] | None,
        exposure: str,
        frequency: str,
        missing: str,
        aggregate: str | None,
    ) -> _Roles:
        """Infer each from those before it; what is given is taken as it is."""
        profile, target = look.profile, look.target.value
        every = choose_frequency(profile, frequency)
        leaks = find_leaks(profile, target)
        available, sold_out, open_hours = choose_stock(profile, target)
        leaks |= {one.value: "it says when there was stock" for one in (available, sold_out) if one.value}
        found = choose_known(profile, target, known, leaks)
        if exposure and exposure not in found.value:
            found = replace(found, value=(*found.value, exposure))
        how = infer_aggregate(profile, target, every.value, aggregate)
        if how.value and known is None:
            found = steady_in_periods(profile, found, every.value)
        summed = "" if how.value == "count" else target
        absent = infer_missing(profile, summed, every.value, missing, summed=how.value in {"sum", "count"})
        return cls(every, found, how, absent, available, sold_out, open_hours)


@dataclass(frozen=True)
class _Finding:
    """All that was found out about a table."""

    opened: _Opened
    look: _Look
    roles: _Roles
    totals: Mapping[str, Sequence[str]]
    planned: _Planned | None
    plan: Inferred[str]

    def settings(self, exposure: str, options: Mapping[str, Any]) -> InferredSettings:
        """The record of it. Raise InputError where no row has a date, or a database needs other names."""
        opened, look, roles, profile = self.opened, self.look, self.roles, self.look.profile
        start, last = self._days()
        added = "" if look.keys.value else ONLY_SERIES
        renamed = self._new_names(added)
        unit = unit_of(roles.frequency.value)
        return InferredSettings(
            location=opened.location,
            kind=opened.reader.kind,
            table=opened.table,
            covariates_table=self.plan,
            keys=_with_names(look.keys, look.keys.value or (added,), renamed),
            timestamp=look.time,
            target=look.target,
            frequency=roles.frequency,
            season=Inferred(_SEASON[unit], f"what {roles.frequency.value} data repeat after"),
            horizon=choose_horizon(profile, unit),
            known=_with_names(roles.known, roles.known.value, renamed),
            missing=roles.absent.missing,
            missing_on=roles.absent.missing_on,
            missing_at=roles.absent.missing_at,
            aggregate=roles.aggregate,
            timezone=_zone_of(look.columns[look.time.value], unit, roles.aggregate.value),
            exposure=check_exposure(profile, look.target.value, exposure),
            available=roles.available,
            sold_out=roles.sold_out,
            open_hours=roles.open_hours,
            negatives=choose_negatives(profile, look.target.value),
            start=start,
            last=last,
            rows=opened.rows.num_rows,
            series=profile.dated_series,
            complete=not opened.more,
            warnings=self._warnings(),
            columns=look.columns,
            renamed=renamed,
            added_key=added,
            url=opened.public,
            password=opened.password,
            readings=tuple(opened.reader.readings),
            totals=self.totals,
            variants=look.variants,
            plan_after=self.planned.last if self.planned and self.plan.value else None,
            profile=profile,
            options=options,
        )

    def _days(self) -> tuple[date, date]:
        """The first and the last day; a file that was not looked at whole is read on for its first one."""
        reader, look = self.opened.reader, self.look
        start, last = _first_and_last(look.profile, reader)
        if self.opened.more and not len(look.profile.early):
            start = min(start, _earliest(reader, look.time.value, look.columns[look.time.value]) or start)
        return start, last

    def _new_names(self, added: str) -> dict[str, str]:
        """New names for columns of a file; a database's columns keep theirs, so that there it is an error."""
        reader, url = self.opened.reader, self.opened.url
        if added and url:
            raise InputError(
                f"{reader} holds one series and no column to name it: make a view with a constant key column"
            )
        keys = self.look.keys.value or (added,)
        renamed = _renamed(self.look.rows.column_names, keys, self.roles.known.value, added)
        if renamed and url:
            raise InputError(
                f"columns {listed(list(renamed))} have names that the product uses itself: rename them in a view"
            )
        return renamed

    def _warnings(self) -> tuple[str, ...]:
        """What was done to the rows and what looks odd in them, in sentences."""
        opened, look, roles, profile = self.opened, self.look, self.roles, self.look.profile
        how, missing = roles.aggregate.value, roles.absent.missing.value
        return (
            *opened.reader.notes,
            *_told(self.totals, look.variants, self.planned, self.plan.value, _early_text(profile)),
            *alike_in(profile, look.keys.value),
            *warnings_of(profile, look.target.value, roles.frequency.value, opened.reader.kind, how, missing),
            *([f"only the first {opened.rows.num_rows:,} rows were looked at"] if opened.more else []),
        )


def _told(
    totals: Mapping[str, Sequence[str]],
    variants: Mapping[str, Mapping[str, str]],
    planned: _Planned | None,
    plan: str,
    early: str,
) -> list[str]:
    """What was done to the rows, in sentences."""
    found = [f"rows whose {name} is {listed(texts)} are {what_are(texts)}: left out" for name, texts in totals.items()]
    for name, pairs in variants.items():
        shown = listed([f"{variant!r} = {usual!r}" for variant, usual in pairs.items()], 3)
        found.append(f"{len(pairs):,} names of {name} are another written differently, read as one: {shown}")
    if planned and not plan:
        found.append(
            f"{planned.rows:,} rows after {planned.last:%Y-%m-%d} have no target and no known covariate: left out"
        )
    elif planned:
        found.append(f"{planned.rows:,} rows after {planned.last:%Y-%m-%d} have no target: the plan, in table {plan}")
    return [*found, early] if early else found


def _early_text(profile: TableProfile) -> str:
    if not len(profile.early):
        return ""
    shown = listed([str(day) for day in profile.early], 3)
    rows = f"{profile.early_rows:,} rows are dated {shown}"
    return f"{rows}, years before all others, like typing errors: data start after them"


def _zone_of(column: Column, unit: str, aggregate: str) -> Inferred[str]:
    """The time zone whose days are meant, where moments with a zone are summed up to days or longer."""
    found = re.fullmatch(r"timestamp\[\w+, tz=([\w/+-]+)\]", column.raw)
    if (
        unit == "h"
        or not aggregate
        or column.type.style != "native"
        or not found
        or found[1] == "UTC"
        or "/" not in found[1]
    ):
        return Inferred("", "")
    return Inferred(found[1], "the moments' own zone: its days are summed up", "likely")


def _require(there: Sequence[str], given: Mapping[str, Sequence[str]]) -> None:
    for flag, names in given.items():
        if missing := [name for name in names if name and name not in there]:
            raise InputError(f"--{flag} {', '.join(missing)}: the columns are {listed(there)}")


def _first_and_last(profile: TableProfile, reader: TableReader) -> tuple[date, date]:
    """The first and the last day, but for those that look like typing errors."""
    days = profile.ds[~np.isnat(profile.ds)]
    if not len(days):
        raise InputError(
            f"{reader}: no row has a date in {profile.time.name!r} that is understood and not later than now"
        )
    return days.min().astype("datetime64[D]").item(), days.max().astype("datetime64[D]").item()


def _with_names(
    choice: Inferred[tuple[str, ...]], names: Sequence[str], renamed: Mapping[str, str]
) -> Inferred[tuple[str, ...]]:
    return replace(choice, value=tuple(renamed.get(name, name) for name in names))


def _as_url(location: str) -> tuple[str, str]:
    """(SQLAlchemy URL, table) when `location` is a database, else ("", "")."""
    where, _, table = location.partition("::")
    head_ = "sqlite:///"
    path = Path(where.removeprefix(head_))
    if where.startswith(head_):
        return f"{head_}{path.absolute()}", table
    if re.match(r"^[a-z][a-z0-9_]*(\+[a-z0-9_]+)?://", where):
        return where, table
    if path.is_file():
        with path.open("rb") as file:
            if file.read(6) == b"SQLite":
                return f"{head_}{path.absolute()}", table
    return "", ""


def _renamed(names: Sequence[str], keys: Sequence[str], known: Sequence[str], added: str) -> dict[str, str]:
    """New names for used columns whose names the product keeps for itself."""
    taken = {name.casefold() for name in (*names, added)}
    renamed: dict[str, str] = {}
    for name in names:
        if (name in keys and is_reserved_key(name)) or (name in known and name in RESERVED):
            new = next(f"{name}{'_' * n}" for n in range(1, 99) if f"{name}{'_' * n}".casefold() not in taken)
            renamed[name] = new
    return renamed


def _earliest(reader: TableReader, name: str, like: Column) -> date | None:
    """The first day of a file that was too long to be looked at whole."""
    if isinstance(reader, SqlTable):
        return None
    first: date | None = None
    for batch in reader.batches():
        times = parse(batch[name].unique(), like.type)
        times = times[~np.isnat(times)]
        if len(times):
            day = times.min().astype("datetime64[D]").item()
            first = day if first is None else min(first, day)
    return first


# --- Table and time -------------------------------------------------------------------------------------------------
_TABLE_WORDS = [*TARGETS, "umsatz", "history", "fact", "transactions", "train", "data"]
_OTHER_TABLES = (
    "forecast predict covariate calendar price test dim lookup submission quarantine log meta holiday".split()
)


def _choose_table(url: str, named: str) -> Inferred[str]:
    if named:
        require_table(url, named)
        return Inferred(named, "given")
    there = sql_tables(url)
    scores: dict[str, float] = {}
    for name in there:
        try:
            rows, _ = head(SqlTable(url, name, 1000), 1000)
        except InputError:
            continue  # an empty table
        columns = [
            infer_column(column, rows[column], time_like=name_suggests(column, TIMES)) for column in rows.column_names
        ]
        kinds = {column.kind for column in columns}
        if "time" in kinds and "number" in kinds:
            targets = any(name_suggests(column.name, TARGETS) for column in columns)
            scores[name] = (
                2 * targets
                + 2 * name_suggests(name, _TABLE_WORDS)
                - 3 * name_suggests(name, _OTHER_TABLES)
                + rows.num_rows / 1000
            )
    if not scores:
        raise InputError(f"no table with a date and a number among {', '.join(there) or 'none'}; name one with --table")
    best, *others = sorted(scores, key=lambda name: -scores[name])
    close = [name for name in others if scores[name] > scores[best] - 1]
    confidence: Confidence = "unsure" if close else "sure" if not others else "likely"
    return Inferred(
        best, "the table that looks most like sales", confidence, tuple(f"--table {name}" for name in others)
    )


def _plan_table(url: str, table: str, timestamp: str, known: Sequence[str], planned: _Planned | None) -> Inferred[str]:
    """The table of what is known of the future: one of the database, or the plan that a file has after its sales."""
    if planned and known and not url:
        why = f"{planned.rows:,} rows without a target after {planned.last:%Y-%m-%d}"
        return Inferred(f"{table}_plan", why, "sure")
    if not url or not known:
        return Inferred("", "")
    for name in sql_tables(url):
        if name == table:
            continue
        try:
            rows, _ = head(SqlTable(url, name, 10), 10)
        except InputError:
            continue
        if {timestamp, *known} <= set(rows.column_names):
            return Inferred(name, f"it has {timestamp} and {', '.join(known)}", "likely")
    return Inferred("", "")
