"""Regular, typed histories of raw rows: `prepare`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.errors import InputError, SeriesError, SeriesFailure
from many_models.forecasting.attributes import values_of
from many_models.forecasting.censoring import (
    CENSORED,
    IN_STOCK,
    NOTHING_KNOWN,
    censoring_column,
    demand,
    problem_of,
    share_of,
)
from many_models.forecasting.closures import Closures
from many_models.forecasting.gaps import CLOSED, UNKNOWN, meanings, outliers, silence_limit
from many_models.forecasting.local_fit import own_numbers
from many_models.forecasting.openings import Spans, closed_between, shut
from many_models.forecasting.pack import mm_pack_v1 as pack
from many_models.forecasting.panel import STATES, build, is_number, layout_of, stamps_us
from many_models.forecasting.spec import rhythm
from many_models.table_columns import DATASET_FACTS, schema_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from many_models.forecasting.spec import Spec

LARGEST = 1e15  # beyond it squares and sums of float64 stop being exact enough to score with
NEWEST = 28  # observations whose median is what a series usually does
STALE = 1 / 3  # of the silence that ends a series: from then on its silence is told
WORDS = (*STATES, "outlier", CENSORED)  # of the states of rows
BLOCK = 200  # series classified at a time, so that memory stays that of a chunk
SERIES_SCHEMA = schema_of(DATASET_FACTS)


@dataclass(frozen=True, slots=True)
class ExistingHistory:
    """A history that was made before: it reached to `until`, and `digest` was over all of it."""

    until: datetime
    digest: str


@dataclass(frozen=True)
class Prepared:
    """Regular histories (`rows`), one row per series (`series`), and the series that cannot be used (`failures`).

    `rows`: series_id, ds, y (null where missing or an outlier), known covariates, attributes, state (observed,
    missing, closed, stock_out, outlier, censored), outlier (the value of an outlier, which nothing learns from; else
    null). Where the spec names what stock there was, y is the demand behind a sale that stock cut short (censored; null
    where stock_out), and `sold` that sale (else null).
    `series`: series_id, first and last observation, until (the history's last period), rows (periods from first to
    until), observations, active, why (it has ended, or is silent since when), digest (over the whole history), low,
    high and usual (the lowest and highest value, and the median of the newest ones, outliers left out).
    `since`: of these series `rows` has only what comes after that period; up to it nothing has changed. `outside`:
    series → observations of periods in which the list of openings says that it is closed.
    """

    rows: pa.Table
    series: pa.Table
    failures: Sequence[SeriesFailure]
    since: Mapping[str, datetime] = field(default_factory=dict[str, "datetime"])
    outside: Mapping[str, int] = field(default_factory=dict[str, int])


def prepare(
    raw: pa.Table,
    spec: Spec,
    as_of: datetime,
    held: Mapping[str, ExistingHistory] | None = None,
    openings: Mapping[str, Spans] | None = None,
) -> Prepared:
    """Regular histories of `raw` (series_id, ds, y, known columns; any order) as of `as_of`; later rows do not count.

    One row per period from a series' first observation to `as_of`, or to its last one for a series that has ended;
    where it goes on from a history that is `held`, only the rows after that. A period without a row is what
    `spec.missing` says. Where `openings` has open spans of a series, its periods outside of them are closed without a
    value, whatever `raw` says, its history begins no earlier, and after the last one it has ended. A series with
    timestamps off the frequency, two rows for one period or values that are infinite or beyond 1e15 becomes a failure.
    Raises InputError for missing columns or a target that is not numeric.
    """
    raw = _typed(raw, spec)
    raw = raw.filter(pc.less_equal(raw["ds"], pa.scalar(as_of, pa.timestamp("us"))))
    names, rank = _ranked(raw["series_id"])
    ds, y = stamps_us(raw["ds"]), _floats(raw["y"])
    number = pack.step_number(ds, spec.frequency)
    order = np.lexsort((number, rank))
    ds, y, number = ds[order], y[order], number[order]
    counts = np.bincount(rank, minlength=len(names))
    ends = np.cumsum(counts)
    end = int(pack.step_number(np.array([as_of], "datetime64[us]"), spec.frequency)[0])
    if pack.stamps(np.array([end]), spec.frequency)[0] > np.datetime64(as_of, "us"):
        end -= 1
    off = pack.stamps(number, spec.frequency) != ds
    stock = _stock(raw, spec)
    failures: list[SeriesFailure] = []
    kept: list[tuple[str, int, int, NDArray[np.int64]]] = []
    described: list[tuple[str, int | None, int | None, int, bool, str]] = []
    openings, left_out = openings or {}, dict[str, int]()
    for name, a, b in zip(names, ends - counts, ends, strict=True):
        problem = _problem(ds[a:b], y[a:b], number[a:b], off[a:b], spec.frequency)
        if problem := problem or _stock_problem(stock, order[a:b], ds[a:b], spec):
            failures.append(SeriesFailure.of(name, SeriesError(name, problem)))
            continue
        spans = openings.get(name, ())
        closed = shut(number[a:b], spans)
        seen = number[a:b][np.isfinite(y[a:b]) & ~closed]
        if apart := int(np.isfinite(y[a:b]).sum()) - len(seen):
            left_out[name] = apart
        if not len(seen):
            described.append((name, None, None, 0, False, "no observation" + (" while it was open" if apart else "")))
            continue
        first, last = int(seen[0]), int(seen[-1])
        active, why = _goes_on(spec, (name, first, last, len(seen)), end, spans)
        stop = end if active else last
        described.append((name, first, last, len(seen), active, why))
        source = np.full(stop - first + 1, -1, np.int64)
        inside = (number[a:b] >= first) & (number[a:b] <= stop) & ~closed
        source[number[a:b][inside] - first] = order[a:b][inside]
        kept.append((name, first, stop, source))
    rows = _rows(raw, spec, kept, openings)
    digests, skipped = _digests(rows, kept, spec, held or {}, openings)
    since = {k[0]: _stamp(k[1] + skip - 1, spec).astype(object) for k, skip in zip(kept, skipped, strict=True) if skip}
    series = _series_table(described, digests, kept, spec, _levels(rows, kept))
    return Prepared(_after(rows, kept, skipped), series, failures, since, left_out)


def _goes_on(spec: Spec, seen: tuple[str, int, int, int], end: int, spans: Spans) -> tuple[bool, str]:
    """Whether a series with these observations from its first to its last one (`seen`: name, first, last, number) is
    still there at `end`, and what to say of it. A period in which it is closed is not silence.
    """
    name, first, last, rows = seen
    if spans and end > spans[-1][1]:
        return False, f"closed after {str(_stamp(spans[-1][1], spec))[:10]}"
    silence = end - last - closed_between(spans, last, end)
    limit = silence_limit(spec, [name], *(np.array([n], np.int64) for n in (rows, first, last)))[0]
    active = bool(silence < limit)
    word = "ended" if not active else "silent since" if silence >= STALE * limit else ""
    return active, f"{word} {str(_stamp(last, spec))[:10]}" if word else ""


def _typed(raw: pa.Table, spec: Spec) -> pa.Table:
    stock = censoring_column(spec)
    need = [
        "series_id",
        "ds",
        "y",
        *spec.known,
        *([stock] if stock and stock not in spec.known else []),
        *spec.attributes,
    ]
    if absent := [name for name in need if name not in raw.column_names]:
        raise InputError(f"the raw table lacks {', '.join(absent)}; it has {', '.join(raw.column_names)}")
    raw = raw.select(need)
    kind = raw.schema.field("y").type
    if not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    ):
        raise InputError(f"the target y has type {kind}, needed a number: convert the column in the source")
    if stock and not (is_number(raw.schema.field(stock).type) or pa.types.is_null(raw.schema.field(stock).type)):
        which = "available" if spec.available else "sold_out"
        raise InputError(
            f"data.{which} names {stock}, which holds {raw.schema.field(stock).type}, needed numbers or "
            "flags: convert the column in the source"
        )
    for name, kind in (("series_id", pa.string()), ("ds", pa.timestamp("us")), ("y", pa.float64())):
        raw = raw.set_column(raw.column_names.index(name), name, raw[name].cast(kind))
    if raw["series_id"].null_count or raw["ds"].null_count:
        raise InputError("rows without series_id or ds: leave them out before preparing datasets")
    return raw


def _stock(raw: pa.Table, spec: Spec) -> NDArray[np.float64] | None:
    """What the rows say of stock, NaN where nothing; None where no column does."""
    name = censoring_column(spec)
    return _floats(raw[name].cast(pa.float64())) if name else None


def _stock_problem(
    stock: NDArray[np.float64] | None, rows: NDArray[np.int64], ds: NDArray[np.datetime64], spec: Spec
) -> str:
    found = None if stock is None else problem_of(stock[rows], spec)
    return "" if found is None else f"at {ds[found[0]]} {found[1]}"


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), np.float64)


def _ranked(ids: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """The different names in order, and the place among them of each row's."""
    encoded = ids.combine_chunks().dictionary_encode()
    names = cast("list[str]", encoded.dictionary.to_pylist())
    place = {name: at for at, name in enumerate(sorted(names))}
    return list(place), np.array([place[name] for name in names], np.int64)[encoded.indices.to_numpy()]


