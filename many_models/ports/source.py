"""The source: sales and covariates as the shop's own database has them, and what fills it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SalesTable:
    """Where sales are in the source, in the user's own names.

    `changed`: a column that is set whenever a row is written (a moment, or a number that grows), or "". `timezone`: the
    IANA zone of the local time that moments with a zone or an offset are read in; without it, a text with an offset
    keeps the clock time that is written, and other moments are in UTC. `aggregate`: column and how several of its
    values in a series and period become one; a `count` takes any column as target.
    """

    table: str
    keys: tuple[str, ...]
    timestamp: str
    target: str
    known: tuple[str, ...] = ()
    changed: str = ""
    timezone: str = ""
    aggregate: tuple[tuple[str, str], ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the target is a number of rows, so that its values need not be numbers."""
        return dict(self.aggregate).get(self.target, "").startswith("count")

    @property
    def counted(self) -> tuple[str, ...]:
        """What `Source.days` looks at beside the timestamp."""
        return (self.changed,) if self.changed else (*self.keys, self.target, *self.known)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read, in the order keys, timestamp, target, known."""
        return (*self.keys, self.timestamp, self.target, *self.known)


@dataclass(frozen=True, slots=True)
class DayCount:
    """One calendar day of the source: its rows that have a target, and a fingerprint that changes when rows do."""

    day: datetime
    rows: int
    fingerprint: str


@runtime_checkable
class Source(Protocol):
    """Read-only access to a table of sales, in the user's names. Values come as the source has them, good or bad."""

    def columns(self, table: str) -> Mapping[str, str]:
        """Column name → Arrow type name (`string`, `double`, `int64`, `timestamp[us]` …), in table order.

        Raises MissingTableError that names the table and the tables that are there.
        """
        ...

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """Every calendar day from `since` that has rows, in order. Rows whose timestamp is not a date are not counted.

        Where `sales.changed` names a column, a day's fingerprint tells of the number of its rows and of that column.

        Raises MissingTableError, or InputError that names the missing columns.
        """
        ...

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """The first and the last of the calendar days from that of `since` to that of `until` that have rows; None
        where none has. An index on the timestamp answers it, without a look at every row. Raises as `days`.
        """
        ...

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """The rows with since ≤ timestamp < before, in tables of bounded size, columns as `sales.columns`.

        The timestamp comes as timestamp[us] (see `SalesTable` for zones), keys as string (a null key part as ""),
        target and known columns in their own types. Raises as `days`.
        """
        ...

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """The days of `rows`, which `read` has returned for whole days, as `days` would count them: without another
        look at the source. None where only `days` can tell.
        """
        ...

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """The rows whose timestamp is null or no date: columns as `read`, but the timestamp as string."""
        ...

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """A small table whole (a table of known covariates). Raises as `days`."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...


@runtime_checkable
class Ingestion(Protocol):
    """What brings a period's rows to where the source reads them, where that is its own pipeline."""

    def run(self, period: datetime) -> str:
        """Have the period that starts at `period` brought, wait for it, and say in a line what ran.

        Asked twice at once, it is brought once. Raises InputError or PermanentError when the pipeline cannot do it,
        SettingsError when it is not there.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...
