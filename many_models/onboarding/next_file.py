"""Tomorrow's file, or a plan, into the source that `init` made: checked against the settings, and safe to repeat."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from many_models.errors import InputError, UnavailableError
from many_models.keys import folded, quoted
from many_models.onboarding.cleaning import totals_in, without
from many_models.onboarding.files import FILE
from many_models.onboarding.frequency import unit_of
from many_models.onboarding.grid import Reading, listed
from many_models.onboarding.layout import open_table
from many_models.onboarding.load import COLUMNS, Target, rows_for
from many_models.onboarding.readers import head
from many_models.onboarding.value_types import ColumnType, infer_column, is_empty, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from many_models.settings import Settings

LOADS = "many_models_loads"  # which files were loaded when, and what came of them
_ROWS = 5_000_000
_NEXT = "many_models_next"


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that were refused for one reason, and one of them."""

    rows: int
    text: str


@dataclass
class LoadResult:
    """What became of a file's rows. `rows` = added + changed + same + refused."""

    rows: int = 0
    added: int = 0
    changed: int = 0
    same: int = 0
    plan_rows: int = 0
    plan_table: str = ""
    refused: dict[str, Refused] = field(default_factory=dict[str, Refused])
    new_series: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])
    readings: Sequence[Reading] = ()

    @property
    def refused_rows(self) -> int:
        """How many rows were refused."""
        return sum(one.rows for one in self.refused.values())

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        plain = asdict(self)
        del plain["readings"]
        return plain


