"""The HTTP protocol, with an end to the patience for clients that do not read."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)


class BoundedProtocol(HttpToolsProtocol):
    """Cuts a connection whose client has not read what was written for `write_timeout` seconds.

    The transport calls `pause_writing` when more than its high-water mark (64 KiB beyond the
    socket's own buffer) is unsent, and `resume_writing` when it has gone; between them nothing
    more is written. A request whose connection is cut ends as if its client had left.
    """

    write_timeout: ClassVar[float]
    _stalled: asyncio.TimerHandle | None = None

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
