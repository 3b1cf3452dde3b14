"""Fingerprints of the source's days: one number a row, summed by day, so that the order of rows does not count."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from many_models.ports import DayCount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from many_models.ports import SalesTable

EPOCH = datetime(1970, 1, 1)
MICROSECONDS_A_DAY = 86_400_000_000
_EXACT_ROWS = 2**20  # up to this many 32-bit numbers sum to an exact double
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # splitmix64's constants
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_NULL = np.uint64(0xD1B54A32D192ED03)
_LOW = np.uint64(0xFFFFFFFF)


class DayFingerprints:
    """Counts rows and sums their hashes by calendar day, table by table.

    A day's fingerprint changes with every change of a key, a timestamp, a number or a text in one of its rows, but for
    one chance in 2^64, and but for what a double cannot tell apart (integers beyond 2^53). A number and the text that
    spells it differ; an integer and the equal double do not, so that a column's type in another read does not count.
    """

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._told: dict[int, int] = {}
        self._sums: dict[int, int] = {}
        self._hashes: dict[str, int] = {}

    def add(
        self, timestamps: pa.ChunkedArray, columns: Sequence[pa.ChunkedArray], target: pa.ChunkedArray | None = None
    ) -> None:
        """Add rows: their timestamps (timestamp[us], no nulls) and their other columns, always in the same order.

        Rows that have no `target`, where it is given, change a day's fingerprint and are not counted. A column that
        mixes numbers and texts comes as a struct of `number` (double) and `text` (string).
        """
        for start in range(0, len(timestamps), _EXACT_ROWS):
            self._add(
                timestamps.slice(start, _EXACT_ROWS),
                [column.slice(start, _EXACT_ROWS) for column in columns],
                None if target is None else target.slice(start, _EXACT_ROWS),
            )

    def _add(
        self, timestamps: pa.ChunkedArray, columns: Sequence[pa.ChunkedArray], target: pa.ChunkedArray | None
    ) -> None:
        micros = timestamps.cast(pa.int64()).to_numpy()
        hashed = _mixed(micros.view(np.uint64))
        for column in columns:
            hashed = _mixed((hashed * _GOLDEN) ^ self._values(column))
        days = micros // MICROSECONDS_A_DAY
        first = int(days.min())
        days -= first
        counts = np.bincount(days)
        told = (
            counts
            if target is None or not target.null_count
            else np.bincount(days[target.is_valid().to_numpy()], minlength=len(counts))
        )
        low = np.bincount(days, weights=(hashed & _LOW).astype(np.float64))
        high = np.bincount(days, weights=(hashed >> np.uint64(32)).astype(np.float64))
        for at in np.flatnonzero(counts).tolist():
            day = first + at
            self._rows[day] = self._rows.get(day, 0) + int(counts[at])
            self._told[day] = self._told.get(day, 0) + int(told[at])
            self._sums[day] = self._sums.get(day, 0) + int(low[at]) + (int(high[at]) << 32)

    def counted(self) -> list[DayCount]:
        """Every day that has rows, in order."""
        return [
            DayCount(EPOCH + timedelta(days=day), self._told[day], f"{rows:x}-{self._sums[day] % 2**64:016x}")
            for day, rows in sorted(self._rows.items())
        ]

    def _values(self, column: pa.ChunkedArray) -> NDArray[np.uint64]:
        if pa.types.is_struct(column.type):
            numbers, texts = (pc.struct_field(column, name) for name in ("number", "text"))
            return np.where(numbers.is_null().to_numpy(), self._texts(texts), _numbers(numbers))
        number = (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
        )
        return _numbers(column) if number or pa.types.is_null(column.type) else self._texts(column.cast(pa.string()))

    def _texts(self, column: pa.ChunkedArray) -> NDArray[np.uint64]:
        encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
        texts = np.array([self._text(value) for value in encoded.dictionary.to_pylist()], np.uint64)
        return texts[encoded.indices.to_numpy(zero_copy_only=False)]

    def _text(self, value: str | None) -> int:
        if value is None:
            return int(_NULL)
        if value not in self._hashes:
            self._hashes[value] = int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "big")
        return self._hashes[value]


def days_of(sales: SalesTable, rows: pa.Table) -> list[DayCount] | None:
    """The days of `rows`, which `read` has returned for whole days, as `days` counts them.

    None where a column is not all numbers: what is read of it does not tell how the source keeps each value. None, too,
    where days are told by a column that is not read.
    """
    if sales.changed:
        return None
    kinds = [rows.schema.field(name).type for name in (sales.target, *sales.known)]
    if not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return None
    days = DayFingerprints()
    counted = [rows[name] for name in (*sales.keys, sales.target, *sales.known)]
    days.add(rows[sales.timestamp], counted, rows[sales.target])
    return days.counted()


def _numbers(column: pa.ChunkedArray) -> NDArray[np.uint64]:
    numbers = pc.cast(
        pc.cast(column, pa.uint8()) if pa.types.is_boolean(column.type) else column, pa.float64(), safe=False
    )
    bits = pc.fill_null(numbers, 0.0).to_numpy().view(np.uint64)
    return np.where(numbers.is_null().to_numpy(), _NULL, bits) if numbers.null_count else bits


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX[0]
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX[1]
    return bits ^ (bits >> np.uint64(31))
