"""HTTP/1.1 as clients and engines really speak it, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from .fakes import (
    CHAT,
    Behaviour,
    FakeEngine,
    Fleet,
    Seen,
    after,
    answer,
    chunk,
    reply,
    start_stream,
    stream_piece,
    until,
)

BODY = json.dumps(CHAT).encode()
STREAM = json.dumps(CHAT | {"stream": True}).encode()


def request(body: bytes = BODY, *fields: str, version: str = "1.1") -> bytes:
    lines = [
        f"POST /v1/chat/completions HTTP/{version}",
        "host: router",
        f"content-length: {len(body)}",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Wire:
    """A client's connection, raw."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[str, dict[str, str]]:
        async with asyncio.timeout(5):
            raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = raw.strip().split("\r\n")
        return status_line, dict(line.split(": ", 1) for line in lines)

    async def response(self) -> tuple[str, dict[str, str], bytes]:
        """A response with a content-length."""
        status_line, fields = await self.head()
        return status_line, fields, await self.reader.readexactly(int(fields["content-length"]))

    async def rest(self) -> bytes:
        """Everything until the router closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()


@asynccontextmanager
async def wire(fleet: Fleet, limit: int = 1 << 20) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.server.port, limit=limit)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def raw_answer(data: bytes, *, close: bool = False) -> Behaviour:
    """These bytes, whatever they are."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        writer.write(data)
        await writer.drain()
        return not close

    return behave


async def test_a_connection_serves_request_after_request() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        for _ in range(3):
            client.send(request())
            status, _, body = await client.response()
            assert status == "HTTP/1.1 200 OK"
            assert json.loads(body)["choices"][0]["message"]["content"] == "engine one here"
        assert len(fleet.server.connections) == 1


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    engine = FakeEngine("one")
    gate = asyncio.Event()
    engine.script.append(after(gate))
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(b"".join(request(BODY, f"x-request-id: r{n}") for n in range(20)))
        await until(lambda: len(engine.seen) == 1)
        gate.set()
        ids = [(await client.response())[1]["x-request-id"] for _ in range(20)]
        assert ids == [f"r{n}" for n in range(20)]
        assert len(engine.seen) == 20


async def test_a_pipelining_client_cannot_fill_memory() -> None:
    engine = FakeEngine("one")
    gate = asyncio.Event()
    engine.default = after(gate)
    big = json.dumps(CHAT | {"pad": "x" * 500_000}).encode()
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(request(big) * 12)
        await until(lambda: len(engine.seen) == 1)
        await asyncio.sleep(0.1)
        [connection] = fleet.server.connections
        assert len(connection._waiting) <= 4
        gate.set()
        for _ in range(12):
            assert (await client.response())[0] == "HTTP/1.1 200 OK"


async def test_a_chunked_request_body() -> None:
    engine = FakeEngine("one")
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for at in range(0, len(BODY), 7):
            piece = BODY[at : at + 7]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        client.send(b"0\r\n\r\n")
        assert (await client.response())[0] == "HTTP/1.1 200 OK"
    assert engine.seen[0].body == BODY
    assert engine.seen[0].headers["content-length"] == str(len(BODY))
    assert "transfer-encoding" not in engine.seen[0].headers


async def test_a_request_that_comes_byte_by_byte() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        for byte in request():
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.response())[0] == "HTTP/1.1 200 OK"


async def test_a_client_that_waits_for_100_continue() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        client.send(
            request(b"", "expect: 100-continue").replace(
                b"content-length: 0", b"content-length: %d" % len(BODY)
            )
        )
        assert await client.head() == ("HTTP/1.1 100 Continue", {})
        client.send(BODY)
        assert (await client.response())[0] == "HTTP/1.1 200 OK"


async def test_http_1_0_gets_no_chunks_and_a_close() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        client.send(request(STREAM, version="1.0"))
        status, fields = await client.head()
        assert status == "HTTP/1.1 200 OK"
        assert fields["connection"] == "close"
        assert "transfer-encoding" not in fields
        words = b"".join(chunk(word) for word in ("engine", "one", "here"))
        assert await client.rest() == words + b"data: [DONE]\n\n"


async def test_connection_close_is_obeyed() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        client.send(request(BODY, "connection: close"))
        _, fields, _ = await client.response()
        assert fields["connection"] == "close"
        assert await client.rest() == b""


