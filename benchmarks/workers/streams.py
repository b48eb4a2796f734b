"""An engine that streams, and clients that read streams; for benchmarks/router.py.

    python streams.py serve PORT
    python streams.py fast|paced PORT STREAMS SECONDS

`fast`: each stream's next chunk is written as soon as the last has left; chunks per second that
arrive. `paced`: a chunk every 20 ms in each stream, with the time it was written in it; how late
it arrives. Figures come as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import cast

import uvloop

PACE_S = 0.02
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}],"t":%017.6f}\n\n'
)


def chunk() -> bytes:
    data = PIECE % time.monotonic()
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """Answers probes, and a request with a stream that ends when the client leaves."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.paused = False
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        if data.startswith(b"GET"):
            body = b'{"object":"list","data":[{"id":"m"}]}'
            self.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
        elif self.task is None:
            self.task = asyncio.ensure_future(self.stream(paced=b'"paced"' in data))

    async def stream(self, *, paced: bool) -> None:
        assert self.transport is not None
        self.transport.write(HEAD)
        while not self.transport.is_closing():
            if not self.paused:
                self.transport.write(chunk())
            await asyncio.sleep(PACE_S if paced else 0)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Engine, "127.0.0.1", port)
    await server.serve_forever()


class Client(asyncio.Protocol):
    """Counts the chunks of one stream, and notes how late they are."""

    def __init__(self, kind: str, late: list[float]) -> None:
        self.kind = kind
        self.late = late
        self.chunks = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        body = json.dumps(
            {"model": "m", "stream": True, "user": self.kind, "messages": []}
        ).encode()
        key = os.environ.get("STOKER_KEY", "none")
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        head += "content-length: "
        self.transport.write(f"{head}{len(body)}\r\n\r\n".encode() + body)

    def data_received(self, data: bytes) -> None:
        self.chunks += data.count(b'"t":')
        if self.kind == "paced":
            now = time.monotonic()
            at = data.find(b'"t":')
            while at >= 0:
                stamp = data[at + 4 : at + 21]
                if len(stamp) == 17:
                    self.late.append(now - float(stamp))
                at = data.find(b'"t":', at + 4)


async def read(kind: str, port: int, streams: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    late: list[float] = []
    clients = [Client(kind, late) for _ in range(streams)]
    for client in clients:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(1)
    late.clear()
    before, began = sum(client.chunks for client in clients), time.monotonic()
    await asyncio.sleep(seconds)
    count = sum(client.chunks for client in clients) - before
    figures = {"chunks/s": count / (time.monotonic() - began)}
    if late:
        late.sort()
        figures["p50 late ms"] = late[len(late) // 2] * 1e3
        figures["p99 late ms"] = late[len(late) * 99 // 100] * 1e3
    print(json.dumps(figures))
    for client in clients:
        assert client.transport is not None
        client.transport.abort()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        uvloop.run(serve(int(sys.argv[2])))
    else:
        uvloop.run(read(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
