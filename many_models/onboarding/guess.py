"""What a stranger's table means: keys, timestamp, target, frequency and known covariates, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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
    choose_frequency,
    choose_horizon,
    choose_keys,
    choose_known,
    choose_negatives,
    choose_target,
    choose_time,
    find_leaks,
    unit_of,
)
from many_models.onboarding.exposure import check_exposure
from many_models.onboarding.findings import warnings_of
from many_models.onboarding.grid import listed
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

    from many_models.onboarding.grid import Reading
    from many_models.onboarding.readers import TableKind, TableReader
    from many_models.onboarding.row_meaning import Missing
    from many_models.onboarding.value_types import Column

FILE_ROWS, SQL_ROWS = 3_000_000, 1_000_000
DEFAULT_TABLE = "sales"
ONLY_SERIES = "series"  # the key that a table of one series is given
_SEASON = {"h": 24, "D": 7, "W": 52, "M": 12, "Q": 4, "Y": 1}
_GRAIN = {"h": "day", "D": "day", "W": "week", "M": "month", "Q": "month", "Y": "month"}
SOURCE_PASSWORD = "MANY_MODELS_SOURCE_PASSWORD"  # noqa: S105  the secret's name


@dataclass(frozen=True)
class InferredSettings:
    """What a table means, in the names that the source will have (`renamed` maps original → those that changed).

    `kind` says what `location` is; `rows` were looked at (`complete`: all there are), `series` found in them between
    `first` and `last`. `added_key` is a constant column to be added because the table holds one series.
    `columns` is how `load_file` reads each column. `url` is a database's, with an absolute path where it is a file, and
    without the password where the user gave one (`password`).
    `totals` mark rows to be left out, `variants` are names of keys to be replaced, `plan_after` is the time after which
    rows without a target are the plan.
    """

    location: str
    kind: TableKind
    table: Inferred[str]
    covariates_table: Inferred[str]
    keys: Inferred[tuple[str, ...]]
    timestamp: Inferred[str]
    target: Inferred[str]
    frequency: Inferred[str]
    season: Inferred[int]
    horizon: Inferred[int]
    known: Inferred[tuple[str, ...]]
    exposure: Inferred[str]
    negatives: Inferred[Any]
    start: date
    last: date
    rows: int
    series: int
    complete: bool
    warnings: tuple[str, ...]
    columns: Mapping[str, Column] = field(repr=False)
    profile: TableProfile = field(repr=False)
    missing: Inferred[Missing]
    missing_on: Inferred[dict[str, Missing]]
    missing_at: Inferred[dict[str, Missing]]
    aggregate: Inferred[Any]
    timezone: Inferred[str]
    available: Inferred[str]
    sold_out: Inferred[str]
    open_hours: Inferred[float]
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    added_key: str = ""
    url: str = ""
    password: bool = False
    readings: tuple[Reading, ...] = ()
    totals: Mapping[str, Sequence[str]] = field(default_factory=dict[str, "Sequence[str]"])
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, "Mapping[str, str]"])
    plan_after: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def reader(self) -> TableReader:
        """The file, to be read in the way that it was looked at."""
        return open_table(self.location, sheet=self.options["sheet"], first=self.options["first"])

    @property
    def choices(self) -> dict[str, Inferred[object]]:
        """Every guess by the name of its setting, for a table that people read."""
        names = (
            "table covariates_table keys timestamp target frequency aggregate missing missing_on missing_at available "
            "sold_out open_hours timezone season horizon known exposure negatives"
        ).split()
        found: dict[str, Inferred[object]] = {name: getattr(self, name) for name in names}
        return {name: choice for name, choice in found.items() if choice.value or name == "known"}

    def to_toml(self, source_url: str, table: str = "") -> str:
        """A many_models.toml with these guesses, their reasons as comments. `table` defaults to the guessed one."""
        import tomlkit

        grain = _GRAIN[unit_of(self.frequency.value)]
        sections: dict[str, list[tuple[str, object, str]]] = {
            "source": [
                ("url", source_url, ""),
                ("table", table or self.table.value, "" if table else _why(self.table)),
            ],
            "data": [
                ("keys", list(self.keys.value), _why(self.keys)),
                ("timestamp", self.timestamp.value, _why(self.timestamp)),
                ("target", self.target.value, _why(self.target)),
                ("known", list(self.known.value), _why(self.known)),
                ("frequency", self.frequency.value, _why(self.frequency)),
                ("missing", self.missing.value, _why(self.missing)),
                ("country", "", 'not guessed; an ISO code such as "DE" adds its public holidays'),
                ("start", self.start, "the first day in the data"),
                ("negatives", self.negatives.value, _why(self.negatives)),
            ],
            "forecast": [("horizon", self.horizon.value, _why(self.horizon))],
        }
        of_rows: tuple[tuple[str, Inferred[Any]], ...] = (
            ("exposure", self.exposure),
            ("missing_on", self.missing_on),
            ("missing_at", self.missing_at),
            ("aggregate", self.aggregate),
            ("available", self.available),
            ("sold_out", self.sold_out),
            ("open_hours", self.open_hours),
            ("timezone", self.timezone),
        )
        for name, choice in of_rows:
            if choice.value or choice.alternatives:
                sections["data"].append((name, choice.value, _why(choice)))
        if self.password:
            told = f"the password is not written here: export {SOURCE_PASSWORD}=…, or {SOURCE_PASSWORD}_FILE=its file"
            sections["source"].insert(1, ("credential", "password", told))
        if self.covariates_table.value:
            sections["source"].append(("covariates_table", self.covariates_table.value, _why(self.covariates_table)))
        if grain != "day":
            sections["partitions"] = [("grain", grain, "as the data's frequency")]
        document = tomlkit.document()
        document.add(
            tomlkit.comment(
                f"Guessed by `many-models init {_one_line(self.location)}`: check it, then `many-models run`."
            )
        )
        for warning in self.warnings:
            document.add(tomlkit.comment(f"Warning: {_one_line(warning)}"))
        for name, entries in sections.items():
            section = tomlkit.table()
            for key, value, reason in entries:
                if reason:
                    section.add(tomlkit.comment(_one_line(reason)))
                section.add(key, _inline(value))
            document.add(tomlkit.nl())
            document.add(name, section)
        return tomlkit.dumps(document)


def _inline(value: object) -> object:
    """A mapping as it is written in one line."""
    if not isinstance(value, dict):
        return value
    import tomlkit

    table = tomlkit.inline_table()
    table.update(value)
    return table


def _why(choice: Inferred[Any]) -> str:
    other = f"; or: {', '.join(choice.alternatives)}" if choice.alternatives else ""
    return f"{choice.confidence}: {choice.reason}{other}" if choice.reason else ""


def _one_line(text: str) -> str:
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


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
    from many_models.adapters.sql.connections import split_password

    url, named = _as_url(location)
    public, password = split_password(url) if url else ("", "")
    chosen = Inferred(table or named or DEFAULT_TABLE, "given" if table or named else "")
    if url:
        chosen = _choose_table(url, table or named)
        reader: TableReader = SqlTable(url, chosen.value, SQL_ROWS)
        rows, more = head(reader, SQL_ROWS)
    else:
        reader = open_table(location, sheet=sheet, first=first)
        rows, more = head(reader, FILE_ROWS)
    told = {"keys": keys, "timestamp": [timestamp], "target": [target], "known": known or (), "exposure": [exposure]}
    _require(rows.column_names, told)
    totals = {} if url else totals_in(rows)
    look = _Look.of(without(rows, totals), reader, tuple(keys), timestamp, target, styles or {}, now)
    if planned := look.planned():
        sold = look.rows.filter(pa.array(~planned.mask))
        look = _Look.of(sold, reader, tuple(keys), timestamp, target, styles or {}, now)
    profile, time, found_target = look.profile, look.time, look.target
    found_frequency = choose_frequency(profile, frequency)
    leaks = find_leaks(profile, found_target.value)
    stock = choose_stock(profile, found_target.value)
    leaks |= {choice.value: "it says when there was stock" for choice in stock[:2] if choice.value}
    found_known = choose_known(profile, found_target.value, known, leaks)
    if exposure and exposure not in found_known.value:
        found_known = replace(found_known, value=(*found_known.value, exposure))
    how = infer_aggregate(profile, found_target.value, found_frequency.value, aggregate)
    if how.value and known is None:
        found_known = steady_in_periods(profile, found_known, found_frequency.value)
    summed = "" if how.value == "count" else found_target.value
    absent = infer_missing(profile, summed, found_frequency.value, missing, summed=how.value in {"sum", "count"})
    plan = _plan_table(url, chosen.value, time.value, found_known.value, planned)
    start, last = _first_and_last(profile, reader)
    if more and not len(profile.early):
        start = min(start, _earliest(reader, time.value, look.columns[time.value]) or start)
    names, added = (look.keys.value, "") if look.keys.value else ((ONLY_SERIES,), ONLY_SERIES)
    if added and url:
        raise InputError(f"{reader} holds one series and no column to name it: make a view with a constant key column")
    renamed = _renamed(look.rows.column_names, names, found_known.value, added)
    if renamed and url:
        raise InputError(
            f"columns {listed(list(renamed))} have names that the product uses itself: rename them in a view"
        )
    unit = unit_of(found_frequency.value)
    warnings = [
        *reader.notes,
        *_told(totals, look.variants, planned, plan.value, _early_text(profile)),
        *alike_in(profile, look.keys.value),
        *warnings_of(profile, found_target.value, found_frequency.value, reader.kind, how.value, absent.missing.value),
        *([f"only the first {rows.num_rows:,} rows were looked at"] if more else []),
    ]
    zone = _zone_of(look.columns[time.value], unit, how.value)
    return InferredSettings(
        location=location if not url else f"{public}::{named}" if named else public,
        kind=reader.kind,
        table=chosen,
        covariates_table=plan,
        keys=_with_names(look.keys, names, renamed),
        timestamp=time,
        target=found_target,
        frequency=found_frequency,
        season=Inferred(_SEASON[unit], f"what {found_frequency.value} data repeat after"),
        horizon=choose_horizon(profile, unit),
        known=_with_names(found_known, found_known.value, renamed),
        missing=absent.missing,
        missing_on=absent.missing_on,
        missing_at=absent.missing_at,
        aggregate=how,
        timezone=zone,
        exposure=check_exposure(profile, found_target.value, exposure),
        available=stock[0],
        sold_out=stock[1],
        open_hours=stock[2],
        negatives=choose_negatives(profile, found_target.value),
        start=start,
        last=last,
        rows=rows.num_rows,
        series=profile.dated_series,
        complete=not more,
        warnings=tuple(warnings),
        columns=look.columns,
        renamed=renamed,
        added_key=added,
        url=public,
        password=bool(password),
        readings=tuple(reader.readings),
        totals=totals,
        variants=look.variants,
        plan_after=planned.last if planned and plan.value else None,
        profile=profile,
        options={"sheet": sheet, "first": first},
    )


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
