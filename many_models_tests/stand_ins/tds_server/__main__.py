"""The stand-in's protocol, in its own process: `python -m many_models_tests.stand_ins.tds_server FOLDER`.

FOLDER/settings.json says who may log in; FOLDER/port says where it listens; FOLDER/statements.jsonl keeps every
statement that came; a file FOLDER/cut makes it close the connection at the next statement that matches the pattern in
it, once; before the next statement it drops the schemas whose names begin with what a file FOLDER/forget holds.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import struct
import sys
import threading
from pathlib import Path
from typing import Any

from sqlglot import exp

from many_models_tests.stand_ins.tds_server import IDENTITY, wire
from many_models_tests.stand_ins.tds_server.engine import Engine, Rows, Session, numbered, parsed
from many_models_tests.stand_ins.tds_server.rules import PRODUCTS, ServerError
from many_models_tests.stand_ins.tds_server.wire import DONE, DONE_IN_PROCEDURE, DONE_PROCEDURE, Reader

PROCEDURES = {10: "sp_executesql", 11: "sp_prepare", 12: "sp_execute", 13: "sp_prepexec", 15: "sp_unprepare"}
PRELOGIN, LOGIN, BATCH, RPC, ATTENTION, TRANSACTION = 0x12, 0x10, 1, 3, 6, 14
SUGGESTED = {  # type of DuckDB → system_type_id, name, length, precision, scale, TDS type
    "BIGINT": (127, "bigint", 8, 19, 0, 0x26),
    "INTEGER": (56, "int", 4, 10, 0, 0x26),
    "DOUBLE": (62, "float", 8, 53, 0, 0x6D),
    "BOOLEAN": (104, "bit", 1, 1, 0, 0x68),
    "DATE": (40, "date", 3, 10, 0, 0x28),
    "TIMESTAMP": (42, "datetime2(6)", 8, 26, 6, 0x2A),
    "BLOB": (165, "varbinary(8000)", 8000, 0, 0, 0xA5),
}
TEXT = (231, "nvarchar(4000)", 8000, 0, 0, 0xE7)
ODBC_TYPES = {  # ODBC type → name, precision, SQL_DATA_TYPE, SQL_DATETIME_SUB, scale
    12: ("varchar", 8000, 12, None, None),
    -9: ("nvarchar", 4000, -9, None, None),
    -3: ("varbinary", 8000, -3, None, None),
    93: ("datetime2", 27, 9, 3, 7),
    91: ("date", 10, 9, 1, None),
    8: ("float", 53, 8, None, None),
}


class Cut(Exception):  # noqa: N818 -- a fault, not an error
    """The connection ends here."""


class Server(socketserver.ThreadingTCPServer):
    """One database, its logins, and what tests ask of it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.folder = folder
        self.settings: dict[str, Any] = json.loads((folder / "settings.json").read_text())
        self.engine = Engine(self.settings.get("storage", ""), folder)
        self.writing = threading.Lock()

    def note(self, statement: str) -> None:
        """Keep the statement; end the connection where a test asked for it."""
        with self.writing:
            with (self.folder / "statements.jsonl").open("a") as log:
                log.write(json.dumps(statement) + "\n")
            forget = self.folder / "forget"
            if forget.exists():
                self.engine.forget(forget.read_text())
                forget.unlink()
            cut = self.folder / "cut"
            if cut.exists() and re.search(cut.read_text(), statement, re.IGNORECASE):
                cut.unlink()
                raise Cut
            failing = self.folder / "fail"
            if failing.exists():
                pattern, number, text, times = json.loads(failing.read_text())
                if re.search(pattern, statement, re.IGNORECASE):
                    failing.write_text(
                        json.dumps([pattern, number, text, times - 1])
                    ) if times > 1 else failing.unlink()
                    raise ServerError(number, 17, text)

    def admit(self, user: str, password: str, token: str, *, only_tokens: bool = False) -> None:
        """Raises ServerError 18456 unless the login is good."""
        if only_tokens and not token and user != IDENTITY:
            raise ServerError(18456, 14, f"Login failed for user '{user}'. Only Microsoft Entra ID is supported.")
        if token:
            if token.partition(":")[0] not in json.loads((self.folder / "tokens.json").read_text()):
                raise ServerError(
                    18456, 14, "Login failed for user '<token-identified principal>'. The token is expired."
                )
        elif user == IDENTITY:
            self.admit("", "", password)
        elif self.settings["logins"].get(user) != password:
            raise ServerError(18456, 14, f"Login failed for user '{user}'.")