async def test_an_offer_to_upgrade_is_ignored() -> None:
    """As Java's HttpClient makes to every server."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    engine = FakeEngine("one")
    async with Fleet(engine) as fleet, wire(fleet) as client:
        for _ in range(2):
            client.send(request(BODY, *offer))
            assert (await client.response())[0] == "HTTP/1.1 200 OK"
    assert not {"upgrade", "http2-settings", "connection"} & set(engine.seen[0].headers)


async def test_head_has_no_body() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        client.send(b"HEAD /health HTTP/1.1\r\nhost: r\r\n\r\n" + request())
        status, fields = await client.head()
        assert status == "HTTP/1.1 200 OK"
        assert int(fields["content-length"]) > 0
        assert (await client.response())[0] == "HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"NONSENSE\r\n\r\n", 400, "Not an HTTP/1.1 request: Invalid method encountered."),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            400,
            "Not an HTTP/1.1 request: Transfer-Encoding can't be present with Content-Length.",
        ),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            400,
            "Not an HTTP/1.1 request: Duplicate Content-Length.",
        ),
        (
            b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n",
            413,
            "The request's body is larger than 1000 bytes (router.body_limit).",
        ),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
            413,
            "The request's body is larger than 1000 bytes (router.body_limit).",
        ),
        (
            b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 70_000,
            431,
            "The request's header is larger than 65536 bytes.",
        ),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(
    data: bytes, status: int, message: str
) -> None:
    settings = {"port": 0, "body_limit": 1000, "policy": "least_in_flight"}
    async with Fleet(FakeEngine("one"), router=settings) as fleet, wire(fleet) as client:
        client.send(data)
        line, fields, body = await client.response()
        assert line.startswith(f"HTTP/1.1 {status} ")
        assert json.loads(body)["error"]["message"] == message
        assert fields["connection"] == "close"
        assert await client.rest() == b""


async def test_a_good_request_before_a_bad_one_is_answered() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        client.send(request() + b"NONSENSE\r\n\r\n")
        assert (await client.response())[0] == "HTTP/1.1 200 OK"
        assert (await client.response())[0] == "HTTP/1.1 400 Bad Request"


async def test_the_reason_for_a_413_arrives_while_the_body_still_comes() -> None:
    settings = {"port": 0, "body_limit": 1000, "drain": 0.1}
    async with Fleet(FakeEngine("one"), router=settings) as fleet, wire(fleet) as client:
        client.send(request(b"x" * 5_000_000))
        assert (await client.response())[0].startswith("HTTP/1.1 413 ")


async def test_a_request_that_never_ends_is_cut_off() -> None:
    settings = {"timeouts": {"client_request": 0.2}}
    async with Fleet(FakeEngine("one"), **settings) as fleet, wire(fleet) as client:
        client.send(request()[:-9])
        for _ in range(3):
            await asyncio.sleep(0.05)
            client.send(b" ")  # a byte now and then does not keep it alive
        line, _, body = await client.response()
        assert line == "HTTP/1.1 408 Request Timeout"
        assert json.loads(body)["error"]["code"] == "timeout"


async def test_an_idle_connection_is_closed() -> None:
    settings = {"timeouts": {"client_idle": 0.2}}
    async with Fleet(FakeEngine("one"), **settings) as fleet, wire(fleet) as client:
        client.send(request())
        await client.response()
        assert await client.rest() == b""


async def test_a_slow_reader_holds_back_the_engine_not_the_routers_memory() -> None:
    engine = FakeEngine("one")
    sent = 0
    piece = b"data: " + b"x" * 10_000 + b"\n\n"

    async def flood(fake: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        nonlocal sent
        await start_stream(writer)
        for _ in range(3000):
            await stream_piece(writer, piece)
            sent += len(piece)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    engine.default = flood
    async with Fleet(engine) as fleet, wire(fleet, limit=4096) as client:
        client.send(request(STREAM, version="1.0"))
        await client.head()
        settled, before = 0, -1
        while settled < 5:
            await asyncio.sleep(0.05)
            settled = settled + 1 if sent == before else 0
            before = sent
        # What is under way: sockets' buffers on four ends, and the router's high-water mark.
        assert 0 < sent < 25_000_000
        received = 0
        async with asyncio.timeout(20):
            while data := await client.reader.read(1 << 20):
                received += len(data)
        assert received == 3000 * len(piece)
        await fleet.settled()
        assert fleet.in_flight() == {"one": 0}


async def test_a_client_that_does_not_read_at_all_is_given_up() -> None:
    engine = FakeEngine("one")

    async def flood(fake: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await start_stream(writer)
        while True:
            await stream_piece(writer, b"x" * 100_000)

    engine.default = flood
    settings = {"timeouts": {"client_idle": 0.3}}
    async with Fleet(engine, **settings) as fleet, wire(fleet, limit=4096) as client:
        client.send(request(STREAM))
        await until(lambda: engine.in_flight == 1)
        await fleet.settled()
        assert fleet.in_flight() == {"one": 0}


@pytest.mark.parametrize(
    ("data", "close"),
    [
        pytest.param(b'HTTP/1.1 200 OK\r\n\r\n{"a": 1}', True, id="until the end"),
        pytest.param(b'HTTP/1.0 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}', True, id="http 1.0"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
            b'3\r\n{"a\r\n5;x=y\r\n": 1}\r\n0\r\nx-trailer: z\r\n\r\n',
            False,
            id="chunks",
        ),
        pytest.param(
            b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}',
            False,
            id="after a 100",
        ),
        pytest.param(
            b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\n{"a": 1}',
            True,
            id="and closes",
        ),
    ],
)
async def test_however_an_engine_frames_its_answer(data: bytes, close: bool) -> None:
    engine = FakeEngine("one")
    engine.default = raw_answer(data, close=close)
    async with Fleet(engine) as fleet, wire(fleet) as client:
        for _ in range(2):
            client.send(request())
            status, fields, body = await client.response()
            assert (status, body) == ("HTTP/1.1 200 OK", b'{"a": 1}')
            assert "transfer-encoding" not in fields
            assert "connection" not in fields


async def test_an_answer_without_a_body() -> None:
    engine = FakeEngine("one")
    engine.default = raw_answer(b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n")
    async with Fleet(engine) as fleet, wire(fleet) as client:
        for _ in range(2):
            client.send(request())
            status, fields = await client.head()
            assert status == "HTTP/1.1 204 No Content"
            assert fields["x-a"] == "b"
            assert "content-length" not in fields


async def test_an_engine_that_says_more_than_it_was_asked() -> None:
    """What follows an answer must never be taken for the next one's."""
    engine = FakeEngine("one")
    good = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"a": 1}'
    forged = b'HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{"b": 2}'
    engine.default = raw_answer(good + forged)
    async with Fleet(engine) as fleet, wire(fleet) as client:
        for _ in range(3):
            client.send(request())
            assert (await client.response())[2] == b'{"a": 1}'


