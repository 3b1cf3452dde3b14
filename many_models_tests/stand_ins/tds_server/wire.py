"""TDS 7.4 on the wire, as far as FreeTDS and pyodbc speak it: values in, columns, rows and messages out ([MS-TDS])."""

from __future__ import annotations

import datetime as dt
import decimal
import re
import struct
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COLLATION = b"\x09\x04\xd0\x00\x34"
DONE, DONE_PROCEDURE, DONE_IN_PROCEDURE = 0xFD, 0xFE, 0xFF
MORE, ERROR, COUNTED, ATTENTION = 1, 2, 0x10, 0x20
FIXED = {0x30: "B", 0x34: "h", 0x38: "i", 0x7F: "q", 0x3E: "d", 0x3B: "f", 0x32: "?"}
LONG = 0xFFFF
OLD_LONG = {0x22: "", 0x23: "cp1252", 0x63: "utf-16-le"}  # image, text, ntext: how they are encoded
Column = tuple[str, str]  # name, type of DuckDB


class Reader:
    """Little-endian values taken from the front of `data`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken

    def number(self, form: str) -> Any:
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, units: int) -> str:
        return self.take(2 * units).decode("utf-16-le", "surrogatepass")

    @property
    def left(self) -> int:
        return len(self.data) - self.at


# --- values in -------------------------------------------------------------------------------------------------------
def read_type(reader: Reader) -> tuple[int, int, int]:
    """A TYPE_INFO: its token, its length or scale, its decimal scale."""
    token = reader.number("B")
    if token in FIXED or token in {0x3A, 0x3C, 0x3D, 0x7A}:
        return token, 0, 0
    if token in {0x24, 0x26, 0x68, 0x6D, 0x6E, 0x6F, 0x29, 0x2A, 0x2B}:
        return token, reader.number("B"), 0
    if token in {0x6A, 0x6C}:
        size, _precision, scale = reader.number("B"), reader.number("B"), reader.number("B")
        return token, size, scale
    if token == 0x28:
        return token, 3, 0
    if token in {0xA7, 0xAF, 0xE7, 0xEF}:
        size = reader.number("H")
        reader.take(5)
        return token, size, 0
    if token in {0xA5, 0xAD}:
        return token, reader.number("H"), 0
    if token in OLD_LONG:
        size = reader.number("I")
        reader.take(0 if token == 0x22 else 5)
        return token, size, 0
    raise NotImplementedError(f"type 0x{token:02x}")


def read_value(reader: Reader, kind: tuple[int, int, int]) -> Any:
    """A value of the type that `read_type` read; None for null."""
    token, size, scale = kind
    if token in FIXED:
        return reader.number(FIXED[token])
    if token in {0xA7, 0xAF, 0xE7, 0xEF, 0xA5, 0xAD}:
        data = _chunks(reader) if size == LONG else _sized(reader)
        if data is None or token in {0xA5, 0xAD}:
            return data
        return data.decode("utf-16-le", "surrogatepass") if token in {0xE7, 0xEF} else data.decode("cp1252")
    if token in OLD_LONG:
        length = reader.number("i")
        data = reader.take(max(length, 0))
        return None if length < 0 else data.decode(OLD_LONG[token], "surrogatepass") if OLD_LONG[token] else data
    data = reader.take(reader.number("B"))
    return _short_value(token, data, size, scale) if data else None


def _sized(reader: Reader) -> bytes | None:
    size = reader.number("H")
    return None if size == LONG else reader.take(size)


def _chunks(reader: Reader) -> bytes | None:
    if reader.number("Q") == 2**64 - 1:
        return None
    data = bytearray()
    while size := reader.number("I"):
        data += reader.take(size)
    return bytes(data)


def _short_value(token: int, data: bytes, size: int, scale: int) -> Any:
    if token == 0x26:
        return int.from_bytes(data, "little", signed=len(data) > 1)
    if token == 0x68:
        return bool(data[0])
    if token == 0x6D:
        return struct.unpack("<f" if len(data) == 4 else "<d", data)[0]
    if token in {0x6A, 0x6C}:
        value = decimal.Decimal(int.from_bytes(data[1:], "little")).scaleb(-scale)
        return value if data[0] else -value
    if token == 0x24:
        return uuid.UUID(bytes_le=data)
    if token == 0x28:
        return _day(data)
    if token == 0x29:
        return (dt.datetime(1, 1, 1) + _clock(data, size)).time()
    if token == 0x2A:
        return dt.datetime.combine(_day(data[-3:]), dt.time()) + _clock(data[:-3], size)
    if token == 0x6F and len(data) == 8:
        days, ticks = struct.unpack("<iI", data)
        return dt.datetime(1900, 1, 1) + dt.timedelta(days=days, seconds=ticks / 300)
    raise NotImplementedError(f"value of type 0x{token:02x}")


def _day(data: bytes) -> dt.date:
    return dt.date(1, 1, 1) + dt.timedelta(days=int.from_bytes(data, "little"))


def _clock(data: bytes, scale: int) -> dt.timedelta:
    return dt.timedelta(microseconds=int.from_bytes(data, "little") * 10 ** (7 - scale) // 10)


# --- rows out --------------------------------------------------------------------------------------------------------
def encoder(kind: str) -> tuple[bytes, Callable[[Any], bytes]]:
    """TYPE_INFO of a column of DuckDB's type `kind`, and what encodes its values."""
    kind = kind.upper()
    sizes = {"TINYINT": 2, "UTINYINT": 2, "SMALLINT": 2, "INTEGER": 4, "USMALLINT": 4}
    sizes |= dict.fromkeys(("BIGINT", "UINTEGER", "HUGEINT", "UBIGINT"), 8)
    if kind in sizes:
        size = sizes[kind]
        return bytes([0x26, size]), _nullable(lambda v: bytes([size]) + int(v).to_bytes(size, "little", signed=True))
    if kind == "BOOLEAN":
        return b"\x68\x01", _nullable(lambda v: bytes([1, int(v)]))
    if kind in {"DOUBLE", "FLOAT"}:
        return b"\x6d\x08", _nullable(lambda v: b"\x08" + struct.pack("<d", v))
    if kind == "DATE":
        return b"\x28", _nullable(lambda v: b"\x03" + (v.toordinal() - 1).to_bytes(3, "little"))
    if kind.startswith("TIMESTAMP"):
        return b"\x2a\x07", _nullable(_moment)
    if kind.startswith("DECIMAL"):
        precision, scale = map(int, re.findall(r"\d+", kind))
        return bytes([0x6A, 17, precision, scale]), _nullable(lambda v: _decimal(v, scale))
    if kind == "BLOB":
        return b"\xa5\xff\xff", _nullable(lambda v: _long(bytes(v)), b"\xff" * 8)
    return b"\xe7\xff\xff" + COLLATION, _nullable(
        lambda v: _long(str(v).encode("utf-16-le", "surrogatepass")), b"\xff" * 8
    )