class Connection(socketserver.BaseRequestHandler):
    """One client: pre-login, login, then batches, procedures and transactions until it goes."""

    server: Server
    packet = 4096

    def handle(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.prepared: dict[int, tuple[str, list[str]]] = {}
        session = None
        try:
            session = self.session = self.login()
            while session is not None:
                self.answer(*self.receive())
        except (EOFError, ConnectionError, Cut):
            pass
        finally:
            if session is not None:
                session.end(commit=False)

    # --- messages ---
    def take(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.request.recv(size - len(data))
            if not more:
                raise EOFError
            data += more
        return bytes(data)

    def receive(self) -> tuple[int, bytes]:
        whole = bytearray()
        while True:
            kind, status, size = struct.unpack(">BBH", self.take(8)[:4])
            whole += self.take(size - 8)
            if status & 1:
                return kind, bytes(whole)

    def send(self, data: bytes, kind: int = 4) -> None:
        out, room = bytearray(), self.packet - 8
        for number, start in enumerate(range(0, max(len(data), 1), room), 1):
            piece = data[start : start + room]
            last = start + room >= len(data)
            out += struct.pack(">BBHHBB", kind, int(last), len(piece) + 8, 51, number & 255, 0) + piece
        self.request.sendall(out)

    # --- login ---
    def login(self) -> Session | None:
        _, offered = self.receive()  # encryption is declined
        options = [(0, b"\x10\x00\x03\xe8\x00\x00"), (1, b"\x02"), (2, b"\0"), (3, b""), (4, b"\0")]
        options += [(6, b"\1")] if 6 in _offered(offered) else []  # only a client that names it may be answered so
        head, data, start = b"", b"", 5 * len(options) + 1
        for option, value in options:
            head += struct.pack(">BHH", option, start + len(data), len(value))
            data += value
        self.send(head + b"\xff" + data)
        _, body = self.receive()
        user, database, token = _field(body, 40), _field(body, 68) or "dw", _token(body)
        try:
            self.server.admit(user, _password(body), token, only_tokens=database == "fabric")
        except ServerError as error:
            self.send(wire.message(error.number, error.severity, str(error)) + wire.done(status=wire.ERROR))
            return None
        reply = wire.changed(1, database, "master") + wire.token(0xE3, b"\x07\x05" + wire.COLLATION + b"\0")
        program = b"\x01\x74\x00\x00\x04" + wire.short_text("Microsoft SQL Server") + b"\x10\x00\x03\xe8"
        reply += wire.token(0xAD, program)
        if token:
            reply += b"\xae\x02" + struct.pack("<I", 0) + b"\xff"
        wanted = struct.unpack("<I", body[8:12])[0]
        if 512 <= wanted <= 32767:
            reply += wire.changed(4, str(wanted), "4096")
        self.send(reply + wire.done())
        self.packet = wanted if 512 <= wanted <= 32767 else self.packet
        settings = self.server.settings
        return Session(
            self.server.engine,
            reader=user == settings.get("reader"),
            product=database if database in PRODUCTS else "",
            bulk=settings.get("newcomer") not in {user, _password(body).partition(":")[2], token.partition(":")[2]},
        )

    # --- requests ---
    def answer(self, kind: int, body: bytes) -> None:
        if kind == ATTENTION:
            self.send(wire.done(status=wire.ATTENTION))
            return
        work = {BATCH: self.batch, RPC: self.procedures, TRANSACTION: self.transaction}[kind]
        try:
            out = work(body)
        except Cut:
            raise
        except Exception as error:  # noqa: BLE001 -- whatever it is, the client has to hear of it
            known = error if isinstance(error, ServerError) else ServerError(50000, 16, repr(error))
            end = wire.done(DONE_PROCEDURE if kind == RPC else DONE, wire.ERROR)
            out = wire.message(known.number, known.severity, str(known)) + end
        self.send(out)

    def batch(self, body: bytes) -> bytes:
        reader = _after_headers(body)
        return self.results(reader.text(reader.left // 2), None, DONE) or wire.done()

    def results(self, sql: str, values: dict[str, Any] | None, token: int) -> bytes:
        self.server.note(sql)
        out = bytearray()
        found = list(self.session.run(sql, values))
        for at, one in enumerate(found):
            more = wire.MORE if at < len(found) - 1 or token == DONE_IN_PROCEDURE else 0
            if isinstance(one, Rows):
                out += wire.result(one.columns, one.rows) + wire.done(token, more | wire.COUNTED, len(one.rows))
            else:
                out += wire.done(token, more | (wire.COUNTED if one >= 0 else 0), max(one, 0))
        return bytes(out)

    def procedures(self, body: bytes) -> bytes:
        """One call, or the many of an array of parameters, of which inserts are done together."""
        reader = _after_headers(body)
        calls: list[tuple[str, list[tuple[str, Any]]]] = []
        while reader.left > 2:
            size = reader.number("H")
            name = PROCEDURES.get(reader.number("H"), "") if size == wire.LONG else reader.text(size)
            reader.take(2)
            values: list[tuple[str, Any]] = []
            while reader.left and reader.data[reader.at] not in {0xFF, 0x80}:
                parameter = reader.text(reader.number("B"))
                reader.take(1)
                values.append((parameter, wire.read_value(reader, wire.read_type(reader))))
            reader.take(1)
            calls.append((name.lower().removeprefix("[sys].").removeprefix("sys."), values))
        if len(calls) > 1 and (inserted := self.inserted(calls)):
            return inserted
        return b"".join(self.call(name, values, last=at == len(calls)) for at, (name, values) in enumerate(calls, 1))

    def inserted(self, calls: list[tuple[str, list[tuple[str, Any]]]]) -> bytes:
        """What many executions of one prepared INSERT answer; nothing when they are something else."""
        handles = {values[0][1] for name, values in calls if name == "sp_execute"}
        if len(handles) != 1 or any(name != "sp_execute" for name, _ in calls):
            return b""
        sql, _ = self.prepared[handles.pop()]
        if not sql.lstrip().upper().startswith("INSERT"):
            return b""
        self.server.note(sql)
        self.session.add(sql, [[value for _, value in values[1:]] for _, values in calls])
        one = wire.done(DONE_IN_PROCEDURE, wire.MORE | wire.COUNTED, 1) + _status()
        return b"".join(
            one + wire.done(DONE_PROCEDURE, wire.MORE if at < len(calls) else 0) for at in range(1, len(calls) + 1)
        )

    def call(self, name: str, values: list[tuple[str, Any]], *, last: bool) -> bytes:
        returned = b""
        if name == "sp_executesql":
            declared = _declared(values[1][1]) if len(values) > 1 else []
            out = self.results(values[0][1], _named(declared, values[2:]), DONE_IN_PROCEDURE)
        elif name in {"sp_prepexec", "sp_prepare"}:
            handle, declared = len(self.prepared) + 1, _declared(values[1][1])
            self.prepared[handle] = (values[2][1], declared)
            out = b""
            if name == "sp_prepexec":
                out = self.results(values[2][1], _named(declared, values[3:]), DONE_IN_PROCEDURE)
            returned = b"\xac" + struct.pack("<H", 0) + wire.short_text(values[0][0]) + b"\x01"
            returned += struct.pack("<IH", 0, 0) + b"\x26\x04\x04" + struct.pack("<i", handle)
        elif name == "sp_execute":
            sql, declared = self.prepared[values[0][1]]
            out = self.results(sql, _named(declared, values[1:]), DONE_IN_PROCEDURE)
        elif name == "sp_describe_undeclared_parameters":
            out = self.described(values[0][1])
        elif name.startswith("sp_datatype_info"):
            out = _odbc_type(values[0][1])
        elif name in {"sp_unprepare", "sp_reset_connection"}:
            out = b""
        else:
            raise ServerError(2812, 16, f"Could not find stored procedure '{name}'.")
        return out + _status() + returned + wire.done(DONE_PROCEDURE, 0 if last else wire.MORE)

    def described(self, sql: str) -> bytes:
        """The types of an INSERT's parameters, which `fast_executemany` asks for."""
        if not isinstance(parsed(numbered(sql)[0]), exp.Insert):
            raise ServerError(11508, 16, "The types of the parameters cannot be told.")
        columns = [
            ("parameter_ordinal", "INTEGER"), ("name", "VARCHAR"), ("suggested_system_type_id", "INTEGER"),
            ("suggested_system_type_name", "VARCHAR"), ("suggested_max_length", "SMALLINT"),
            ("suggested_precision", "TINYINT"), ("suggested_scale", "TINYINT"), ("suggested_user_type_id", "INTEGER"),
            ("suggested_user_type_database", "VARCHAR"), ("suggested_user_type_schema", "VARCHAR"),
            ("suggested_user_type_name", "VARCHAR"), ("suggested_assembly_qualified_type_name", "VARCHAR"),
            ("suggested_xml_collection_id", "INTEGER"), ("suggested_xml_collection_database", "VARCHAR"),
            ("suggested_xml_collection_schema", "VARCHAR"), ("suggested_xml_collection_name", "VARCHAR"),
            ("suggested_is_xml_document", "BOOLEAN"), ("suggested_is_case_sensitive", "BOOLEAN"),
            ("suggested_is_fixed_length_clr_type", "BOOLEAN"), ("suggested_is_input", "BOOLEAN"),
            ("suggested_is_output", "BOOLEAN"), ("formal_parameter_name", "VARCHAR"),
            ("suggested_tds_type_id", "INTEGER"), ("suggested_tds_length", "INTEGER"),
        ]  # fmt: skip
        rows: list[tuple[Any, ...]] = []
        for at, kind in enumerate(self.session.types_of(sql), 1):
            number, name, length, precision, scale, token = SUGGESTED.get(kind, TEXT)
            head = (at, f"@P{at}", number, name, length, precision, scale)
            rows.append((*head, *[None] * 9, False, False, False, True, False, None, token, length))
        return wire.result(columns, rows) + wire.done(DONE_IN_PROCEDURE, wire.MORE | wire.COUNTED, len(rows))

    def transaction(self, body: bytes) -> bytes:
        reader = _after_headers(body)
        kind, number = reader.number("H"), struct.pack("<Q", 1)
        begun = wire.token(0xE3, b"\x08\x08" + number + b"\x00")
        if kind == 5:
            self.session.begin()
            return begun + wire.done()
        if kind not in {7, 8}:
            raise ServerError(50000, 16, f"transaction request {kind}")
        self.server.note("COMMIT" if kind == 7 else "ROLLBACK")
        self.session.end(commit=kind == 7)
        out = wire.token(0xE3, (b"\x09" if kind == 7 else b"\x0a") + b"\x00\x08" + number)
        reader.take(reader.number("B"))
        if reader.left and reader.number("B") & 1:  # and begin the next one
            self.session.begin()
            out += begun
        return out + wire.done()


def _offered(body: bytes) -> set[int]:
    """The options of a pre-login message."""
    found, at = set[int](), 0
    while at < len(body) and body[at] != 0xFF:
        found.add(body[at])
        at += 5
    return found


def _field(body: bytes, at: int) -> str:
    start, units = struct.unpack("<HH", body[at : at + 4])
    return body[start : start + 2 * units].decode("utf-16-le")


def _password(body: bytes) -> str:
    start, units = struct.unpack("<HH", body[44:48])
    plain = bytes(((byte ^ 0xA5) << 4 | (byte ^ 0xA5) >> 4) & 0xFF for byte in body[start : start + 2 * units])
    return plain.decode("utf-16-le")


def _token(body: bytes) -> str:
    """Entra ID's token in the login's feature extension; "" when there is none."""
    if not body[27] & 0x10:
        return ""
    (pointer,) = struct.unpack("<H", body[56:58])
    (at,) = struct.unpack("<I", body[pointer : pointer + 4])
    while body[at] != 0xFF:
        (size,) = struct.unpack("<I", body[at + 1 : at + 5])
        data = body[at + 5 : at + 5 + size]
        if body[at] == 2:
            (length,) = struct.unpack("<I", data[1:5])
            return data[5 : 5 + length].decode("utf-16-le")
        at += 5 + size
    return ""


def _after_headers(body: bytes) -> Reader:
    reader = Reader(body)
    reader.take(reader.number("I") - 4)
    return reader


def _declared(text: str | None) -> list[str]:
    return re.findall(r"@(\w+)\s+[a-z]", text or "", re.IGNORECASE)


def _named(declared: list[str], values: list[tuple[str, Any]]) -> dict[str, Any]:
    return {(name.lstrip("@") or known): value for known, (name, value) in zip(declared, values, strict=True)}


def _status() -> bytes:
    return b"\x79" + struct.pack("<i", 0)


def _odbc_type(wanted: int) -> bytes:
    texts = {"TYPE_NAME", "LITERAL_PREFIX", "LITERAL_SUFFIX", "CREATE_PARAMS", "LOCAL_TYPE_NAME"}
    names = (
        "TYPE_NAME DATA_TYPE PRECISION LITERAL_PREFIX LITERAL_SUFFIX CREATE_PARAMS NULLABLE CASE_SENSITIVE SEARCHABLE "
        "UNSIGNED_ATTRIBUTE MONEY AUTO_INCREMENT LOCAL_TYPE_NAME MINIMUM_SCALE MAXIMUM_SCALE SQL_DATA_TYPE "
        "SQL_DATETIME_SUB NUM_PREC_RADIX INTERVAL_PRECISION USERTYPE"
    ).split()
    kinds = ["VARCHAR" if name in texts else "INTEGER" if name == "PRECISION" else "SMALLINT" for name in names]
    rows: list[tuple[Any, ...]] = []
    if wanted in ODBC_TYPES:
        name, precision, sql_type, sub, scale = ODBC_TYPES[wanted]
        head = (name, wanted, precision, "'", "'", None, 1, 0, 3, None, 0, None, name)
        rows = [(*head, 0 if scale else None, scale, sql_type, sub, None, None, 0)]
    return wire.result(list(zip(names, kinds, strict=True)), rows) + wire.done(DONE_IN_PROCEDURE, wire.MORE)


def main() -> None:
    """Serve until killed."""
    folder = Path(sys.argv[1])
    with Server(folder) as server:
        (folder / "port.new").write_text(str(server.server_address[1]))
        (folder / "port.new").rename(folder / "port")
        server.serve_forever()


main()