async def test_connection_fields_stay_on_their_hop() -> None:
    engine = FakeEngine("one")

    async def behave(fake: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        fields = {"connection": "keep-alive, x-private", "x-private": "1", "x-public": "2"}
        return await reply(writer, 200, b"{}", fields)

    engine.default = behave
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(request(BODY, "connection: x-mine", "x-mine: 1", "x-other: 2", "te: trailers"))
        _, fields, _ = await client.response()
        assert "x-private" not in fields
        assert fields["x-public"] == "2"
    assert engine.seen[0].headers["x-other"] == "2"
    assert not {"x-mine", "te", "connection"} & set(engine.seen[0].headers)


async def test_a_large_prompt_passes_whole() -> None:
    engine = FakeEngine("one")
    text = "".join(f"word {n} " for n in range(200_000))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(request(body))
        assert (await client.response())[0] == "HTTP/1.1 200 OK"
    assert engine.seen[0].body == body


async def test_a_large_answer_passes_whole() -> None:
    engine = FakeEngine("one")
    body = b'{"pad": "' + b"x" * 3_000_000 + b'"}'

    async def behave(fake: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        return await reply(writer, 200, body)

    engine.script.extend([behave, answer])
    async with Fleet(engine) as fleet, wire(fleet, limit=1 << 23) as client:
        client.send(request())
        assert (await client.response())[2] == body
        client.send(request())
        assert (await client.response())[0] == "HTTP/1.1 200 OK"
