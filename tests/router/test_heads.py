"""Heads that are known by their bytes: the same requests and answers as if they were parsed."""

from __future__ import annotations

import asyncio
import json

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.router.heads import KnownHead, split_head

from .fakes import CHAT, Behaviour, FakeEngine, Fleet, Seen, completion, until
from .test_http import BODY, request, wire

HEAD = b"POST /v1/x HTTP/1.1\r\nhost: a\r\nContent-Length:  %d\r\naccept: */*\r\n\r\n"


def known(head: bytes) -> KnownHead[str] | None:
    """The head, once it was parsed."""

    class Fields:
        def __init__(self) -> None:
            self.headers: list[tuple[bytes, bytes]] = []

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers.append((name.lower(), value))

    fields = Fields()
    httptools.HttpRequestParser(fields).feed_data(head)
    found = split_head(head, fields.headers)
    return None if found is None else KnownHead(found[0], found[1], "it")


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_head_is_known_with_any_length(first: bytes, second: bytes) -> None:
    head = known(HEAD % len(first) + first)
    assert head is not None
    assert head.meaning == "it"
    data = HEAD % len(second) + second
    assert head.body_of(data) == (len(data) - len(second), len(second))


@pytest.mark.parametrize(
    "data",
    [
        HEAD.replace(b"host: a", b"host: b") % 5,
        HEAD.replace(b"accept", b"accepT") % 5,
        HEAD.replace(b"%d", b"-5"),
        HEAD.replace(b"%d", b"+5"),
        HEAD.replace(b"%d", b"0x5"),
        HEAD.replace(b"%d", b"5 5"),
        HEAD.replace(b"%d", b""),
        HEAD.replace(b"%d", b"5" * 16),
        (HEAD % 5)[:-1],
        (HEAD % 5)[:40],
        b"",
    ],
)
def test_another_head_is_not_taken_for_it(data: bytes) -> None:
    head = known(HEAD % 3 + b"abc")
    assert head is not None
    assert head.body_of(data) is None


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_a_head_whose_body_ends_otherwise_is_not_remembered(head: bytes) -> None:
    assert known(head) is None


async def test_what_follows_a_known_head_is_a_request_of_its_own() -> None:
    """Shorter, longer, larger than one read, byte by byte, and several at once."""
    engine = FakeEngine("one")
    prompts = ["a", "b" * 700, "c" * 600_000, "", "d" * 70_000]
    bodies = [json.dumps(CHAT | {"user": text}).encode() for text in prompts]
    async with Fleet(engine) as fleet, wire(fleet) as client:
        client.send(request())
        await client.response()
        for body in bodies:
            client.send(request(body))
            assert (await client.response())[0] == "HTTP/1.1 200 OK"
        for at in range(len(request(bodies[1]))):
            client.send(request(bodies[1])[at : at + 1])
            await asyncio.sleep(0)
        await client.response()
        client.send(b"".join(map(request, bodies)))
        for _ in bodies:
            assert (await client.response())[0] == "HTTP/1.1 200 OK"
    assert [seen.body for seen in engine.seen] == [BODY, *bodies, bodies[1], *bodies]
    assert {seen.headers["host"] for seen in engine.seen} == {engine.url.removeprefix("http://")}


async def test_every_request_behind_a_known_head_has_an_id_of_its_own() -> None:
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        ids = set()
        for _ in range(5):
            client.send(request())
            ids.add((await client.response())[1]["x-request-id"])
        assert len(ids) == 5
        for _ in range(3):
            client.send(request(BODY, "x-request-id: mine"))
            assert (await client.response())[1]["x-request-id"] == "mine"


async def test_clients_with_the_same_head_share_it_while_they_are_there() -> None:
    async with Fleet(FakeEngine("one")) as fleet:
        async with wire(fleet) as one, wire(fleet) as two:
            for client in (one, two):
                client.send(request())
                await client.response()
            assert len(fleet.server._heads) == 1
        await until(lambda: not fleet.server.connections)
        assert len(fleet.server._heads) == 0


async def test_a_body_larger_than_the_limit_is_refused_behind_a_known_head() -> None:
    settings = {"router": {"port": 0, "body_limit": 1000}}
    async with Fleet(FakeEngine("one"), **settings) as fleet, wire(fleet) as client:
        client.send(request())
        await client.response()
        client.send(request(json.dumps(CHAT | {"user": "x" * 1000}).encode()))
        assert (await client.response())[0].startswith("HTTP/1.1 413 ")


async def test_a_body_behind_a_known_head_that_does_not_come_is_not_waited_for() -> None:
    settings = {"timeouts": {"client_request": 0.2}}
    async with Fleet(FakeEngine("one"), **settings) as fleet, wire(fleet) as client:
        client.send(request())
        await client.response()
        client.send(request()[:-5])
        assert (await client.response())[0] == "HTTP/1.1 408 Request Timeout"


async def test_an_upload_is_never_taken_for_a_known_request() -> None:
    form = (
        b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        b'{"custom_id": "1"}\r\n--x--\r\n'
    )
    head = (
        b"POST /v1/files HTTP/1.1\r\nhost: r\r\ncontent-type: multipart/form-data; boundary=x\r\n"
        b"content-length: %d\r\n\r\n" % len(form)
    )
    async with Fleet(FakeEngine("one")) as fleet, wire(fleet) as client:
        names = set()
        for _ in range(3):
            client.send(head + form)
            names.add(json.loads((await client.response())[2])["id"])
        assert len(names) == 3


def whole(text: str) -> Behaviour:
    """An answer in one write, as an engine sends a short one."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps(completion(text, "m")).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: e\r\nx-ratelimit-limit-requests: 7\r\n"
            b"content-length: %d\r\ncontent-type: application/json\r\n\r\n%b" % (len(body), body)
        )
        await writer.drain()
        return True

    return behave


async def test_answers_with_a_known_head_are_each_their_own() -> None:
    engine = FakeEngine("one")
    texts = ["a", "b" * 300, "c", "d" * 200_000, "e"]
    engine.script.extend(map(whole, texts))
    async with Fleet(engine) as fleet, wire(fleet) as client:
        for text in texts:
            client.send(request())
            _, fields, body = await client.response()
            assert json.loads(body)["choices"][0]["message"]["content"] == text
            assert fields["server"] == "e"
            assert fields["x-stoker-engine"] == "one"
        assert engine.in_flight == 0
