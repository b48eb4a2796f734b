"""Connections to one engine: kept alive, pooled, one answer at a time on each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Protocol, cast

import httptools

from stoker.router.engines.handle import Address
from stoker.router.heads import KnownHead, split_head
from stoker.router.protocol import StreamProtocol, as_protocol
from stoker.router.wire import Headers

_MAX_IDLE = 512
_MAX_IDLE_S = 55.0
_MAX_HEAD_BYTES = 64 * 1024


class UpstreamFailure(Exception):
    """An engine gave no whole answer; says what happened, in a few words.

    `sent` is false when the request cannot have reached the engine.
    """

    def __init__(
        self, reason: str, *, sent: bool = True, timed_out: bool = False, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.sent = sent
        self.timed_out = timed_out

    @property
    def kind(self) -> str:
        """One of a few words, for counting."""
        if self.timed_out:
            return "timeout"
        if self.status is not None:
            return f"status_{self.status}"
        return "failed" if self.sent else "unreachable"


class ResponseHead:
    """Status and fields of an engine's answer, names in lower case."""

    __slots__ = (
        "fields",
        "headers",
        "is_stream",
        "returned",
        "returned_without_limits",
        "status",
    )

    def __init__(self, status: int, headers: Headers, fields: Mapping[bytes, bytes]) -> None:
        """`fields` are the headers by name; of a name given twice, the last."""
        self.status = status
        self.headers = headers
        self.fields = fields
        content_type = fields.get(b"content-type", b"")
        self.is_stream = content_type.startswith((b"text/event-stream", b"application/x-ndjson"))
        """Whether the body is made to be read as it comes."""
        self.returned: bytes | None = None
        """What `forwarding.returned_fields` made of it, which several answers may share,"""
        self.returned_without_limits: bytes | None = None
        """with and without the engine's limits."""


class Receiver(Protocol):
    """Whoever waits for an engine's answer. `on_end` or `on_failed` comes last, once; or nothing
    but `on_answer`."""

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        """An answer that came whole; its connection is already free for the next request."""

    def on_head(self, head: ResponseHead) -> None: ...
    def on_body(self, chunk: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_failed(self, failure: UpstreamFailure) -> None: ...


class ConnectWaiter(Protocol):
    """Whoever waits for a connection."""

    def on_connected(self, connection: UpstreamConnection) -> None: ...
    def on_connect_failed(self, failure: UpstreamFailure) -> None: ...


class UpstreamConnection(StreamProtocol):
    """One connection to an engine."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._head: ResponseHead | None = None
        self._chunks: list[bytes] = []
        self._complete = False
        self._in_body = False
        self._until_close = False
        self._keep_alive = False
        self._answered = False
        self._last = False
        self._paused = False
        self.idle_since = 0.0
        self.reused = False
        """Whether an answer has already come over it: the engine may close it any time."""

    def send(self, head: bytes, body: bytes, receiver: Receiver, *, last: bool = False) -> None:
        """Send one request; the answer goes to `receiver`. After the `last` one, which asks the
        engine to close, the connection is not used again, whatever the engine says."""
        assert self._transport is not None
        self._receiver = receiver
        self._last = last
        self._answered = False
        self._head_bytes = 0
        if len(body) < 65536:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    @property
    def answered(self) -> bool:
        """Whether any byte of the present answer has come."""
        return self._answered

    def pause(self) -> None:
        """Read no more for now: the client is slower than the engine."""
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close at once; an engine takes that as a cancelled request. Nobody is told."""
        self._receiver = None
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        receiver = self._receiver
        if receiver is None:
            self.abort()  # an engine that speaks unasked cannot be trusted with the next request
            return
        known = self.pool.known
        if known is not None and not self._answered:
            found = known.body_of(data)
            if found is not None and len(data) - found[0] == found[1]:
                self._receiver = None
                self._free(reusable=not self._last)
                receiver.on_answer(known.meaning, data[found[0] :])
                return
        alone = not self._answered
        self._answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"the answer is not HTTP ({error})")
            return
        if not self._in_body and not self._complete:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail("the answer's header is too large")
                return
        if self._head is not None:
            head, self._head = self._head, None
            if alone and self._complete and self._keep_alive:
                self._learn(data, head)
            receiver.on_head(head)
        if self._chunks:
            chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            self._chunks.clear()
            if self._receiver is receiver:
                receiver.on_body(chunk)
        if self._complete and self._receiver is receiver:
            self._finish(reusable=self._keep_alive and not (self._in_body or self._last))

    def _learn(self, data: bytes, head: ResponseHead) -> None:
        """`data` was one answer, whole: know its head when it comes again."""
        found = split_head(data, head.headers)
        if found is not None and len(data) - found[2] == sum(map(len, self._chunks)):
            self.pool.known = KnownHead(found[0], found[1], head)

    def connection_lost(self, exc: Exception | None) -> None:
        self.pool.lost(self)
        if self._receiver is None:
            return
        if exc is None and self._until_close and self._in_body:
            self._finish(reusable=False)
        elif self._answered:
            self._fail("the connection closed in the middle of the answer")
        else:
            self._fail("the connection closed before any answer")

    # -- httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep_alive = False  # a second answer nobody asked for
        self._headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._complete:
            return
        self._in_body = True
        fields = dict(self._headers)
        self._until_close = (
            b"content-length" not in fields
            and b"transfer-encoding" not in fields
            and status not in (204, 304)
        )
        self._keep_alive = self._parser.should_keep_alive() and not self._until_close
        self._head = ResponseHead(status, self._headers, fields)

    def on_body(self, chunk: bytes) -> None:
        if not self._complete:
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = False
            self._complete = True

    # -- ends

    def _finish(self, *, reusable: bool) -> None:
        receiver, self._receiver = self._receiver, None
        self._complete = self._in_body = self._until_close = False
        self._free(reusable=reusable)
        if receiver is not None:
            receiver.on_end()

    def _free(self, *, reusable: bool) -> None:
        """Its answer is over: let the next request have it, or close it."""
        if self._paused:
            self.resume()  # whoever has it next waits for an answer
        self.reused = True
        transport = self._transport
        if reusable and transport is not None and not transport.is_closing():
            self.pool.give_back(self)
        elif transport is not None:
            transport.close()

    def _fail(self, reason: str) -> None:
        receiver, self._receiver = self._receiver, None
        if self._transport is not None:
            self._transport.abort()
        if receiver is not None:
            receiver.on_failed(UpstreamFailure(reason))


