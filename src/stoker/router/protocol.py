"""What an event loop calls on a connection."""

from __future__ import annotations

import asyncio
from typing import cast


class StreamProtocol:
    """The methods of `asyncio.Protocol`, each doing nothing.

    Not `asyncio.Protocol` itself: a class of Python's above it would keep a compiled connection
    from having fields in place of a dictionary. Event loops ask for the methods, not the class.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    def eof_received(self) -> bool | None:
        """None: the transport closes itself."""
        return None


def as_protocol(connection: StreamProtocol) -> asyncio.Protocol:
    """The same connection, as event loops are typed to want it."""
    return cast(asyncio.Protocol, connection)