def load_next_file(
    settings: Settings,
    location: str,
    *,
    plan: bool = False,
    check: bool = False,
    first: date | None = None,
    now: datetime | None = None,
) -> LoadResult:
    """Add the rows of the file at `location` to the source of the settings, or with `plan` to its plan.

    A row that is there with the same values is left alone, one of the same series and time with other values is
    replaced (where `data.aggregate` lets several rows be of one period: added, unless the same row is there as often).
    All is done in one transaction. Rows that the settings do not allow are refused, with the reason. `check` changes
    nothing. Raises InputError where a column is missing, or the source is not a SQLite file.
    """
    database = _database(settings)
    result = LoadResult()
    reader = open_table(location, first=first)
    if unclear := [reading.question for reading in reader.readings if reading.question.startswith("which day")]:
        raise InputError(f"{location}: {unclear[0]}")
    rows, more = head(reader, _ROWS)
    if more:
        raise InputError(f"{location} has more than {_ROWS:,} rows: load it in parts")
    result.rows, result.readings = rows.num_rows, tuple(reader.readings)
    try:
        with closing(sqlite3.connect(database, isolation_level=None, timeout=10)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            step = _NextFile(connection, settings, result, location, now or datetime.now(UTC))
            step.load(rows, comma_first=getattr(reader, "separator", ",") == ";", plan=plan)
            result.notes[:0] = reader.notes
            if check:
                connection.execute("ROLLBACK")
            else:
                step.record()
                connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise UnavailableError(f"{database}: {error}") from error
    return result


def _database(settings: Settings) -> Path:
    url = settings.url(settings.source.url)
    if not url.startswith("sqlite:///"):
        raise InputError(
            "the project's source is a database that others fill (source.url): load the file there; `many-models load` "
            "is for the sales.db that `init` makes from a file"
        )
    path = Path(url.removeprefix("sqlite:///"))
    if not path.is_file():
        raise InputError(f"there is no {path} yet: `many-models init FILE` makes it")
    return path


@dataclass
class _NextFile:
    """One file on its way into the source."""

    connection: sqlite3.Connection
    settings: Settings
    result: LoadResult
    location: str
    now: datetime

    def load(self, rows: pa.Table, *, comma_first: bool, plan: bool) -> None:
        """All steps, in the transaction that the caller began."""
        data, table = self.settings.data, self.settings.source.table
        there = self._columns_of(table)
        if not there:
            raise InputError(f"the source has no table {table!r}: `many-models init FILE` makes it")
        rows = self._without_totals(self._under_their_names(rows, there))
        keys = [key for key in data.keys if key in rows.column_names or not plan]
        need = [*keys, data.timestamp, *([] if plan else [data.target]), *data.known]
        if missing := [name for name in need if name not in rows.column_names]:
            raise InputError(
                f"{self.location} has no column {listed(missing)}, which the settings name; it has "
                f"{listed(rows.column_names)}. Name them alike, or change [data] in many_models.toml"
            )
        if extra := [name for name in rows.column_names if name not in there]:
            self.result.notes.append(f"columns that the source does not have are left out: {listed(extra)}")
        rows = rows.select([name for name in rows.column_names if name in there])
        targets = self._targets(rows, there, comma_first=comma_first)
        reasons, is_plan = self._judged(rows, targets, keys, plan=plan)
        self._refuse(rows, reasons)
        good = np.array([not reason for reason in reasons], bool)
        self._add_sales(rows.filter(pa.array(good & ~is_plan)), targets, there)
        self._add_plan(rows.filter(pa.array(good & is_plan)), targets, there)

    # --- columns ----------------------------------------------------------------------------------------------------
    def _columns_of(self, table: str) -> dict[str, str]:
        """Its columns and their declared types."""
        rows = self.connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()
        return {name: declared or "TEXT" for _, name, declared, *_ in rows}

    def _under_their_names(self, rows: pa.Table, there: Mapping[str, str]) -> pa.Table:
        """The file's columns under the source's names: as `init` renamed them, and whatever their case and blanks."""
        renamed = {source: name for source, name, *_ in self._kept()}
        alike = {name.strip().casefold(): name for name in there}
        names = [
            renamed.get(name) or (name if name in there else alike.get(name.strip().casefold(), name))
            for name in rows.column_names
        ]
        changed = [f"{old} is {new}" for old, new in zip(rows.column_names, names, strict=True) if old != new]
        if changed:
            self.result.notes.append(f"columns are known by other names: {listed(changed)}")
        rows = rows.rename_columns(names)
        for key in self.settings.data.keys:
            if key not in rows.column_names and (value := self._only_value(key)):
                rows = rows.append_column(key, pa.array([value] * rows.num_rows, pa.string()))
        return rows

    def _only_value(self, key: str) -> str:
        """The value of a key that the file cannot have: its own name, or that of the only series."""
        if key in {FILE, f"{FILE}_name"}:
            return Path(self.location).stem
        table = quoted(self.settings.source.table)
        found = self.connection.execute(f"SELECT DISTINCT {quoted(key)} FROM {table} LIMIT 2").fetchall()
        return str(found[0][0]) if len(found) == 1 else ""

    def _kept(self) -> list[tuple[Any, ...]]:
        there = self.connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (COLUMNS,)).fetchone()
        return self.connection.execute(f"SELECT * FROM {COLUMNS}").fetchall() if there else []

    def _targets(self, rows: pa.Table, there: Mapping[str, str], *, comma_first: bool) -> list[Target]:
        """How each column is read: as the first file was, where it is written in the same way."""
        kept = {name: (kind, style, bool(as_it_is)) for _, name, _, kind, style, as_it_is in self._kept()}
        targets: list[Target] = []
        for name in rows.column_names:
            kind, style, as_it_is = kept.get(name, ("", "", name in self.settings.data.keys))
            text = pa.types.is_string(rows[name].type)
            of_first = ColumnType(kind, style)  # pyright: ignore[reportArgumentType]
            if (
                not kind
                or (text and style in {"native", "local", "excel"})
                or not (text or style in {"native", "local"})
            ):
                of_first = infer_column(
                    name, rows[name], comma_first=comma_first, time_like=name == self.settings.data.timestamp
                ).type
            elif text and kind == "time" and not self._fits(rows[name], of_first):
                of_first = infer_column(name, rows[name], comma_first=comma_first, time_like=True).type
                self.result.notes.append(
                    f"{name} is written in another way than in the first file: as {of_first.style}"
                )
            targets.append(Target(name, name, there[name], of_first, as_it_is or of_first.kind in {"text", "empty"}))
        return targets

    @staticmethod
    def _fits(column: pa.ChunkedArray, of_first: ColumnType) -> bool:
        levels = column.combine_chunks().unique()
        return bool((~np.isnat(parse(levels, of_first))).mean() > 0.5)

    def _without_totals(self, rows: pa.Table) -> pa.Table:
        totals = totals_in(rows)
        kept = without(rows, totals)
        if kept.num_rows < rows.num_rows:
            self.result.rows -= rows.num_rows - kept.num_rows
            shown = listed([text for texts in totals.values() for text in texts])
            self.result.notes.append(f"{rows.num_rows - kept.num_rows:,} rows are totals of others ({shown}): left out")
        return kept

    # --- rows -------------------------------------------------------------------------------------------------------
    def _judged(
        self, rows: pa.Table, targets: Sequence[Target], keys: Sequence[str], *, plan: bool
    ) -> tuple[list[str], NDArray[np.bool_]]:
        """By row the reason for refusing it ("" for none), and whether it is of the plan."""
        data = self.settings.data
        of = {target.name: target for target in targets}
        ds = parse(rows[data.timestamp].combine_chunks(), of[data.timestamp].type)
        reasons = np.full(rows.num_rows, "", object)

        def refuse(mask: NDArray[np.bool_], why: str) -> None:
            reasons[mask & (reasons == "")] = why

        refuse(np.isnat(ds), f"no date in {data.timestamp} that is understood")
        for key in keys:
            refuse(is_empty(rows[key].combine_chunks()), f"no {key}")
        is_plan = np.full(rows.num_rows, plan)
        if not plan:
            raw = rows[data.target].combine_chunks()
            y = (
                parse(raw, of[data.target].type)
                if of[data.target].type.kind not in {"text", "empty"}
                else np.full(len(raw), np.nan)
            )
            empty = is_empty(raw)
            is_plan = empty & (ds > np.datetime64(self._last_sale(), "us")) & bool(data.known)
            counts = data.aggregates.get(data.target) in {"count", "count_distinct"}
            if not counts:
                refuse(empty & ~is_plan, f"no {data.target}")
                refuse(np.isnan(y) & ~empty, f"{data.target} is not a number")
            if data.negatives == "quarantine":
                refuse(y < 0, f"{data.target} is below zero, and data.negatives is quarantine")
            late = ds > np.datetime64(self.now.astimezone(UTC).replace(tzinfo=None), "us")
            refuse(late & ~is_plan, "dated later than now")
        refuse(ds < np.datetime64(data.start, "us"), f"before data.start, {data.start}")
        if not data.aggregate and not data.frequency.startswith("h"):
            refuse(~_on_grid(ds, data.frequency), f"not on the first day of a period of frequency {data.frequency}")
        return reasons.tolist(), is_plan

    def _last_sale(self) -> str:
        data = self.settings.data
        query = (
            f"SELECT max({quoted(data.timestamp)}) FROM {quoted(self.settings.source.table)} "
            f"WHERE {quoted(data.target)} IS NOT NULL AND {quoted(data.timestamp)} < '9'"
        )
        return str(self.connection.execute(query).fetchone()[0] or "1900-01-01").replace(" ", "T")

    def _refuse(self, rows: pa.Table, reasons: Sequence[str]) -> None:
        for reason in dict.fromkeys(filter(None, reasons)):
            at = [number for number, why in enumerate(reasons) if why == reason]
            row = rows.slice(at[0], 1).to_pylist()[0]
            shown = ", ".join(f"{name} {value}" for name, value in list(row.items())[:5])
            self.result.refused[reason] = Refused(len(at), shown)

    def _add_sales(self, rows: pa.Table, targets: Sequence[Target], there: Mapping[str, str]) -> None:
        data, table = self.settings.data, self.settings.source.table
        if not rows.num_rows:
            return
        self._stage(rows, self._with_known_names(rows, targets, table), there)
        self._note_new_series(table)
        if data.aggregate:
            self._merge_events(table, list(rows.column_names))
        else:
            done = self._merge(table, list(rows.column_names), [*data.keys, data.timestamp])
            self.result.added, self.result.changed, self.result.same = done

    def _add_plan(self, rows: pa.Table, targets: Sequence[Target], there: Mapping[str, str]) -> None:
        data, table = self.settings.data, self.settings.source.covariates_table
        if not rows.num_rows:
            return
        if not table:
            table = f"{self.settings.source.table}_plan"
            self.result.notes.append(
                f'the plan is used once [source] in many_models.toml has covariates_table = "{table}"'
            )
        names = [name for name in (*data.keys, data.timestamp, *data.known) if name in rows.column_names]
        if not self._columns_of(table):
            columns = ", ".join(f"{quoted(name)} {there[name]}" for name in names)
            self.connection.execute(f"CREATE TABLE {quoted(table)} ({columns})")
        kept = [target for target in targets if target.name in names]
        selected = rows.select([target.name for target in kept])
        self._stage(selected, self._with_known_names(selected, kept, self.settings.source.table), there)
        by = [name for name in names if name not in data.known]
        added, changed, same = self._merge(table, list(selected.column_names), by)
        self.result.plan_rows, self.result.plan_table = selected.num_rows, table
        self.result.added += added
        self.result.changed += changed
        self.result.same += same

    def _with_known_names(self, rows: pa.Table, targets: Sequence[Target], table: str) -> list[Target]:
        """Names of keys that differ from one of the source in case, blanks or accents alone are that one."""
        found: list[Target] = []
        for target in targets:
            replaced: dict[str, str] = {}
            if target.name in self.settings.data.keys and pa.types.is_string(rows[target.name].type):
                query = f"SELECT DISTINCT {quoted(target.name)} FROM {quoted(table)}"
                names = [str(name) for (name,) in self.connection.execute(query) if name is not None]
                by_fold: dict[str, list[str]] = {}
                for name in names:
                    by_fold.setdefault(folded(name), []).append(name)
                new = set(rows[target.name].unique().to_pylist()) - set(names) - {None}
                replaced = {name: same[0] for name in new if len(same := by_fold.get(folded(name), [])) == 1}
            if replaced:
                shown = listed([f"{new!r} = {old!r}" for new, old in replaced.items()], 3)
                self.result.notes.append(f"{len(replaced):,} names of {target.name} are written differently: {shown}")
            found.append(Target(target.source, target.name, target.declared, target.type, target.as_it_is, replaced))
        return found

    def _stage(self, rows: pa.Table, targets: Sequence[Target], there: Mapping[str, str]) -> None:
        self.connection.execute(f"DROP TABLE IF EXISTS temp.{_NEXT}")
        columns = ", ".join(f"{quoted(target.name)} {there[target.name]}" for target in targets)
        self.connection.execute(f"CREATE TEMP TABLE {_NEXT} ({columns})")
        places = ", ".join("?" * len(targets))
        self.connection.executemany(f"INSERT INTO temp.{_NEXT} VALUES ({places})", rows_for(rows, targets, ""))

    def _note_new_series(self, table: str) -> None:
        keys = ", ".join(quoted(key) for key in self.settings.data.keys)
        query = f"SELECT DISTINCT {keys} FROM temp.{_NEXT} EXCEPT SELECT DISTINCT {keys} FROM {quoted(table)}"
        self.result.new_series = ["__".join(map(str, row)) for row in self.connection.execute(query)]

    def _merge(self, table: str, names: Sequence[str], by: Sequence[str]) -> tuple[int, int, int]:
        """(added, changed, same); rows of the file that contradict each other are refused."""
        all_, keyed = ", ".join(map(quoted, names)), ", ".join(map(quoted, by))
        run, next_, into = self.connection.execute, f"temp.{_NEXT}", quoted(table)
        staged = run(f"SELECT count(*) FROM {next_}").fetchone()[0]
        run(f"DELETE FROM {next_} WHERE rowid NOT IN (SELECT min(rowid) FROM {next_} GROUP BY {all_})")
        several = f"({keyed}) IN (SELECT {keyed} FROM {next_} GROUP BY {keyed} HAVING count(*) > 1)"
        twice = run(f"SELECT {all_} FROM {next_} WHERE {several}").fetchall()
        if twice:
            reason = "rows of the file that contradict each other (same series and time, other values)"
            shown = ", ".join(f"{name} {value}" for name, value in list(zip(names, twice[0], strict=True))[:5])
            self.result.refused[reason] = Refused(len(twice), shown)
            run(f"DELETE FROM {next_} WHERE {several}")
        repeated = staged - len(twice) - run(f"SELECT count(*) FROM {next_}").fetchone()[0]
        on = " AND ".join(f"o.{quoted(name)} = n.{quoted(name)}" for name in by)
        others = [f"o.{quoted(name)} IS n.{quoted(name)}" for name in names if name not in by]
        equal = " AND ".join([on, *others])
        same = run(f"SELECT count(*) FROM {next_} n WHERE EXISTS (SELECT 1 FROM {into} o WHERE {equal})").fetchone()[0]
        run(f"DELETE FROM {next_} AS n WHERE EXISTS (SELECT 1 FROM {into} o WHERE {equal})")
        changed = run(f"SELECT count(*) FROM {next_} n WHERE EXISTS (SELECT 1 FROM {into} o WHERE {on})").fetchone()[0]
        run(f"DELETE FROM {into} AS o WHERE EXISTS (SELECT 1 FROM {next_} n WHERE {on})")
        left = run(f"SELECT count(*) FROM {next_}").fetchone()[0]
        run(f"INSERT INTO {into} ({all_}) SELECT {all_} FROM {next_}")
        return left - changed, changed, same + repeated

    def _merge_events(self, table: str, names: Sequence[str]) -> None:
        """Rows of which the source does not have as many: receipts have no key, so equal ones are counted."""
        all_, into = ", ".join(map(quoted, names)), quoted(table)
        numbered = f"SELECT {all_}, row_number() OVER (PARTITION BY {all_}) AS nth FROM temp.{_NEXT}"
        time = self.settings.data.timestamp
        equal = " AND ".join(f"o.{quoted(name)} {'=' if name == time else 'IS'} n.{quoted(name)}" for name in names)
        have = f"(SELECT count(*) FROM {into} o WHERE {equal})"
        staged = self.connection.execute(f"SELECT count(*) FROM temp.{_NEXT}").fetchone()[0]
        done = self.connection.execute(
            f"INSERT INTO {into} ({all_}) SELECT {all_} FROM ({numbered}) n WHERE n.nth > {have}"
        )
        self.result.added, self.result.same = done.rowcount, staged - done.rowcount

    def record(self) -> None:
        """Write down which file was loaded."""
        self.connection.execute(
            f"CREATE TABLE IF NOT EXISTS {LOADS} (file TEXT, sha256 TEXT, loaded_at TEXT, rows INTEGER, added INTEGER, "
            "changed INTEGER, same INTEGER, refused INTEGER)"
        )
        path, done = Path(self.location), self.result
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        at = f"{self.now.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        row = (path.name, digest, at, done.rows, done.added, done.changed, done.same, done.refused_rows)
        self.connection.execute(f"INSERT INTO {LOADS} VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)


def _on_grid(ds: NDArray[np.datetime64], frequency: str) -> NDArray[np.bool_]:
    """Whether each time is on the label of its period; days of any time of day are, at daily frequency."""
    unit, days = unit_of(frequency), ds.astype("datetime64[D]")
    if unit == "D":
        return np.ones(len(ds), bool)
    if unit == "W":
        names = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
        wanted = frequency.partition("-")[2]
        number = np.where(np.isnat(days), np.datetime64(0, "D"), days).astype(np.int64)
        return (number + 3) % 7 == names.index(wanted if wanted in names else "SUN")
    months = days.astype("datetime64[M]")
    label = (
        (months + 1).astype("datetime64[D]") - 1
        if frequency.split("-", maxsplit=1)[0].endswith("E")
        else months.astype("datetime64[D]")
    )
    return days == label
