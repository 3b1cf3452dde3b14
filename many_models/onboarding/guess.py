"""What a stranger's table means: keys, timestamp, target, frequency and known covariates, each with its reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from many_models.errors import InputError
from many_models.onboarding.column_roles import (
    HOURS,
    TARGETS,
    TIMES,
    Confidence,
    Inferred,
    T,
    centred,
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
from many_models.onboarding.profile import TableProfile, codes_of, name_suggests
from many_models.onboarding.readers import SqlTable, head, open_file, require_table, sql_tables
from many_models.onboarding.value_types import infer_column, parse
from many_models.settings import RESERVED, kept_from_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date

    from numpy.typing import NDArray

    from many_models.onboarding.readers import TableReader
    from many_models.onboarding.value_types import Column

FILE_ROWS, SQL_ROWS = 3_000_000, 1_000_000
DEFAULT_TABLE = "sales"
ONLY_SERIES = "series"  # the key that a table of one series is given
_SEASON = {"h": 24, "D": 7, "W": 52, "M": 12, "Q": 4, "Y": 1}
_GRAIN = {"h": "day", "D": "day", "W": "week", "M": "month", "Q": "month", "Y": "month"}


@dataclass(frozen=True)
class InferredSettings:
    """What a table means, in the names that the source will have (`renamed` maps original → those that changed).

    `kind` says what `location` is; `rows` were looked at (`complete`: all there are), `series` found in them between
    `first` and `last`. `added_key` is a constant column to be added because the table holds one series.
    `columns` is how `load_file` reads each column. `url` is a database's, with an absolute path where it is a file.
    """

    location: str
    kind: Literal["csv", "parquet", "sql"]
    table: Inferred[str]
    covariates_table: Inferred[str]
    keys: Inferred[tuple[str, ...]]
    timestamp: Inferred[str]
    target: Inferred[str]
    frequency: Inferred[str]
    season: Inferred[int]
    horizon: Inferred[int]
    known: Inferred[tuple[str, ...]]
    negatives: Inferred[Literal["allow", "quarantine"]]
    start: date
    last: date
    rows: int
    series: int
    complete: bool
    warnings: tuple[str, ...]
    columns: Mapping[str, Column] = field(repr=False)
    renamed: Mapping[str, str] = field(default_factory=dict[str, str])
    added_key: str = ""
    url: str = ""

    @property
    def choices(self) -> dict[str, Inferred[object]]:
        """Every guess by the name of its setting, for a table that people read."""
        names = "table covariates_table keys timestamp target frequency season horizon known negatives".split()
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
                ("country", "", 'not guessed; an ISO code such as "DE" adds its public holidays'),
                ("start", self.start, "the first day in the data"),
                ("negatives", self.negatives.value, _why(self.negatives)),
            ],
            "forecast": [("horizon", self.horizon.value, _why(self.horizon))],
        }
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
                section.add(key, value)
            document.add(tomlkit.nl())
            document.add(name, section)
        return tomlkit.dumps(document)


def _why(choice: Inferred[T]) -> str:
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
    frequency: str = "",
    now: datetime | None = None,
) -> InferredSettings:
    """What the table at `location` means: a CSV or Parquet file, or a SQLAlchemy URL (`URL::table` names the table).

    What is given (`keys`, `timestamp` …) is taken as it is. Raises InputError when something cannot be guessed: its
    text names what is there and the flag to give. Rows later than `now` (default: the clock) count for nothing.
    """
    url, named = _as_url(location)
    chosen = Inferred(table or named or DEFAULT_TABLE, "given" if table or named else "")
    if url:
        chosen = _choose_table(url, table or named)
        reader: TableReader = SqlTable(url, chosen.value, SQL_ROWS)
        rows, more = head(reader, SQL_ROWS)
    else:
        reader = open_file(location)
        rows, more = head(reader, FILE_ROWS)
    _require(rows.column_names, {"keys": keys, "timestamp": [timestamp], "target": [target], "known": known or ()})
    comma = getattr(reader, "separator", ",") == ";"
    columns = {
        name: infer_column(
            name, rows[name], comma_first=comma, time_like=name == timestamp or name_suggests(name, TIMES)
        )
        for name in rows.column_names
    }
    time = choose_time(columns, timestamp)
    profile = TableProfile(columns, columns[time.value], now or datetime.now(UTC))
    found_keys = choose_keys(profile, tuple(keys), target)
    profile.set_keys(found_keys.value)
    found_target = choose_target(profile, target)
    found_frequency = choose_frequency(profile, frequency)
    leaks = find_leaks(profile, found_target.value)
    found_known = choose_known(profile, found_target.value, known, leaks)
    warnings = [*reader.notes, *_warnings(profile, found_target.value, found_frequency.value, reader.kind)]
    if more:
        warnings.append(f"only the first {rows.num_rows:,} rows were looked at")
    start, last = _first_and_last(profile, reader)
    if more:
        start = min(start, _earliest(reader, time.value, columns[time.value]) or start)
    names, added = (found_keys.value, "") if found_keys.value else ((ONLY_SERIES,), ONLY_SERIES)
    if added and url:
        raise InputError(f"{reader} holds one series and no column to name it: make a view with a constant key column")
    renamed = _renamed(rows.column_names, names, found_known.value, added)
    if renamed and url:
        raise InputError(f"columns {', '.join(renamed)} have names that the product uses itself: rename them in a view")
    unit = unit_of(found_frequency.value)
    return InferredSettings(
        location=location,
        kind=reader.kind,
        table=chosen,
        covariates_table=_choose_covariates_table(url, chosen.value, time.value, found_known.value),
        keys=_with_names(found_keys, names, renamed),
        timestamp=time,
        target=found_target,
        frequency=found_frequency,
        season=Inferred(_SEASON[unit], f"what {found_frequency.value} data repeat after"),
        horizon=choose_horizon(profile, unit),
        known=_with_names(found_known, found_known.value, renamed),
        negatives=choose_negatives(profile, found_target.value),
        start=start,
        last=last,
        rows=rows.num_rows,
        series=profile.series_count,
        complete=not more,
        warnings=tuple(warnings),
        columns=columns,
        renamed=renamed,
        added_key=added,
        url=url,
    )


def _require(there: Sequence[str], given: Mapping[str, Sequence[str]]) -> None:
    for flag, names in given.items():
        if missing := [name for name in names if name and name not in there]:
            raise InputError(f"--{flag} {', '.join(missing)}: the columns are {', '.join(there)}")


def _first_and_last(profile: TableProfile, reader: TableReader) -> tuple[date, date]:
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
        if (name in keys and kept_from_keys(name)) or (name in known and name in RESERVED):
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


def _choose_covariates_table(url: str, table: str, timestamp: str, known: Sequence[str]) -> Inferred[str]:
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


# --- Warnings -------------------------------------------------------------------------------------------------------
def _warnings(profile: TableProfile, target: str, frequency: str, kind: str) -> list[str]:
    column, time = profile.columns[target], profile.time
    dated = np.flatnonzero(~np.isnat(profile.ds))
    repeats = round((1 - profile.unique_share(profile.keys, dated)) * len(dated))
    advice = "; sum them up first if they are single receipts" if repeats > 0.02 * len(dated) else ""
    quarantined = {
        "rows without a date that is understood": time.unread + time.missing,
        "rows dated later than now": profile.late,
        f"values of {target} that are no numbers": column.unread,
        f"missing values of {target}": column.missing,
        "rows that repeat a series and date": repeats,
    }
    found = [f"{what}: {count:,}, to be quarantined" for what, count in quarantined.items() if count]
    if repeats:
        found[-1] += f" (the first of them counts{advice})"
    hours = [name for name in profile.columns if name_suggests(name, HOURS) and not profile.is_calendar(name)]
    if hours and not (profile.ds.astype("datetime64[h]") != profile.ds.astype("datetime64[D]"))[dated].any():
        found.append(f"{time.name} has no time of day: put it and {hours[0]} into one column for hourly forecasts")
    numbers = [name for name, other in profile.columns.items() if other.kind == "number"]
    if profile.series_count == 1 and len(numbers) > 1 and not name_suggests(target, TARGETS):
        found.append(
            f"if {', '.join(numbers[:3])} … are series, write them below one another: a row per series and date"
        )
    if time.type.or_else:
        found.append(f"the dates also read as {time.type.or_else}; check the first and last day")
    if kind == "sql" and time.type.style not in {"native", "iso", "%Y%m%d"}:
        found.append(f"the source reads dates like 2026-01-31 only: make a view that writes {time.name} so")
    found += _gaps(profile, frequency)
    if _is_noise(profile, target):
        found.append(f"{target} looks like noise around a mean: no model can beat the mean")
    return found


def _gaps(profile: TableProfile, frequency: str) -> list[str]:
    per_unit = {"h": 1 / 24, "D": 1.0, "W": 7.0, "M": 30.44, "Q": 91.3, "Y": 365.25}[unit_of(frequency)]
    rows = profile.some_series
    codes = codes_of(profile.series[rows])
    times = profile.ds[rows].astype("datetime64[s]").astype(np.int64) / 86400
    first = np.full(int(codes.max()) + 1, np.inf)
    last = np.full(len(first), -np.inf)
    np.minimum.at(first, codes, times)
    np.maximum.at(last, codes, times)
    expected = np.round((last - first) / per_unit) + 1
    missing = 1 - np.bincount(codes).sum() / expected.sum()
    found: list[str] = []
    if missing > 0.02:
        found.append(
            f"{missing:.0%} of the periods between a series' first and last row have no row (closed, or nothing sold?)"
        )
    ended = float((last < np.nanmax(last) - 26 * per_unit).mean())
    if ended > 0.05:
        found.append(
            f"{ended:.0%} of the series end more than 26 periods before the last date: the longest gone get no forecast"
        )
    return found


def _is_noise(profile: TableProfile, target: str) -> bool:
    """No lag up to 14 and no weekday or month says anything of the deviation from the series' mean."""
    rows, same = profile.some_series, profile.neighbours
    y = np.nan_to_num(profile.columns[target].values[rows])
    series = profile.series[rows]
    deviation = centred(y[:, None], series)[:, 0]
    spread = np.sqrt(_centred_mean(deviation**2, series))
    z = np.where(spread > 0, deviation / np.maximum(spread, 1e-12), 0.0)
    if len(z) < 500 or not same.any() or float((z**2).mean()) < 0.5:
        return False
    limit = 0.015 + 3.5 / np.sqrt(len(z))
    for lag in range(1, 15):
        pairs = series[lag:] == series[:-lag]
        if pairs.sum() > 200 and abs(float((z[lag:] * z[:-lag])[pairs].mean())) > limit:
            return False
    day = profile.day[rows]
    month = profile.ds[rows].astype("datetime64[M]").astype(np.int64) % 12
    for part in (day % 7, month):
        means = np.bincount(part, z, 12) / np.maximum(np.bincount(part, minlength=12), 1)
        if float((means[part] ** 2).mean()) > 0.005 + 12 * 3 / len(z):
            return False
    return True


def _centred_mean(values: NDArray[np.float64], series: NDArray[np.int64]) -> NDArray[np.float64]:
    codes = codes_of(series)
    return (np.bincount(codes, values) / np.bincount(codes))[codes]
