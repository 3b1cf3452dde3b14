"""A mail server on loopback that keeps what it takes; it refuses what a real one refuses."""

from __future__ import annotations

import re
import socketserver
from contextlib import contextmanager
from email import message_from_bytes, policy
from typing import TYPE_CHECKING

from many_models_tests.support.running_server import serving

if TYPE_CHECKING:
    from collections.abc import Generator
    from email.message import EmailMessage

LONGEST_LINE = 1000  # octets with its CRLF (RFC 5321, 4.5.3.1.6)


class MailServer(socketserver.ThreadingTCPServer):
    """`mails` are those taken. Recipients in `unknown` are refused; `busy` refuses all, as a server that is full."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.mails: list[EmailMessage] = []
        self.unknown: set[str] = set()
        self.busy = False

    @property
    def port(self) -> int:
        return self.server_address[1]


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 here")
        to = list[str]()
        while line := self.rfile.readline(LONGEST_LINE):
            command, _, rest = line.decode("ascii", "replace").strip().partition(" ")
            match command.upper():
                case "EHLO" | "HELO" | "RSET" | "NOOP":
                    self._say("250 here")
                case "MAIL":
                    self._say("452 no room" if self.server.busy else "250 ok")
                case "RCPT":
                    found = re.search(r"<([^<>@\s]+@[^<>\s]+)>", rest)
                    known = found is not None and found[1] not in self.server.unknown
                    to += [found[1]] if found and known else []
                    self._say("250 ok" if known else "550 there is no such mailbox")
                case "DATA":
                    self._say(self._take(to))
                case "QUIT":
                    self._say("221 bye")
                    return
                case _:
                    self._say("502 not here")

    def _take(self, to: list[str]) -> str:
        if not to:
            return "503 to whom?"
        self._say("354 go on")
        lines = list[bytes]()
        while (line := self.rfile.readline(LONGEST_LINE + 1)) not in {b".\r\n", b""}:
            lines.append(line.removeprefix(b"."))
        if any(len(line) > LONGEST_LINE or not line.endswith(b"\r\n") or b"\0" in line for line in lines):
            return "554 a line is too long, or does not end as lines end"
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        if not mail["From"] or not mail["Date"]:
            return "554 From and Date are needed"
        self.server.mails.append(mail)
        return "250 taken"

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())


@contextmanager
def mail_server() -> Generator[MailServer]:
    """A server until the block ends."""
    with serving(MailServer()) as server:
        yield server
