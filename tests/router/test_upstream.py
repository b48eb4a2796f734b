"""Connections to an engine: which are kept, which are not used again."""

from __future__ import annotations

import asyncio
import time

import pytest

from stoker.router import upstream
from stoker.router.config import Breaker, EngineConfig, Health
from stoker.router.engines.handle import Address, EngineHandle
from stoker.router.fetch import fetch
from stoker.router.upstream import Pool, ResponseHead, UpstreamConnection, UpstreamFailure

from .fakes import FakeEngine


class Receiver:
    """Waits for the end of an answer."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        self.on_head(head)
        self.on_end()

    def on_head(self, head: ResponseHead) -> None:
        assert head.status == 200

    def on_body(self, chunk: bytes) -> None:
        pass

    def on_end(self) -> None:
        self.ended.set()

    def on_failed(self, failure: UpstreamFailure) -> None:
        raise failure


async def use(
    connection: UpstreamConnection, receiver: Receiver | None = None, *, last: bool = False
) -> None:
    receiver = receiver or Receiver()
    connection.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n", b"", receiver, last=last)
    async with asyncio.timeout(5):
        await receiver.ended.wait()


def pool_of(engine: FakeEngine) -> Pool:
    return Pool(Address.parse(engine.url), connect_timeout=1)


async def test_a_used_connection_is_kept_and_the_last_comes_first() -> None:
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        first, second = await pool.open(), await pool.open()
        await use(first)
        await use(second)
        assert (
            pool.idle(),
            pool.idle(),
            pool.idle(),
        ) == (second, first, None)
        assert first.reused
        first.abort()
        second.abort()


async def test_a_connection_that_asked_to_be_closed_is_not_kept() -> None:
    """Even if the engine's answer does not say that it will close."""
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        await use(await pool.open(), last=True)
        assert pool.idle() is None


async def test_a_probe_does_not_close_a_connection_that_a_request_has() -> None:
    """As soon as an answer is over, its connection is another's; whoever asked wakes later."""
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        config = EngineConfig(name="one", kind="native", url=engine.url)
        handle = EngineHandle(config, Breaker(), Health())
        asked = asyncio.create_task(
            fetch(pool, handle, "/tokenize", body=b'{"prompt": "x"}', within=5)
        )
        async with asyncio.timeout(5):
            while (connection := pool.idle()) is None:  # noqa: ASYNC110  (has no event)
                await asyncio.sleep(0)
        # `fetch` is cancelled after the answer came, before it could return it.
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await use(connection)
        connection.abort()


async def test_a_connection_paused_by_its_last_piece_serves_the_next_answer() -> None:
    """That piece may be the one that fills the client's buffers."""

    class SlowReader(Receiver):
        def on_body(self, chunk: bytes) -> None:
            connection.pause()

    async with FakeEngine("one") as engine:
        connection = await pool_of(engine).open()
        await use(connection, SlowReader())
        await use(connection)
        connection.abort()


async def test_a_connection_long_idle_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        for connection in (await pool.open(), await pool.open()):
            await use(connection)
        now = time.monotonic()
        monkeypatch.setattr(upstream, "monotonic", lambda: now + 56)
        assert pool.idle() is None
        assert pool.idle_connections == 0


async def test_a_connection_the_engine_closes_leaves_the_pool() -> None:
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        await use(await pool.open())
        assert pool.idle_connections == 1
        await engine.kill()
        async with asyncio.timeout(5):
            while pool.idle_connections:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_an_engine_that_speaks_unasked_is_cut_off() -> None:
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
        connection = await pool.open()
        await use(connection)
        connection.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.sleep(0.01)
        assert pool.idle_connections == 0


async def test_no_connection_says_why() -> None:
    async with FakeEngine("one") as engine:
        pool = pool_of(engine)
    with pytest.raises(UpstreamFailure, match=r"cannot connect \(Connection refused\)") as caught:
        await pool.open()
    assert not caught.value.sent
    assert caught.value.kind == "unreachable"
