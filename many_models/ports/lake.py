"""The lake: versioned tables of everything that the product knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    import pyarrow as pa


Scalar = str | int


@dataclass(frozen=True, slots=True)
class Filter:
    """A conjunction of simple conditions on rows; empty: all rows.

    `among` maps a column (string or integer) to the values it may have; `since` ≤ `column` < `before` in time.
    """

    among: Mapping[str, Sequence[Scalar]] = field(default_factory=dict[str, Sequence[Scalar]])
    since: datetime | None = None
    before: datetime | None = None
    column: str = "ds"


@dataclass(frozen=True, slots=True)
class VacuumResult:
    """What a vacuum deleted: the number of files and their total size in bytes."""

    files: int = 0
    bytes: int = 0

    def __add__(self, other: VacuumResult) -> VacuumResult:
        return VacuumResult(self.files + other.files, self.bytes + other.bytes)


@runtime_checkable
class Lake(Protocol):
    """Versioned tables of rows, each changed by one atomic commit at a time. Picklable: workers read from it."""

    def replace(self, table: str, rows: pa.Table, where: Filter, partition_by: Sequence[str] = ()) -> int:
        """Put `rows` in place of the rows that `where` names, in one commit; make the table if it is not there.

        New columns are added (null in older rows); a column that `rows` lack is null in them. `partition_by` counts
        when the table is made. No rows: only the deletion. Returns the table's new version. Raises InputError when
        a row is outside `where` or a column changes its type, ConflictError when another commit touched those rows.
        """
        ...

    def read(self, table: str, where: Filter | None = None, columns: Sequence[str] = ()) -> pa.Table:
        """The rows that `where` names, all columns unless `columns` are named. Raises MissingTableError."""
        ...

    def version(self, table: str) -> int | None:
        """The table's newest version, or None when there is no such table."""
        ...

    def fingerprint(self, table: str) -> str:
        """A text that changes whenever the table does, "" where there is no such table; found without reading it."""
        ...

    def tables(self) -> frozenset[str]:
        """The names of the tables."""
        ...

    def prune(self, older: timedelta) -> VacuumResult:
        """Put small files together, and delete for good what no version younger than `older` names, of all tables.

        Rows and schemas stay as they are; what a reader or a writer that began within `older` uses is not touched.
        """
        ...

    def damaged(self) -> Mapping[str, Mapping[str, str]]:
        """Table → file → why it cannot be read, of the newest version of each table. Reads every file."""
        ...

    def put_aside(self, table: str) -> None:
        """Leave the files out of the table that `damaged` names; their rows are gone. They are kept beside it. A table
        whose log cannot be read is not a table any more.
        """
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...