def _stamp(number: int, spec: Spec) -> np.datetime64:
    return pack.stamps(np.array([number]), spec.frequency)[0]


def _problem(
    ds: NDArray[np.datetime64],
    y: NDArray[np.float64],
    number: NDArray[np.int64],
    off: NDArray[np.bool_],
    frequency: str,
) -> str:
    """What makes one series' rows unusable, or nothing."""
    if off.any():
        return (
            f"timestamp {ds[off][0]} is off the frequency {frequency} ({int(off.sum())} rows): align it in the source"
        )
    same = number[1:] == number[:-1]
    if same.any():
        return f"{int(same.sum()) + 1} rows for {ds[1:][same][0]}, needed one per period: add them up in the source"
    wild = np.isinf(y) | (np.abs(np.nan_to_num(y)) > LARGEST)
    if wild.any():
        return f"y is {y[wild][0]!r} at {ds[wild][0]}, needed a finite number below {LARGEST:g}: correct the source"
    return ""


def _rows(
    raw: pa.Table, spec: Spec, kept: Sequence[tuple[str, int, int, NDArray[np.int64]]], openings: Mapping[str, Spans]
) -> pa.Table:
    source = np.concatenate([k[3] for k in kept]) if kept else np.zeros(0, np.int64)
    number = np.concatenate([np.arange(k[1], k[2] + 1) for k in kept]) if kept else np.zeros(0, np.int64)
    names = np.repeat(np.arange(len(kept)), np.array([len(k[3]) for k in kept], np.int64))
    take = pa.array(source, mask=source < 0)
    y = _floats(raw["y"].take(take)) if len(source) else np.zeros(0)
    ds = pack.stamps(number, spec.frequency)
    closed = np.concatenate([shut(np.arange(k[1], k[2] + 1), openings.get(k[0], ())) for k in kept] or [[]]).astype(
        bool
    )
    means = np.where(
        (source < 0) & ~closed, meanings(ds, spec, [k[0] for k in kept], [len(k[3]) for k in kept]), UNKNOWN
    )
    y = np.where(means == UNKNOWN, y, 0.0)
    odd = _outliers(y, kept)
    stock, sold = _stock(raw.take(take), spec) if len(source) else None, y.copy()
    cut = np.zeros(len(y), np.int8)
    if stock is not None:
        y, cut = _demand(np.where(odd, np.nan, y), _share(stock, spec), ds, spec, kept)
        y = np.where(odd, sold, y)
    columns = {
        "series_id": pa.array([k[0] for k in kept], pa.string()).take(pa.array(names)),
        "ds": pa.array(ds, pa.timestamp("us")),
        "y": pa.array(y, mask=~np.isfinite(y) | odd | (cut == NOTHING_KNOWN)),
        **{name: raw[name].take(take) for name in spec.known},
        **{name: _static(raw, name, kept) for name in spec.attributes},
    }
    table = pa.table(columns)
    states = _states(table, spec, kept, means == CLOSED)
    states[odd], states[cut != IN_STOCK] = WORDS.index("outlier"), WORDS.index(CENSORED)
    states[cut == NOTHING_KNOWN], states[closed] = pack.STOCK_OUT, pack.CLOSED
    table = table.append_column("state", pa.array(WORDS, pa.string()).take(pa.array(states)))
    table = table.append_column("outlier", pa.array(y, mask=~odd))
    return table if stock is None else table.append_column("sold", pa.array(sold, mask=cut == IN_STOCK))


