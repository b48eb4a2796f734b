"""The least that a router must do with a body: take it in, hash it, pass it on.

    python pipe.py PORT ENGINE_PORT

Every byte goes through this process and is hashed once; nothing is parsed. What a large body costs
here is what it costs to copy and hash it. For benchmarks/router.py.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


class End(asyncio.Protocol):
    """One of the two connections of a pipe."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        hash(data)
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Client(End):
    def __init__(self, engine: int) -> None:
        super().__init__()
        self.engine = engine

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connecting = asyncio.ensure_future(self.connect())

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(End, "127.0.0.1", self.engine)
        other.other, self.other = self, other
        assert other.transport is not None
        other.transport.write(b"".join(self.early))


async def serve(port: int, engine: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(engine), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
