"""Checks of raw rows: what is usable goes on under fixed names, every other row is quarantined with its reason."""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.data import aggregation
from many_models.errors import InputError
from many_models.forecasting.datasets import LARGEST as LARGEST_TARGET
from many_models.keys import SeriesKey
from many_models.table_columns import QUARANTINE, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from many_models.ports import SalesTable

Kind = Literal["number", "text"]
Reason = Literal[
    "bad_timestamp",
    "after_now",
    "missing_target",
    "not_a_number",
    "infinite",
    "too_large",
    "negative",
    "duplicate",
    "too_early",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""Every reason to quarantine a row, in the order in which they are looked for; a row has the first that fits."""

EARLIEST = datetime(1900, 1, 2)  # 1900-01-01, 1899-12-30 and 0001-01-01 are what databases write for "no date"

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_INFINITY = r"(?i)^[+-]?inf(inity)?$"
_GOOD = -1
_SPREAD = 8  # a byte for each pair of a series and a time, of which this many may be without a row


@dataclass(frozen=True, slots=True)
class CheckedRows:
    """What `check_rows` makes of a raw table; `rows.num_rows + quarantined.num_rows` is the raw table's.

    (Where rows are aggregated there are fewer.)
    `rows`: series_id (string), ds (timestamp[us]), y (double, finite), and each known covariate in its own name
    (double or string, null where unknown), in the source's order.
    `series`: series_id and the key parts (string) in the user's names, one row per series in `rows`.
    `quarantined`: series_id (string), ds (timestamp[us], null where it is not a date), row (the original as JSON),
    reason (one of `REASONS`), detail (a sentence).
    `unread_known`: known covariate → how many values of kept rows were no finite number, and became null.
    """

    rows: pa.Table
    series: pa.Table
    quarantined: pa.Table
    unread_known: Mapping[str, int]

    @property
    def reasons(self) -> dict[str, int]:
        """Reason → number of quarantined rows."""
        return dict(Counter(self.quarantined["reason"].to_pylist()))


# --- Columns --------------------------------------------------------------------------------------------------------
def check_columns(columns: Mapping[str, str], sales: SalesTable) -> dict[str, Kind]:
    """The kind of each known covariate, when `columns` (name → Arrow type name, of `Source.columns`) can be used.

    A target or covariate of a text type passes: SQLite's columns hold what was put in; `check_rows` looks at values.
    Raises InputError that names every missing or unusable column, what was found and what to do.
    """
    problems = [
        _missing(name, columns) for name in dict.fromkeys([*sales.columns, *sales.counted]) if name not in columns
    ]
    unusable = (_unusable(name, columns[name], sales) for name in sales.columns if name in columns)
    problems.extend(filter(None, unusable))
    if problems:
        there = ", ".join(map(repr, columns)) or "none"
        raise InputError(f"table {sales.table!r}: {'; '.join(problems)}. Its columns are: {there}")
    return {name: "number" if _is_numeric(columns[name]) else "text" for name in sales.known}


def _missing(name: str, columns: Mapping[str, str]) -> str:
    folded = {column.casefold(): column for column in columns}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"no column {name!r}" + (f" (did you mean {folded[near[0]]!r}?)" if near else "")


def _unusable(name: str, kind: str, sales: SalesTable) -> str:
    if name == sales.timestamp and not kind.startswith(("timestamp", "date", "string", "large_string", "null")):
        return f"the timestamp {name!r} is {kind}, needed a date, a timestamp or ISO 8601 text"
    if name == sales.target and not (_is_numeric(kind, flags=False) or _is_text(kind) or sales.counts):
        return f"the target {name!r} is {kind}, needed a number"
    if name in sales.keys and not (_is_text(kind) or kind.startswith(("int", "uint", "bool", "date", "dictionary"))):
        return f"the key {name!r} is {kind}, needed text or a whole number"
    if name in sales.known and kind.startswith(("binary", "large_binary", "list", "struct", "map")):
        return f"the known covariate {name!r} is {kind}, needed a number, a flag or text"
    return ""


def _is_numeric(kind: str, *, flags: bool = True) -> bool:
    return kind.startswith(("int", "uint", "float", "double", "halffloat", "decimal") + (("bool",) if flags else ()))


def _is_text(kind: str) -> bool:
    return kind.startswith(("string", "large_string", "null"))


# --- Rows -----------------------------------------------------------------------------------------------------------
def check_rows(  # noqa: PLR0913 - one parameter for each of the settings that it looks at
    raw: pa.Table,
    sales: SalesTable,
    *,
    now: datetime,
    negatives: Literal["allow", "quarantine"],
    frequency: str,
    kinds: Mapping[str, Kind] | None = None,
    escaped: bool = False,
) -> CheckedRows:
    """Sort the rows of `raw`, as `Source.read` or `Source.read_undated` returns them, into usable and quarantined.

    `raw` holds all rows of the periods that it covers: of several rows for one series and `ds`, the first usable one is
    kept and the others are duplicates, or where `sales.aggregate` says how, they are made one. Then a negative target
    is judged after aggregation, so that returns lower the sum. `now` is wall-clock time (UTC where it has a zone); the
    time of day is cut off unless `frequency` is finer than a day (hourly: the minutes are), and `ds` is the stamp of
    its period where that is coarser than a day. A timestamp column of strings is one in which the source found no
    dates. `kinds` (of `check_columns`) says which known covariates are numbers even if this part
    of the table holds text; without it each column's own type says so. `escaped`: see `keys.names_are_escaped`.
    """
    series_ids, codes, parts = _series(raw, sales, escaped=escaped)
    ds = _timestamps(raw[sales.timestamp], frequency)
    y, reasons, firsts = _judged(raw, sales, codes, ds, now, frequency, refused=negatives == "quarantine")
    kept, bad = np.flatnonzero(reasons == _GOOD), np.flatnonzero(reasons != _GOOD)
    known, unread = _known(raw, sales, kinds or {}, kept)
    kept_codes = codes if not len(bad) else codes[kept]
    rows = pa.table(
        {
            "series_id": series_ids.take(pa.array(kept_codes)),
            "ds": pa.array(ds if not len(bad) else ds[kept], pa.timestamp("us")),
            "y": pa.array(y if not len(bad) else y[kept], pa.float64()),
            **known,
        }
    )
    quarantined = {
        "series_id": series_ids.take(pa.array(codes[bad])),
        "ds": pa.array(ds[bad], pa.timestamp("us")),
        **_explained(raw.select(list(sales.columns)), sales, bad, reasons[bad], firsts[bad]),
    }
    negative = rows.slice(0, 0)
    if sales.aggregate:
        rows = _aggregated(rows, raw, sales, kept)
        if negatives == "quarantine":
            below = pc.less(rows["y"], 0.0)
            negative, rows = rows.filter(below), rows.filter(pc.invert(below))
        kept_codes = pc.index_in(rows["series_id"], series_ids).to_numpy()
    seen = pa.array(np.flatnonzero(np.bincount(kept_codes, minlength=len(series_ids))))
    series = pa.table({"series_id": series_ids, **parts}).take(seen)
    together = pa.concat_tables([pa.table(quarantined), _negative_sums(negative, sales)])
    return CheckedRows(rows, series, together, unread)


def _judged(  # noqa: PLR0913 - what a row is judged by
    raw: pa.Table,
    sales: SalesTable,
    codes: NDArray[np.int64],
    ds: NDArray[np.datetime64],
    now: datetime,
    frequency: str,
    *,
    refused: bool,
) -> tuple[NDArray[np.float64], NDArray[np.int8], NDArray[np.int64]]:
    """The target, what is wrong with each row, and of a duplicate the row that it repeats. `ds` become the stamps of
    their periods. Negative targets are wrong where they are `refused`, but for rows that are aggregated first.
    """
    if sales.counts:
        y, target_reasons = np.where(pc.is_valid(raw[sales.target]).to_numpy(), 1.0, np.nan), _missing_only(raw, sales)
    else:
        y, target_reasons = _target(raw[sales.target])
    reasons = np.full(raw.num_rows, _GOOD, np.int8)
    undated = np.isnat(ds) | (ds < np.datetime64(EARLIEST, "us"))
    _mark(reasons, "bad_timestamp", undated)
    _mark(reasons, "after_now", ~undated & (ds > np.datetime64(_naive(now), "us")))
    for reason, where in target_reasons:
        _mark(reasons, reason, where)
    if aggregation.is_coarse(frequency):
        ds[~undated] = aggregation.labels(ds[~undated], frequency)
    firsts = np.full(raw.num_rows, -1, np.int64)
    if not sales.aggregate:
        if refused:
            _mark(reasons, "negative", y < 0)
        repeated, firsts = _duplicates(codes, ds, reasons == _GOOD)
        _mark(reasons, "duplicate", repeated)
    return y, reasons, firsts


def _missing_only(raw: pa.Table, sales: SalesTable) -> list[tuple[Reason, NDArray[np.bool_]]]:
    return [("missing_target", pc.is_null(raw[sales.target]).to_numpy())]


def _aggregated(rows: pa.Table, raw: pa.Table, sales: SalesTable, kept: NDArray[np.int64]) -> pa.Table:
    """One row for each series and ds of `rows`, which are the rows `kept` of `raw`."""
    how = dict(sales.aggregate)
    if sales.counts and how[sales.target] == "count_distinct":
        rows = rows.set_column(rows.column_names.index("y"), "y", raw[sales.target].take(pa.array(kept)))
    times = raw[sales.timestamp].take(pa.array(kept))
    if pa.types.is_temporal(times.type):
        order = np.argsort(times.cast(pa.timestamp("us"), safe=False).to_numpy(), kind="stable")
        rows = rows.take(pa.array(order))
    ways = {**{name: way for name, way in how.items() if name != sales.target}, "y": how.get(sales.target, "sum")}
    found = aggregation.aggregate(rows, ["series_id", "ds"], ways)
    return found.set_column(2, "y", found["y"].cast(pa.float64()))


def _negative_sums(rows: pa.Table, sales: SalesTable) -> pa.Table:
    """Aggregated rows whose target is negative, as quarantined ones."""
    values = rows["y"].to_pylist()
    way = dict(sales.aggregate).get(sales.target, "sum")
    texts = {
        "row": [as_json({sales.target: value}) for value in values],
        "reason": ["negative"] * len(values),
        "detail": [
            f"the {way} of {sales.target} is {value!r}, and the settings quarantine negative values" for value in values
        ],
    }
    columns = {name: pa.array(column, pa.string()) for name, column in texts.items()}
    return pa.table({"series_id": rows["series_id"], "ds": rows["ds"], **columns})


def _naive(now: datetime) -> datetime:
    return now if now.tzinfo is None else now.astimezone(UTC).replace(tzinfo=None)


def _mark(reasons: NDArray[np.int8], reason: Reason, where: NDArray[np.bool_]) -> None:
    reasons[where & (reasons == _GOOD)] = REASONS.index(reason)


def _series(
    raw: pa.Table, sales: SalesTable, *, escaped: bool
) -> tuple[pa.Array, NDArray[np.int64], dict[str, pa.Array]]:
    """Distinct series_ids, each row's index into them, and their key parts; ids are built once per distinct key."""
    codes = np.zeros(raw.num_rows, np.int64)
    columns: list[pa.Array] = []
    for name in sales.keys:
        column = pc.fill_null(raw[name].cast(pa.string()), "").combine_chunks()
        encoded = _one_array(column).dictionary_encode()
        columns.append(encoded.dictionary)
        mixed = codes * max(len(encoded.dictionary), 1) + encoded.indices.to_numpy()
        codes = pa.array(mixed).dictionary_encode().indices.to_numpy().astype(np.int64)
    count = int(codes.max(initial=-1)) + 1
    first = np.zeros(count, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    parts = {
        name: pc.fill_null(_one_array(raw[name].take(pa.array(first)).cast(pa.string())), "") for name in sales.keys
    }
    keys = zip(*(part.to_pylist() for part in parts.values()), strict=True)
    found = [SeriesKey(key) for key in keys]
    return pa.array([key.escaped_id if escaped else key.series_id for key in found], pa.string()), codes, parts


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole, pa.ChunkedArray):  # pragma: no cover - pyarrow returns chunks only beyond 2 GB of text
        return pa.concat_arrays(whole.chunks)
    return whole


def _timestamps(column: pa.ChunkedArray, frequency: str) -> NDArray[np.datetime64]:
    if pa.types.is_temporal(column.type):
        ds = column.cast(pa.timestamp("us"), safe=False).to_numpy()
    else:
        ds = np.full(len(column), np.datetime64("NaT"), "datetime64[us]")
    if frequency.endswith(("min", "s")) and not frequency.endswith(("MS", "QS", "YS")):
        return ds
    unit = "h" if frequency.lstrip("0123456789") in {"h", "H"} else "D"
    return ds.astype(f"datetime64[{unit}]").astype("datetime64[us]")


def _target(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], list[tuple[Reason, NDArray[np.bool_]]]]:
    """The target as float64, and where it cannot be used."""
    y, unread = _numbers(column)
    with np.errstate(invalid="ignore"):
        large = np.abs(y) > LARGEST_TARGET
    missing: tuple[Reason, NDArray[np.bool_]] = ("missing_target", np.isnan(y) & ~unread)
    return y, [missing, ("not_a_number", unread), ("infinite", np.isinf(y)), ("too_large", large)]


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The values as float64 (NaN where there is none), and a mask of what is not a number."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan), np.zeros(len(column), np.bool_)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
    ):
        values = pc.fill_null(column.cast(pa.float64(), safe=False), math.nan).to_numpy()
        return values, np.zeros(len(values), np.bool_)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)):
        return np.full(len(column), np.nan), pc.is_valid(column).to_numpy()
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    empty = pc.fill_null(pc.or_(pc.equal(text, ""), pc.equal(pc.utf8_lower(text), "nan")), fill_value=True)
    number = pc.or_(pc.match_substring_regex(text, _NUMBER), pc.match_substring_regex(text, _INFINITY))
    number = pc.fill_null(number, fill_value=False)
    values = pc.if_else(number, text, pa.scalar(None, pa.string())).cast(pa.float64())
    unread = ~(empty.to_numpy() | number.to_numpy())
    return pc.fill_null(values, math.nan).to_numpy(), unread


