"""One client's connection: deadlines and sizes before a request is read, and who leaves when there are too many.

uvicorn and httptools bound neither the size of headers nor their time, and count a silent connection as much as a busy
one. Everything here happens before credentials are known, so it is cheap: no timer for a request that comes at once.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

HEAD_SECONDS = 10.0  # from the first byte of a request, or the start of a connection, to the end of the headers
HEAD_BYTES = 32_768  # of a request line and its headers, and of trailers
DRAIN_SECONDS, DRAIN_BYTES = 2.0, 1_000_000  # for the rest of a request that has been answered already
WRITE_SECONDS = 30.0  # for a client that does not read its answer
MOST_PIPELINED = 16  # requests of a connection that wait for the one before them
SPARE = 256  # connections above the limit that are looked at, so that health is answered

PARKED = 2  # times the limit: connections that are open and not listened to

IDLE, HEAD, BODY, REFUSED = range(4)


class Room:
    """The connections of a server, at most `most` that are listened to, few of them of strangers: of clients whose key
    has not been accepted yet. A stranger too many is not closed, or it would come back at once: the longest unused one
    is parked, which costs a file and no time, until its deadline. `told` counts what was refused, by reason.
    """

    def __init__(self, most: int, told: Callable[[str], None] = lambda _: None) -> None:
        self.most, self.told = most, told
        self._most_strangers = min(most, max(most // 8, 16))
        self._strangers: dict[Protocol, None] = {}
        self._known: dict[Protocol, None] = {}
        self._parked: dict[Protocol, None] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    @property
    def crowded(self) -> bool:
        """Whether there are too many, none of whom can leave."""
        return len(self) > self.most

    def enter(self, connection: Protocol) -> None:
        """Take a new connection; where there are too many, another one leaves for it."""
        self._strangers[connection] = None
        if len(self._strangers) > self._most_strangers and (oldest := _waiting(self._strangers, connection)):
            del self._strangers[oldest]
            self._parked[oldest] = None
            self.told("parked")
            oldest.park()
        if len(self._parked) > PARKED * self.most:
            next(iter(self._parked)).end("crowded")
        if len(self) > self.most:
            if idle := _waiting(self._known, connection):
                idle.end("crowded")
            elif len(self) > self.most + SPARE:
                connection.end("crowded")

    def used(self, connection: Protocol, *, known: bool) -> None:
        """Record that a request was answered, and whether its key was accepted: it leaves last now of those like it."""
        known = known or connection in self._known
        self.leave(connection)
        (self._known if known else self._strangers)[connection] = None

    def leave(self, connection: Protocol) -> None:
        """Forget a connection that has gone."""
        for group in (self._strangers, self._known, self._parked):
            group.pop(connection, None)


def _waiting(group: Iterable[Protocol], newcomer: Protocol) -> Protocol | None:
    """The longest unused of them that is not being answered."""
    return next((one for one in group if one is not newcomer and not one.is_answered), None)


class Protocol(HttpToolsProtocol):
    """A connection that ends where its client is slow, greedy or silent."""

    def __init__(self, *args: Any, room: Room, **more: Any) -> None:
        super().__init__(*args, **more)
        self.access_log = False  # whatever the process has made of uvicorn's loggers: its lines have query strings
        self._room = room
        self._stage = IDLE
        self._head_bytes = self._idle_bytes = self._drained = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    # --- the connection -----------------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a client, whose request has to follow."""
        super().connection_made(transport)
        self._let_go_after(HEAD_SECONDS, "slow headers")
        self._room.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release what the client that has gone held."""
        self._room.leave(self)
        self._unset_keepalive_if_required()
        self._in_time()
        if self._writing is not None:
            self._writing.cancel()
        super().connection_lost(exc)

    @property
    def is_answered(self) -> bool:
        """Whether a whole request is being answered: such a connection is not ended for another."""
        return (self._stage < BODY and self._is_busy()) or self.transport.get_write_buffer_size() > 0

    def end(self, reason: str) -> None:
        """Lets the client go, without a word."""
        self._room.told(reason)
        self._room.leave(self)
        self.transport.abort()

    def park(self) -> None:
        """Stop listening to the client; what it has begun is over at its deadline."""
        self.flow.pause_reading()
        self._unset_keepalive_if_required()
        self._let_go_after(HEAD_SECONDS, "crowded")

    # --- what arrives -------------------------------------------------------------------------------------------------
    def data_received(self, data: bytes) -> None:
        """Bytes of a request, of several, or of none."""
        self._unset_keepalive_if_required()
        if self._stage == REFUSED:
            return
        if self._stage < BODY:
            self._head_bytes += len(data)
        else:
            self._idle_bytes += len(data)
            self._drain(len(data))
            if self._stage == REFUSED:
                return
        parser: Any = self.parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # answered as any other request, see on_headers_complete
        except httptools.HttpParserError:
            self._refuse(400, "BadRequest", "this is not HTTP/1.1", "no HTTP")
            return
        if self._stage == HEAD or (self._stage == IDLE and self._head_bytes):
            if self._head_bytes > HEAD_BYTES:
                self._refuse_head()
            elif self._deadline is None:
                self._let_go_after(HEAD_SECONDS, "slow headers")
        elif self._stage == BODY and self._idle_bytes > HEAD_BYTES + len(data):
            self.end("large trailers")

    def on_message_begin(self) -> None:
        """Take the first byte of a request line."""
        if self._stage == REFUSED:
            return
        self._stage = HEAD
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request line."""
        if self._stage == HEAD:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers come after the credentials have been looked at, and are not listened to."""
        if self._stage == HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer a request whose body may follow."""
        if self._stage == REFUSED:
            return
        if self._head_bytes > HEAD_BYTES and self._size_of_head() > HEAD_BYTES:
            self._refuse_head()
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            self._stage = REFUSED
            self.end("pipelined")
            return
        self._stage, self._idle_bytes, self._drained = BODY, 0, 0
        self._in_time()
        if self._room.crowded:
            self.scope["state"]["crowded"] = True  # pyright: ignore[reportTypedDictNotRequiredAccess]
        super().on_headers_complete()
        parser: Any = self.parser
        if parser.should_upgrade():  # to a protocol that this server does not speak: the answer is the last one
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._idle_bytes = 0
        if self._stage == BODY:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Complete a request: all of it is here."""
        if self._stage == REFUSED:
            return
        self._stage, self._head_bytes = IDLE, 0
        self._in_time()
        super().on_message_complete()
        if self.cycle.response_complete and not self.transport.is_closing():
            self._keep_alive()

    # --- what is answered ---------------------------------------------------------------------------------------------
    def on_response_complete(self) -> None:
        """Go on after an answer has been handed over."""
        cycle: Any = self.cycle
        self._room.used(self, known=bool(cycle.scope["state"].get("known")))
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_after(WRITE_SECONDS)  # a client that does not read would never let it close
        elif self._stage == BODY and cycle.response_complete:
            self._unset_keepalive_if_required()
            self._let_go_after(DRAIN_SECONDS, "slow rest")

    def timeout_keep_alive_handler(self) -> None:
        """No further request has come."""
        super().timeout_keep_alive_handler()
        self._abort_after(WRITE_SECONDS)

    def pause_writing(self) -> None:
        """Pause: the client does not read as fast as we write."""
        super().pause_writing()
        self._abort_after(WRITE_SECONDS)

    def resume_writing(self) -> None:
        """Go on: the client has caught up."""
        if self._writing is not None and not self.transport.is_closing():
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    # --- our own ------------------------------------------------------------------------------------------------------
    def _is_busy(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _refuse_head(self) -> None:
        self._refuse(431, "TooLarge", f"headers may have {HEAD_BYTES} bytes", "large headers")

    def _refuse(self, status: int, kind: str, reason: str, counted: str) -> None:
        """Send the last words of a connection. It stays open for a moment, unheard: if it closed at once, its client
        might not read them, and would be back at once.
        """
        self._stage = REFUSED
        self._room.told(counted)
        if self.transport.is_closing() or self._is_busy():
            self.transport.close()  # in the middle of another answer
            self._abort_after(WRITE_SECONDS)
            return
        body = json.dumps({"error": {"kind": kind, "reason": reason}}).encode()
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.flow.pause_reading()
        self._let_go_after(DRAIN_SECONDS, "")

    def _drain(self, size: int) -> None:
        """Count what comes after the answer; too much of it is not listened to, until the deadline of the rest."""
        if not self._is_busy():
            self._drained += size
            if self._drained > DRAIN_BYTES:
                self._stage = REFUSED
                self._room.told("large rest")
                self.flow.pause_reading()

    def _keep_alive(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _in_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _let_go_after(self, seconds: float, reason: str) -> None:
        self._in_time()
        self._deadline = self.loop.call_later(seconds, self._let_go, reason)

    def _let_go(self, reason: str) -> None:
        if self._stage < BODY and self._is_busy():  # it has begun the next request while it waits for an answer
            self._let_go_after(HEAD_SECONDS, reason)
            return
        if reason:
            self._room.told(reason)
        self.transport.close()
        self._abort_after(WRITE_SECONDS)

    def _abort_after(self, seconds: float) -> None:
        if self._writing is None:
            self._writing = self.loop.call_later(seconds, self.transport.abort)