def _nullable(encode: Callable[[Any], bytes], null: bytes = b"\0") -> Callable[[Any], bytes]:
    return lambda value: null if value is None else encode(value)


def _moment(value: dt.datetime) -> bytes:
    ticks = ((value.hour * 60 + value.minute) * 60 + value.second) * 10**7 + value.microsecond * 10
    return b"\x08" + ticks.to_bytes(5, "little") + (value.toordinal() - 1).to_bytes(3, "little")


def _decimal(value: decimal.Decimal, scale: int) -> bytes:
    digits = int(value.scaleb(scale))
    return b"\x11" + bytes([digits >= 0]) + abs(digits).to_bytes(16, "little")


def _long(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + (struct.pack("<I", len(data)) + data if data else b"") + b"\0\0\0\0"


def result(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> bytes:
    """COLMETADATA and ROWs."""
    made = [encoder(kind) for _, kind in columns]
    out = bytearray(b"\x81" + struct.pack("<H", len(columns)))
    for (name, _), (kind, _encode) in zip(columns, made, strict=True):
        out += struct.pack("<IH", 0, 0x0009) + kind + short_text(name[:128])
    for row in rows:
        out += b"\xd1" + b"".join(encode(value) for (_, encode), value in zip(made, row, strict=True))
    return bytes(out)


def short_text(text: str) -> bytes:
    data = text.encode("utf-16-le", "surrogatepass")
    return bytes([len(data) // 2]) + data


def done(token: int = DONE, status: int = 0, count: int = 0) -> bytes:
    return struct.pack("<BHHQ", token, status, 0, count)


def message(number: int, severity: int, text: str) -> bytes:
    """ERROR token."""
    data = text[:1500].encode("utf-16-le", "surrogatepass")
    body = struct.pack("<IBB", number, 1, severity) + struct.pack("<H", len(data) // 2) + data
    body += short_text("stand-in") + short_text("") + struct.pack("<I", 1)
    return b"\xaa" + struct.pack("<H", len(body)) + body


def changed(kind: int, new: str, old: str) -> bytes:
    """ENVCHANGE token of texts."""
    return token(0xE3, bytes([kind]) + short_text(new) + short_text(old))


def token(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<H", len(body)) + body
