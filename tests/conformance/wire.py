"""A small HTTP client for storms of requests: it counts, cuts connections and reads slowly."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def ended(self) -> bool:
        """A stream says that it is over, with or without an error before."""
        return self.body.endswith(b"data: [DONE]\n\n")


class Connection:
    """One kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def send(self, path: str, body: object) -> None:
        """Send a POST; `body` as it is if bytes, else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(data)}\r\n\r\n"
        )
        self._writer.write(head.encode() + data)

    async def receive(self, *, pause: float = 0.0) -> Answer:
        """Read a whole answer; `pause` seconds between the pieces of a stream.

        Raises `asyncio.IncompleteReadError` when the server closes the connection instead.
        """
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length:
            return Answer(status, await self._reader.readexactly(int(length)))
        body = b""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            body += (await self._reader.readexactly(size + 2))[:-2]
            if pause:
                await asyncio.sleep(pause)
        await self._reader.readexactly(2)
        return Answer(status, body)

    async def receive_some(self) -> None:
        """Read what comes first, and no more."""
        await self._reader.read(64)