def _duplicates(
    codes: NDArray[np.int64], ds: NDArray[np.datetime64], good: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which good rows repeat an earlier good row's series and ds, and for each of them the row that it repeats."""
    rows = np.flatnonzero(good)
    repeated = np.zeros(len(good), np.bool_)
    firsts = np.full(len(good), -1, np.int64)
    if not len(rows):
        return repeated, firsts
    everything = len(rows) == len(good)
    days = pa.array((ds if everything else ds[rows]).view(np.int64)).dictionary_encode()
    numbers = (codes if everything else codes[rows]) * len(days.dictionary) + days.indices.to_numpy()
    if _all_different(numbers):
        return repeated, firsts
    pairs = pa.array(numbers).dictionary_encode()
    order = pairs.indices.to_numpy()  # numbered by first appearance: a row is the first exactly where the maximum grows
    before = np.concatenate([[-1], np.maximum.accumulate(order)[:-1]])
    first_of = rows[order > before]
    again = order <= before
    repeated[rows[again]] = True
    firsts[rows[again]] = first_of[order[again]]
    return repeated, firsts


def _all_different(numbers: NDArray[np.int64]) -> bool:
    """Whether no number occurs twice, where that is quick to say: they are not spread too far from 0 up."""
    most = int(numbers.max()) + 1
    if most > _SPREAD * len(numbers) + _SPREAD:
        return False
    seen = np.zeros(most, np.bool_)
    seen[numbers] = True
    return int(np.count_nonzero(seen)) == len(numbers)


def _known(
    raw: pa.Table, sales: SalesTable, kinds: Mapping[str, Kind], kept: NDArray[np.int64]
) -> tuple[dict[str, pa.ChunkedArray | pa.Array], dict[str, int]]:
    known: dict[str, pa.ChunkedArray | pa.Array] = {}
    unread: dict[str, int] = {}
    for name in sales.known:
        column = raw[name] if len(kept) == raw.num_rows else raw[name].take(pa.array(kept))
        if kinds.get(name, "number" if _is_numeric(str(column.type)) else "text") == "text":
            known[name] = _as_text(column)
            continue
        values, no_number = _numbers(column)
        no_number |= np.isinf(values)
        if count := int(no_number.sum()):
            unread[name] = count
        known[name] = pa.array(values, pa.float64(), mask=np.isnan(values) | no_number)
    return known, unread


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_null(column.type) or pa.types.is_string(column.type):
        return column.cast(pa.string())
    if pa.types.is_floating(column.type):  # 3.0 in a text column is what was written as 3
        whole = pc.fill_null(pc.equal(column, pc.floor(column)), fill_value=False)
        if (
            pc.all(pc.or_(whole, pc.is_null(column))).as_py() is not False
            and pc.all(pc.is_finite(column)).as_py() is not False
        ):
            return column.cast(pa.int64(), safe=False).cast(pa.string())
    return column.cast(pa.string())


# --- Quarantine -----------------------------------------------------------------------------------------------------
def _explained(
    originals: pa.Table, sales: SalesTable, bad: NDArray[np.int64], reasons: NDArray[np.int8], firsts: NDArray[np.int64]
) -> dict[str, pa.Array]:
    """The bad rows as JSON, their reasons and a sentence on each; `reasons` and `firsts` are those of the bad rows."""
    rows = originals.take(pa.array(bad)).to_pylist()
    texts = [as_json(row) for row in rows]
    kept = originals.take(pa.array(firsts[firsts >= 0])).to_pylist()
    kept_texts = iter([as_json(row) for row in kept])
    names: list[Reason] = [REASONS[number] for number in reasons]
    details = [
        _duplicate_detail(text, next(kept_texts))
        if name == "duplicate"
        else _DETAILS[name](
            row[sales.timestamp] if name in {"bad_timestamp", "after_now"} else row[sales.target], sales
        )
        for name, row, text in zip(names, rows, texts, strict=True)
    ]
    columns = {"row": texts, "reason": names, "detail": details}
    return {name: pa.array(values, pa.string()) for name, values in columns.items()}


def _duplicate_detail(text: str, kept: str) -> str:
    how = "is the same in every column" if text == kept else "differs in at least one column"
    return f"an earlier row of this series and time was kept; this one {how}"


_DETAILS: dict[Reason, Callable[[object, SalesTable], str]] = {
    "bad_timestamp": lambda value, sales: (
        f"{sales.timestamp} is {value!s}, needed a date such as 2026-01-31, from {EARLIEST:%Y-%m-%d} on"
    ),
    "after_now": lambda value, sales: f"{sales.timestamp} is {value!s}, which is still to come",
    "missing_target": lambda value, sales: f"{sales.target} is missing ({value!r})",
    "not_a_number": lambda value, sales: f"{sales.target} is {value!r}, needed a number",
    "infinite": lambda value, sales: f"{sales.target} is infinite ({value!r})",
    "too_large": lambda value, sales: f"{sales.target} is {value!r}, the largest usable value is {LARGEST_TARGET:g}",
    "too_early": lambda value, sales: f"{sales.timestamp} is {value!s}, before data.start",
    "negative": lambda value, sales: f"{sales.target} is {value!r}, and the settings quarantine negative values",
}


def as_json(row: Mapping[str, object]) -> str:
    """`row` as one JSON object; what JSON has no word for (infinity, bytes, dates, decimals) is written as text."""
    return json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False, default=str)


def _plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value.hex() if isinstance(value, bytes) else value


def empty_quarantine() -> pa.Table:
    """A quarantine table without rows, in the columns of `CheckedRows.quarantined`."""
    names = ("series_id", "ds", "row", "reason", "detail")
    return schema_of({name: QUARANTINE[name] for name in names}).empty_table()
