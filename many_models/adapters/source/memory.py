"""Sales in Arrow tables in memory: for tests, notebooks, and files that were read already.

What counts as a date, as a key's text, and as undated is what `source_sql` says.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from many_models.adapters.arrow import (
    TIMESTAMP,
    between,
    day_after,
    first_and_last_day,
    midnight,
    normalize_types,
    plain_type,
    require_columns,
)
from many_models.adapters.source.fingerprints import DayFingerprints, days_of
from many_models.errors import MissingTableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from zoneinfo import ZoneInfo

    from many_models.ports import DayCount, SalesTable

BATCH_ROWS = 100_000
_DATE = re.compile(r"\d{4}-\d\d-\d\d|\d{8}", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d)(?:(:\d\d)(\.\d+)?)?\s*(Z|z|[-+](?:0\d|1[0-4]):[0-5]\d)?\s*", re.ASCII
)


class MemorySource:
    """`tables` by name, looked at again by every call, so that a test can let a day pass."""

    def __init__(self, tables: Mapping[str, pa.Table]) -> None:
        self._tables = tables

    def columns(self, table: str) -> Mapping[str, str]:
        """See `Source.columns`."""
        return {field.name: str(plain_type(field.type)) for field in self._table(table).schema}

    def days(self, sales: SalesTable, since: datetime | None = None) -> Sequence[DayCount]:
        """See `Source.days`; see `DayFingerprints` for what a fingerprint tells."""
        rows = self._sales(sales)
        if sales.changed:
            table = self._table(sales.table)
            require_columns(sales.table, table.column_names, [sales.changed])
            rows = rows.select([sales.timestamp]).append_column(" changed", table.column(sales.changed))
        rows = between(rows, sales.timestamp, midnight(since), None)
        days = DayFingerprints()
        counted = [" changed"] if sales.changed else sales.counted
        days.add(
            rows.column(sales.timestamp),
            [rows.column(name) for name in counted],
            None if sales.changed else rows.column(sales.target),
        )
        return days.counted()

    def span(self, sales: SalesTable, since: datetime, until: datetime) -> tuple[datetime, datetime] | None:
        """See `Source.span`."""
        rows = between(self._sales(sales), sales.timestamp, midnight(since), day_after(until))
        return first_and_last_day(rows.column(sales.timestamp))

    def read(self, sales: SalesTable, since: datetime, before: datetime) -> Iterator[pa.Table]:
        """See `Source.read`; tables of at most 100,000 rows."""
        rows = between(self._sales(sales), sales.timestamp, since, before)
        for start in range(0, len(rows), BATCH_ROWS):
            yield rows.slice(start, BATCH_ROWS)

    def days_of(self, sales: SalesTable, rows: pa.Table) -> Sequence[DayCount] | None:
        """See `Source.days_of`."""
        return days_of(sales, rows)

    def read_undated(self, sales: SalesTable) -> pa.Table:
        """See `Source.read_undated`."""
        rows = self._table(sales.table)
        undated = pc.is_null(self._sales(sales).column(sales.timestamp))
        written = rows.column(sales.timestamp).cast(pa.string())
        at = sales.columns.index(sales.timestamp)
        return self._sales(sales).set_column(at, sales.timestamp, written).filter(undated)

    def read_table(self, table: str, columns: Sequence[str] = ()) -> pa.Table:
        """See `Source.read_table`."""
        rows = self._table(table)
        require_columns(table, rows.column_names, columns)
        return rows.select(list(dict.fromkeys(columns)) or rows.column_names)

    def check(self) -> str:
        """See `Source.check`."""
        return f"source in memory: {len(self._tables)} tables"

    def _table(self, table: str) -> pa.Table:
        if table not in self._tables:
            names = ", ".join(map(repr, sorted(self._tables))) or "none"
            raise MissingTableError(f"the source in memory has no table {table!r}; it has {names}")
        return normalize_types(self._tables[table])

    def _sales(self, sales: SalesTable) -> pa.Table:
        """All rows as `sales.columns`: keys as string, the timestamp as timestamp[us] or null where undated."""
        rows = self._table(sales.table)
        require_columns(sales.table, rows.column_names, sales.columns)
        rows = rows.select(list(sales.columns))
        for at, name in enumerate(sales.keys):
            rows = rows.set_column(at, name, key_texts(rows.column(name)))
        return rows.set_column(len(sales.keys), sales.timestamp, moments(rows.column(sales.timestamp), sales.timezone))


def key_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Key parts as text: a whole number without decimal point, null as ""."""
    if pa.types.is_floating(column.type):
        whole = pc.equal(column, pc.floor(column))
        numbers = pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64()).cast(pa.string())
        column = pc.coalesce(numbers, column.cast(pa.string()))
    return pc.fill_null(column.cast(pa.string()), "")


def moments(column: pa.ChunkedArray, timezone: str = "") -> pa.ChunkedArray:
    """Timestamps in local time (see `SalesTable.timezone`), null where `column` is null or no date."""
    from zoneinfo import ZoneInfo  # it reads the environment when it is imported

    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            return pc.local_timestamp(column.cast(pa.timestamp("us", timezone or "UTC")))
        return column.cast(TIMESTAMP)
    if not (pa.types.is_string(column.type) or pa.types.is_integer(column.type)):
        return pa.chunked_array([pa.nulls(len(column), TIMESTAMP)])
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    zone = ZoneInfo(timezone) if timezone else None
    written = pa.array([_moment(text, zone) for text in encoded.dictionary.to_pylist()], TIMESTAMP)
    return pa.chunked_array([written.take(encoded.indices)])


def _moment(text: str, zone: ZoneInfo | None) -> datetime | None:
    """The date or moment that `text` spells, one with an offset in `zone` or as it is written; None for no date."""
    parts = _MOMENT.fullmatch(text)
    try:
        if _DATE.fullmatch(text):
            return _known(datetime.fromisoformat(text))
        if parts is None:
            return None
        day, clock, seconds, fraction, offset = (part or "" for part in parts.groups())
        moment = datetime.fromisoformat(f"{day}T{clock}{seconds}{fraction[:7]}{offset.upper()}")
        local = moment.astimezone(zone) if offset and zone is not None else moment
        return _known(local.replace(tzinfo=None))
    except (ValueError, OverflowError):
        return None


def _known(moment: datetime) -> datetime | None:
    return moment if moment.year > 1 else None
