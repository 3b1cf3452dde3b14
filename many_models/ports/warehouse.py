"""The warehouse: where reports read forecasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from many_models.ports.lake import Filter


@dataclass(frozen=True, slots=True)
class WarehousePart:
    """Rows for one warehouse table, in place of the rows that `where` names; `key` is its primary key."""

    table: str
    rows: pa.Table
    where: Filter
    key: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WarehouseView:
    """A view for reports: a query in standard SQL, names in double quotes, each of its `tables` written `{table}`."""

    name: str
    query: str
    tables: tuple[str, ...]


@runtime_checkable
class Warehouse(Protocol):
    """The SQL warehouse that reports read."""

    def load(self, load: str, fingerprint: str, parts: Sequence[WarehousePart]) -> int:
        """Replace all `parts` and record the load, in one transaction; makes and widens tables as needed.

        Run twice, or killed half-way and run again, it ends the same. Returns the number of rows written. Raises
        InputError when a key occurs twice in a part, a row is outside its `where`, or the database cannot keep a value
        (some have no infinite numbers, some no NUL in a text).
        """
        ...

    def create_views(self, views: Sequence[WarehouseView]) -> None:
        """Make these views of tables that are there, or make them again. Raises InputError when a table is not."""
        ...

    def loads(self) -> Mapping[str, str] | None:
        """Every recorded load → its fingerprint; None where the warehouse records none, since it stores no rows."""
        ...

    def count(self, table: str, where: Filter) -> int:
        """How many rows of a table `where` names, counted in the database; 0 where there is no such table."""
        ...

    def read(self, table: str, where: Filter | None = None) -> pa.Table:
        """The rows of a table or view that `where` names; a −0.0 may come back as 0.0. Raises MissingTableError."""
        ...

    def check(self) -> str:
        """One line that says what is reached. Raises when it is not."""
        ...
