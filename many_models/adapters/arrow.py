"""What adapters share about rows: `Filter` on Arrow tables, the types that are kept, and checks before writing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError
from many_models.keys import row_hashes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from many_models.ports import Filter, Scalar, WarehousePart

TIMESTAMP = pa.timestamp("us")
LOADS = "loads"
SHOWN = 3
HASHED_ROWS = 50_000


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that `kind` is kept as: one string type, one binary type, no dictionaries, times in µs, zones as UTC."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_timestamp(kind):
        return TIMESTAMP if kind.tz is None else pa.timestamp("us", "UTC")
    if pa.types.is_date64(kind):
        return pa.date32()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def zoneless(kind: pa.DataType) -> pa.DataType:
    """`kind` (plain) with its times, also those in lists, in UTC without a zone."""
    if pa.types.is_timestamp(kind):
        return TIMESTAMP
    return pa.list_(zoneless(kind.value_type)) if pa.types.is_list(kind) else kind


def without_zones(rows: pa.Table) -> pa.Table:
    """`rows` (plain) as a lake keeps them: every time in UTC, without a zone."""
    return rows.cast(pa.schema([(field.name, zoneless(field.type)) for field in rows.schema]))


def normalize_types(rows: pa.Table) -> pa.Table:
    """`rows` in plain types (see `plain_type`), without metadata.

    Raises InputError when a column occurs twice, or when a time does not fit into microseconds.
    """
    names = rows.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"columns occur twice: {', '.join(map(repr, twice))}")
    schema = pa.schema([(field.name, plain_type(field.type)) for field in rows.schema])
    try:
        return rows.cast(schema) if rows.schema != schema else rows.replace_schema_metadata(None)
    except pa.ArrowInvalid as error:
        raise InputError(f"values that cannot be kept as {schema.to_string()}: {error}") from error


def align_schema(table: str, rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """`rows` with the columns of `schema` first and in its order (null where `rows` lack them), then their new columns.

    Raises InputError when a column's type is not the one in `schema`, or a new column has no type.
    """
    present = set(rows.column_names)
    known: dict[str, pa.ChunkedArray] = {}
    for field in schema:
        if field.name not in present:
            known[field.name] = pa.chunked_array([pa.nulls(len(rows), field.type)])
            continue
        column = rows.column(field.name)
        if column.type != field.type and not pa.types.is_null(column.type):
            raise InputError(
                f"table {table!r}: column {field.name!r} is {field.type} there, the new rows have {column.type}; "
                "cast it, or write it under another name"
            )
        known[field.name] = column.cast(field.type)
    new = {name: rows.column(name) for name in rows.column_names if name not in known}
    if untyped := [name for name, column in new.items() if pa.types.is_null(column.type)]:
        raise InputError(
            f"table {table!r}: columns without a type (all null): {', '.join(map(repr, untyped))}; cast them"
        )
    return pa.table({**known, **new})


def matches(table: str, rows: pa.Table, where: Filter) -> pa.ChunkedArray:
    """True for each of `rows` that `where` names; a null never matches.

    Raises InputError when a column of `where` is not there or is of a type that its values are not.
    """
    check_where(table, rows.schema, where)
    mask = pa.chunked_array([pa.repeat(pa.scalar(value=True), len(rows))])
    for name, values in where.among.items():
        column = rows.column(name)
        mask = pc.and_(mask, pc.is_in(column, value_set=_values(table, name, column.type, values)))
    times = () if where.since is None and where.before is None else (rows.column(where.column),)
    for column in times:
        if where.since is not None:
            mask = pc.and_(mask, pc.greater_equal(column, pa.scalar(where.since, TIMESTAMP)))
        if where.before is not None:
            mask = pc.and_(mask, pc.less(column, pa.scalar(where.before, TIMESTAMP)))
    return pc.fill_null(mask, fill_value=False)


def check_where(table: str, schema: pa.Schema, where: Filter) -> None:
    """Raise InputError when a column of `where` is not in `schema` or is of a type that its values are not."""
    timed = where.since is not None or where.before is not None
    asked = [*where.among, *([where.column] if timed else [])]
    require_columns(table, schema.names, asked)
    for name, values in where.among.items():
        _values(table, name, schema.field(name).type, values)
    if timed and schema.field(where.column).type != TIMESTAMP:
        raise InputError(
            f"table {table!r}: column {where.column!r} is {schema.field(where.column).type}, needed {TIMESTAMP}"
        )


def _values(table: str, name: str, kind: pa.DataType, values: Sequence[Scalar]) -> pa.Array:
    wanted = str if pa.types.is_string(kind) else int if pa.types.is_integer(kind) else None
    wrong = [value for value in values if wanted is None or type(value) is not wanted]
    if wrong:
        raise InputError(f"table {table!r}: column {name!r} is {kind}, but is asked for {wrong[0]!r}")
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise InputError(
            f"table {table!r}: column {name!r} is {kind}, but is asked for a value outside it: {error}"
        ) from error


def between(rows: pa.Table, name: str, since: datetime | None, before: datetime | None) -> pa.Table:
    """The rows with since ≤ `name` < before (None: no bound); a null is outside."""
    times = rows.column(name)
    inside = pc.is_valid(times)
    if since is not None:
        inside = pc.and_(inside, pc.greater_equal(times, pa.scalar(since, TIMESTAMP)))
    if before is not None:
        inside = pc.and_(inside, pc.less(times, pa.scalar(before, TIMESTAMP)))
    return rows if not inside.null_count and pc.all(inside).as_py() else rows.filter(inside)


def midnight(moment: datetime | None) -> datetime | None:
    """The beginning of the day of `moment`."""
    return moment and moment.replace(hour=0, minute=0, second=0, microsecond=0)


def day_after(moment: datetime) -> datetime | None:
    """The beginning of the day after that of `moment`; None after the last day that there is."""
    start = datetime(moment.year, moment.month, moment.day)
    return start + timedelta(days=1) if start.date() < date.max else None


def first_and_last_day(times: pa.ChunkedArray) -> tuple[datetime, datetime] | None:
    """The days of the earliest and of the latest of `times` (timestamp[us]); None where there is none."""
    ends = pc.min_max(times).as_py()
    first, last = midnight(ends["min"]), midnight(ends["max"])
    return None if first is None or last is None else (first, last)


def require_columns(table: str, there: Sequence[str], asked: Sequence[str]) -> None:
    """Raise InputError that names the columns of `asked` that are not `there`, and those that are."""
    if missing := [name for name in asked if name not in there]:
        raise InputError(
            f"table {table!r} has no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, there))}"
        )


def require_table(table: str, rows: pa.Table, partition_by: Sequence[str]) -> None:
    """Raise InputError when `rows` cannot be in a table of the lake that is partitioned by `partition_by`.

    A partition is a folder with the value in its name, and Delta keeps an empty string there as null: both are refused.
    """
    if not rows.column_names:
        raise InputError(f"table {table!r}: rows without columns cannot make a table")
    require_columns(table, rows.column_names, partition_by)
    for name in partition_by:
        column = rows.column(name)
        if column.null_count or (pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py()):
            raise InputError(f"table {table!r} is partitioned by {name!r}, which is null or empty in some rows")


def require_within(table: str, rows: pa.Table, where: Filter) -> None:
    """Raise InputError that shows some of `rows` when they are outside `where`."""
    inside = matches(table, rows, where)
    if outside := len(rows) - (pc.sum(inside).as_py() or 0):
        columns = [*where.among, *([where.column] if where.column in rows.column_names else [])]
        shown = rows.filter(pc.invert(inside)).slice(0, SHOWN).select(columns).to_pylist()
        raise InputError(
            f"table {table!r}: {outside} of {len(rows)} rows are outside what is replaced ({where}), such as {shown}"
        )


def require_unique(table: str, rows: pa.Table, key: Sequence[str]) -> None:
    """Raise InputError that shows some of `rows` when their `key` is null or occurs twice."""
    require_columns(table, rows.column_names, key)
    keys = rows.select(list(key))
    for name in key:
        if keys.column(name).null_count:
            raise InputError(f"table {table!r}: key column {name!r} is null in {keys.column(name).null_count} rows")
    if not _perhaps_twice(keys):
        return
    plainly = [f"k{at}" for at in range(len(key))]  # Arrow takes a dot in a name for a path
    counted = keys.rename_columns(plainly).group_by(plainly).aggregate([([], "count_all")])
    twice = counted.filter(pc.greater(counted.column("count_all"), 1)).select(plainly).rename_columns(list(key))
    if len(twice):
        raise InputError(f"table {table!r}: {len(twice)} keys occur twice, such as {twice.slice(0, SHOWN).to_pylist()}")


def _perhaps_twice(keys: pa.Table) -> bool:
    """Whether two rows have the same 64 bits of hash: 8 bytes a row, where a table of the keys takes a hundred."""
    import numpy as np

    hashes = np.empty(len(keys), np.uint64)
    for start in range(0, len(keys), HASHED_ROWS):
        some = keys.slice(start, HASHED_ROWS)
        hashes[start : start + len(some)] = row_hashes(some)
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def sql_plain(table: str, rows: pa.Table) -> pa.Table:
    """`rows` as a SQL database keeps them: integers as int64, numbers as double with NaN as null, zoned times as UTC.

    Raises InputError that names the columns of any other type.
    """
    if table == LOADS:
        raise InputError(f"{LOADS!r} is where the warehouse records its loads; give the table another name")
    rows = normalize_types(rows)
    kinds = {field.name: _sql_type(field.type) for field in rows.schema}
    if strange := [f"{field.name!r} ({field.type})" for field in rows.schema if kinds[field.name] is None]:
        raise InputError(
            f"table {table!r}: a warehouse cannot keep columns {', '.join(strange)}; cast them or leave them out"
        )
    try:
        cast = [pc.cast(rows.column(name), kind) for name, kind in kinds.items()]
    except pa.ArrowInvalid as error:
        raise InputError(f"table {table!r}: {error}") from error
    kept = [_without_nan(column) if pa.types.is_floating(column.type) else column for column in cast]
    return pa.table(kept, names=rows.column_names)


def _sql_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind):
        return TIMESTAMP
    same = (pa.types.is_string, pa.types.is_boolean, pa.types.is_date32, pa.types.is_binary, pa.types.is_null)
    return kind if any(check(kind) for check in same) else None


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    nan = pc.is_nan(column)
    return pc.if_else(nan, pa.scalar(None, column.type), column) if pc.any(nan).as_py() else column


def require_part(part: WarehousePart, rows: pa.Table, key: Sequence[str] | None) -> None:
    """Raise InputError unless `rows` of `part` can be loaded into its table, whose key is `key` (None: it is new)."""
    if not part.key:
        raise InputError(f"table {part.table!r}: a part without key")
    if key is not None and list(part.key) != list(key):
        raise InputError(f"table {part.table!r} has the key ({', '.join(key)}), the new rows ({', '.join(part.key)})")
    require_unique(part.table, rows, part.key)
    require_within(part.table, rows, part.where)


def key_conflict(part: WarehousePart, found: str) -> InputError:
    """The error of new rows that have the key of rows that stay."""
    key = ", ".join(part.key)
    return InputError(
        f"table {part.table!r}: new rows have the key ({key}) of rows outside what is replaced ({part.where}): {found}"
    )