class Pool:
    """An engine's connections: idle ones are used again, the last used first."""

    def __init__(
        self, address: Address, *, connect_timeout: float, tls: ssl.SSLContext | None = None
    ) -> None:
        """`tls`: whom to trust and what to show, where it is not the system's usual."""
        self._address = address
        self._ssl = tls or address.ssl_context()
        self._connect_timeout = connect_timeout
        self._idle: deque[UpstreamConnection] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self.known: KnownHead[ResponseHead] | None = None
        """The head of the last answer that came whole."""

    @property
    def idle_connections(self) -> int:
        return len(self._idle)

    def idle(self) -> UpstreamConnection | None:
        """An open connection without work, if there is one."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if monotonic() - connection.idle_since <= _MAX_IDLE_S:
            return connection
        # Something between here and the engine may have forgotten it, and those that are older.
        connection.abort()
        while self._idle:
            self._idle.pop().abort()
        return None

    def connect(self, waiter: ConnectWaiter) -> None:
        """Open a connection and tell `waiter`."""
        task = asyncio.get_running_loop().create_task(self._connect(waiter))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def open(self) -> UpstreamConnection:
        """A connection of its own. Raises `UpstreamFailure`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = UpstreamConnection(self)
                await loop.create_connection(
                    lambda: as_protocol(connection),
                    self._address.host,
                    self._address.port,
                    ssl=self._ssl,
                )
        except TimeoutError:
            raise UpstreamFailure(
                f"no connection within {self._connect_timeout:g} s", sent=False, timed_out=True
            ) from None
        except OSError as error:
            reason = error.strerror or str(error)
            if isinstance(error, ConnectionError) and error.errno is not None:
                reason = os.strerror(error.errno)  # asyncio's own names the address again
            raise UpstreamFailure(f"cannot connect ({reason})", sent=False) from error
        return connection

    def give_back(self, connection: UpstreamConnection) -> None:
        if self._closed or len(self._idle) >= _MAX_IDLE:
            connection.abort()
        else:
            connection.idle_since = monotonic()
            self._idle.append(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle; connections at work close when their answer ends."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()
        for task in self._connecting:
            task.cancel()

    async def _connect(self, waiter: ConnectWaiter) -> None:
        try:
            connection = await self.open()
        except UpstreamFailure as failure:
            waiter.on_connect_failed(failure)
        else:
            waiter.on_connected(connection)