def _share(stock: NDArray[np.float64], spec: Spec) -> NDArray[np.float64]:
    return share_of(stock, available=bool(spec.available), open_hours=spec.open_hours)


def _demand(
    y: NDArray[np.float64],
    share: NDArray[np.float64],
    ds: NDArray[np.datetime64],
    spec: Spec,
    kept: Sequence[tuple[str, int, int, NDArray[np.int64]]],
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    """Demand of each row and what is known of it (see `censoring.demand`), each series for itself."""
    phase, out, cut, at = pack.phases(ds, spec.frequency, spec.steps_per_season), y.copy(), np.zeros(len(y), np.int8), 0
    for _, _, _, source in kept:
        own = slice(at, at + len(source))
        out[own], cut[own] = demand(y[own], share[own], phase[own], spec.steps_per_season)
        at += len(source)
    return out, cut


def _outliers(y: NDArray[np.float64], kept: Sequence[tuple[str, int, int, NDArray[np.int64]]]) -> NDArray[np.bool_]:
    """Which values are outliers, each series for itself."""
    found, at = np.zeros(len(y), np.bool_), 0
    for _, _, _, source in kept:
        found[at : at + len(source)] = outliers(y[at : at + len(source)])
        at += len(source)
    return found


def _levels(
    rows: pa.Table, kept: Sequence[tuple[str, int, int, NDArray[np.int64]]]
) -> dict[str, tuple[float, float, float]]:
    """Series → its lowest and highest value, and the median of the newest NEWEST, outliers left out."""
    y, found, at = _floats(rows["y"]), dict[str, tuple[float, float, float]](), 0
    for name, _, _, source in kept:
        own = y[at : at + len(source)]
        own, at = own[np.isfinite(own)], at + len(source)
        if len(own):
            found[name] = float(own.min()), float(own.max()), float(np.median(own[-NEWEST:]))
    return found


def _static(raw: pa.Table, name: str, kept: Sequence[tuple[str, int, int, NDArray[np.int64]]]) -> pa.Array:
    """An attribute of each series, on all its rows."""
    values = values_of(raw, name)
    kind = raw.schema.field(name).type
    one = pa.array([values.get(k[0]) for k in kept], kind if is_number(kind) else pa.string())
    return one.take(pa.array(np.repeat(np.arange(len(kept)), [len(k[3]) for k in kept])))


def _states(
    rows: pa.Table,
    spec: Spec,
    kept: Sequence[tuple[str, int, int, NDArray[np.int64]]],
    closed: NDArray[np.bool_],
) -> NDArray[np.int8]:
    """The state of each row (a place in STATES), by the loop that judges causally; `closed` ones have no row in the
    source.
    """
    found = np.zeros(len(closed), np.int8)
    if not kept:
        return found
    from many_models.forecasting.zeros import classify

    layout = layout_of(spec, rows)
    conf = layout.conf()
    longest = {"h": 72, "D": 28}.get(rhythm(spec.frequency).unit, 0)
    if censoring_column(spec):  # the column says when there was no stock
        longest = 0
    at = done = 0
    for begin in range(0, len(kept), BLOCK):
        block = kept[begin : begin + BLOCK]
        size = sum(len(k[3]) for k in block)
        stop = max(k[2] for k in block)
        panel = build(rows.slice(at, size), layout, _stamp(stop, spec).astype(object))
        at += size
        _, hol, ph = layout.calendar(panel.ds)
        closures = Closures(layout, panel.ds, panel.periods)
        state = np.zeros(pack.state_size(layout.season, layout.columns, layout.slots))
        for i, (_, first, last, _source) in enumerate(block):
            a, b = first - panel.number, last - panel.number + 1
            own = own_numbers(panel.y[i], panel.code[i], spec, a, b - 1)
            code = panel.code[i, :b].copy()
            code[a:b][closed[done : done + b - a]] = pack.CLOSED
            code[closures.recognised(panel.y[i, :b], code, a)] = pack.CLOSED
            classify(panel.y[i, :b], code, ph, hol, panel.x[i], panel.encoding.binary[i], a, conf, own, longest, state)
            found[done : done + b - a] = code[a:b]
            done += b - a
    return found


def _digests(
    rows: pa.Table,
    kept: Sequence[tuple[str, int, int, NDArray[np.int64]]],
    spec: Spec,
    held: Mapping[str, ExistingHistory],
    openings: Mapping[str, Spans],
) -> tuple[dict[str, str], list[int]]:
    """Series → digest of its rows; and of each of `kept`, how many rows are those of the history that is held."""
    shape = (
        spec.frequency,
        spec.season,
        spec.known,
        spec.attributes,
        spec.country,
        spec.ended_after,
        spec.holidays,
        spec.missing,
        spec.missing_on,
        *((spec.missing_at,) if spec.missing_at else ()),
        *((spec.available, spec.sold_out, spec.open_hours) if censoring_column(spec) else ()),
    )
    columns = [rows[name].combine_chunks() for name in rows.column_names if name != "series_id"]

    def digest(name: str, first: int, at: int, size: int) -> str:
        own = (openings[name],) if name in openings else ()
        content = hashlib.sha256(repr((shape, first, size, *own)).encode())
        content.update(name.encode("utf-8", "surrogatepass"))
        for column in columns:
            content.update(_bytes(column.slice(at, size)))
        return content.hexdigest()[:16]

    digests, skipped, at = dict[str, str](), list[int](), 0
    for name, first, stop, _source in kept:
        size = stop - first + 1
        digests[name] = digest(name, first, at, size)
        before, skip = held.get(name), 0
        if before is not None:
            until = int(pack.step_number(np.array([before.until], "datetime64[us]"), spec.frequency)[0])
            if first <= until <= stop and digest(name, first, at, until - first + 1) == before.digest:
                skip = until - first + 1
        skipped.append(skip)
        at += size
    return digests, skipped


def _after(rows: pa.Table, kept: Sequence[tuple[str, int, int, NDArray[np.int64]]], skipped: Sequence[int]) -> pa.Table:
    """`rows` without the first `skipped` ones of each series."""
    if not any(skipped):
        return rows
    wanted = np.ones(rows.num_rows, np.bool_)
    at = 0
    for (_, first, stop, _source), skip in zip(kept, skipped, strict=True):
        wanted[at : at + skip] = False
        at += stop - first + 1
    return rows.filter(pa.array(wanted))


def _series_table(
    described: Sequence[tuple[str, int | None, int | None, int, bool, str]],
    digests: Mapping[str, str],
    kept: Sequence[tuple[str, int, int, NDArray[np.int64]]],
    spec: Spec,
    levels: Mapping[str, tuple[float, float, float]],
) -> pa.Table:
    kept_of = {name: (stop, len(source)) for name, _first, stop, source in kept}

    def stamp(number: int | None) -> object:
        return None if number is None else _stamp(number, spec).astype(object)

    table = list[dict[str, object]]()
    for name, first, last, seen, active, why in described:
        stop, size = kept_of.get(name, (None, 0))
        low, high, usual = levels.get(name, (None, None, None))
        table.append({
            "series_id": name, "first": stamp(first), "last": stamp(last), "until": stamp(stop), "rows": size,
            "observations": seen, "active": active, "why": why, "digest": digests.get(name, ""),
            "low": low, "high": high, "usual": usual,
        })  # fmt: skip
    return pa.Table.from_pylist(table, SERIES_SCHEMA)


def _bytes(values: pa.Array) -> bytes:
    """Content of a column, nulls told from zeros."""
    valid = values.is_valid().to_numpy(zero_copy_only=False).tobytes()
    kind = values.type
    if (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_temporal(kind)
        or pa.types.is_boolean(kind)
    ):
        filled = (
            values if not values.null_count else values.fill_null(False if pa.types.is_boolean(kind) else _zero(kind))
        )
        return valid + np.ascontiguousarray(filled.to_numpy(zero_copy_only=False)).tobytes()
    if pa.types.is_string(kind) and not values.null_count:
        _, starts, texts = values.buffers()
        if len(values) and starts is not None and texts is not None:
            at = np.frombuffer(starts, np.int32)[values.offset : values.offset + len(values) + 1]
            return np.diff(at).tobytes() + bytes(memoryview(texts)[at[0] : at[-1]])
    return valid + "\x1f".join(str(value) for value in values.to_pylist()).encode("utf-8", "surrogatepass")


def _zero(kind: pa.DataType) -> pa.Scalar:
    return pa.scalar(0, pa.int64()).cast(kind)
