"""What a request costs in the router's own code: no sockets, no kernel, one process.

    python benchmarks/router_path.py [--requests 40000] [--rounds 5] [--profile]

The router as `benchmarks/router.py` configures it (a key with limits and a budget, prices,
metrics, the access log, the policy `prefix`, two engines), driven through its two protocols by
transports that keep nothing: 32 clients send a request each, 32 answers come back, and so on. CPU
time in µs for each request, by what it is spent on; best of the rounds, since whatever else runs
on a machine only adds. `--profile` samples the process instead and prints the functions that take
most, with what they call and without.

What it leaves out, about half of what a request costs: reading and writing sockets, and waking
whoever waits for them. To run the code of another checkout, set PYTHONPATH.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvloop
from router import chat
from router_peers import ANSWER, KEY, stoker_config

from stoker.router import process
from stoker.router.access_log import AccessLog
from stoker.router.config import Config
from stoker.router.downstream import ClientConnection
from stoker.router.engines.handle import EngineModel
from stoker.router.server import RouterServer
from stoker.router.upstream import UpstreamConnection

CLIENTS = 32
READ_BYTES = 256 * 1024
"""What uvloop reads at once."""
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"finish_reason":null}]}\n\n'
)


class Wire:
    """A transport that counts what it is given, and can tell somebody."""

    def __init__(self, written: Callable[[], None] | None = None) -> None:
        self.bytes = 0
        self.last = b""
        self._written = written

    def write(self, data: bytes) -> None:
        self.bytes += len(data)
        self.last = data
        if self._written is not None:
            self._written()

    def writelines(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self.bytes += len(piece)
            self.last = piece
        if self._written is not None:
            self._written()

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        raise SystemExit("a connection was aborted")

    close = abort

    def pause_reading(self) -> None: ...

    resume_reading = pause_reading


class Bench:
    """A router, its clients, and engines that are not there."""

    def __init__(self, policy: str, directory: Path) -> None:
        config = Config.model_validate(stoker_config(policy, [1, 2], directory))
        self.server = RouterServer(config)
        dispatcher = self.server.dispatcher
        dispatcher.access_log = AccessLog(str(directory / "access.log"))
        self.asked: collections.deque[UpstreamConnection] = collections.deque()
        for engine in dispatcher.fleet.engines.values():
            engine.health.passed()
            dispatcher.fleet.set_models(engine, [("m", EngineModel("m"))])
            pool = dispatcher.pool(engine)
            for _ in range(CLIENTS):
                connection = UpstreamConnection(pool)
                wire = Wire(lambda connection=connection: self.asked.append(connection))  # type: ignore[misc]
                connection.connection_made(cast(asyncio.Transport, wire))
                pool.give_back(connection)
        self.clients: list[tuple[ClientConnection, Wire]] = []
        for _ in range(CLIENTS):
            client, wire = ClientConnection(self.server), Wire()
            client.connection_made(cast(asyncio.Transport, wire))
            self.clients.append((client, wire))

    async def requests(self, count: int, request: bytes, answer: bytes) -> tuple[float, float]:
        """Seconds of CPU time for so many: until the engine was asked, and from its answer on."""
        pieces = [request[i : i + READ_BYTES] for i in range(0, len(request), READ_BYTES)]
        clock = time.process_time
        asking = answering = 0.0
        access_log = self.server.dispatcher.access_log
        assert access_log is not None
        before = sum(wire.bytes for _, wire in self.clients)
        for _ in range(count // CLIENTS):
            began = clock()
            for client, _wire in self.clients:
                for piece in pieces:
                    client.data_received(piece)
            asked = clock()
            for connection in dict.fromkeys(self.asked):
                connection.data_received(answer)
            answering += clock() - asked
            asking += asked - began
            self.asked.clear()
            access_log._take()
            await asyncio.sleep(0)
        written = sum(wire.bytes for _, wire in self.clients) - before
        assert written > count // CLIENTS * CLIENTS * len(ANSWER), "requests were not answered"
        assert b"200 OK" in self.clients[0][1].last, self.clients[0][1].last
        return asking, answering

    async def chunks(self, count: int) -> float:
        """Seconds of CPU time for so many pieces of a stream."""
        client, wire = self.clients[0]
        client.data_received(request_of(chat("?").replace("}", ', "stream": true}', -1)))
        (connection,) = dict.fromkeys(self.asked)
        self.asked.clear()
        connection.data_received(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        piece = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
        began, before = time.process_time(), wire.bytes
        for _ in range(count):
            connection.data_received(piece)
        took = time.process_time() - began
        assert wire.bytes - before >= count * len(EVENT)
        connection.data_received(b"0\r\n\r\n")
        return took


def request_of(body: str) -> bytes:
    """As `wrk` writes it."""
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
        f"authorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def answer_of(body: str) -> bytes:
    """As nginx writes it."""
    return (
        "HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 18:44:23 GMT\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: keep-alive\r\n\r\n{body}"
    ).encode()


class Samples:
    """Where the process is, a thousand times in each second of its CPU time."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.whole: Counter[str] = Counter()

    def __enter__(self) -> Samples:
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        leaf, seen = True, set()
        while frame is not None:
            code = frame.f_code
            name = f"{Path(code.co_filename).name}:{code.co_qualname}"
            if leaf:
                self.own[name] += 1
                leaf = False
            seen.add(name)
            frame = frame.f_back
        self.whole.update(seen)

    def print(self, per_request_us: float) -> None:
        total = sum(self.own.values())
        print(f"{'with callees':>14} {'itself':>8}  µs of {per_request_us:.1f}")
        for name, count in self.whole.most_common(60):
            whole = count / total * per_request_us
            print(f"{whole:14.2f} {self.own[name] / total * per_request_us:8.2f}  {name}")


async def run(given: argparse.Namespace, directory: Path) -> None:
    bench = Bench(given.policy, directory)
    short = request_of(chat("What is the capital of France, and how many people live there?"))
    long, answer = request_of(chat("word " * 40_000)), answer_of(ANSWER)
    await bench.requests(5_000, short, answer)
    if given.profile:
        with Samples() as samples:
            asking, answering = await bench.requests(given.requests, short, answer)
        samples.print((asking + answering) / given.requests * 1e6)
        return
    count, few = given.requests, max(CLIENTS, given.requests // 20 // CLIENTS * CLIENTS)
    figures: dict[str, list[float]] = {}

    def note(name: str, seconds: float, of: int) -> None:
        figures.setdefault(name, []).append(seconds / of * 1e6)

    for _ in range(given.rounds):
        asking, answering = await bench.requests(count, short, answer)
        note("a request, until the engine is asked", asking, count)
        note("from the engine's answer on", answering, count)
        note("together", asking + answering, count)
        note("a 200 KB request", sum(await bench.requests(few, long, answer)), few)
        note("a chunk of a stream", await bench.chunks(count), count)
    for name, values in figures.items():
        print(f"{name:40} {min(values):8.2f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--policy", default="prefix")
    parser.add_argument("--profile", action="store_true")
    given: Any = parser.parse_args()
    process.prepare()
    with tempfile.TemporaryDirectory() as name:
        uvloop.run(run(given, Path(name)))


if __name__ == "__main__":
    main()
