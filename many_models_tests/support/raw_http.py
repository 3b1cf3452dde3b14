"""A client that says bytes on a connection and reads the answers, one after the other."""

from __future__ import annotations

import http.client
import socket

PATIENCE = 60  # seconds for what comes at once or never; uvicorn lets an idle connection go after 75


class RawClient(socket.socket):
    """A connection to a service on loopback.

    It has one buffer for all its answers. `http.client.HTTPResponse` has one for each answer: a second answer that
    arrives in the segment of the first is lost with the buffer of the first.
    """

    def __init__(self, port: int) -> None:
        super().__init__()
        self.settimeout(PATIENCE)
        self.connect(("127.0.0.1", port))
        self._answers = self.makefile("rb")

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer. Raises ConnectionError where the connection ends before it is whole."""
        words = self._answers.readline().split()
        if len(words) < 2:
            raise ConnectionResetError("the connection ended before the answer")
        size = int(http.client.parse_headers(self._answers)["content-length"])
        body = self._answers.read(size)
        if len(body) < size:
            raise ConnectionResetError(f"the answer has {len(body)} of {size} bytes")
        return int(words[1]), body

    def status(self) -> int:
        """Status of the next answer, which is read to its end."""
        return self.answer()[0]

    def rest(self) -> bytes:
        """What the service says after the answers that were read, until it ends the connection."""
        return self._answers.read()

    def close(self) -> None:
        """Ends the connection, which its buffer would keep open."""
        self._answers.close()
        super().close()
