"""The HTTP protocol, with a short way for streams and an end to the patience for clients that do
not read."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

log = logging.getLogger(__name__)

_EXTENSION = "stoker.body"


class BodyWriter:
    """Writes pieces of one response's body without a message and a coroutine for each.

    For a body that has begun through ASGI's `send`, and will end through it.
    """

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._flow = cycle.flow
        self._write = cycle.transport.write

    def is_ready(self) -> bool:
        """Whether a piece may be written now: the body goes on, in chunks, and the client reads
        what was written before. Otherwise `send` knows what to do."""
        cycle = self._cycle
        return bool(
            cycle.chunked_encoding
            and not self._flow.write_paused
            and not cycle.disconnected
            and not cycle.response_complete
        )

    def write(self, piece: bytes) -> None:
        """Write a piece, not empty, while `is_ready`."""
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece))


def body_writer(scope: Scope) -> BodyWriter | None:
    """The writer of this request's response; None where another protocol serves it."""
    writer: BodyWriter | None = scope.get("extensions", {}).get(_EXTENSION, {}).get("writer")
    return writer


class BoundedProtocol(HttpToolsProtocol):
    """Cuts a connection whose client has not read what was written for `write_timeout` seconds.

    The transport calls `pause_writing` when more than its high-water mark (64 KiB beyond the
    socket's own buffer) is unsent, and `resume_writing` when it has gone; between them nothing
    more is written. A request whose connection is cut ends as if its client had left.
    """

    write_timeout: ClassVar[float]
    _stalled: asyncio.TimerHandle | None = None

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["extensions"] = {_EXTENSION: {"writer": BodyWriter(self.cycle)}}

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.write_timeout, self._give_up)

    def resume_writing(self) -> None:
        self._forget()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        log.warning("a client read nothing for %g s: its connection is cut", self.write_timeout)
        self.transport.abort()

    def _forget(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def protocol_with(seconds: float) -> type[BoundedProtocol]:
    """The protocol with a `write_timeout`."""
    return type("Protocol", (BoundedProtocol,), {"write_timeout": seconds})
