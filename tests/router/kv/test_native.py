"""Two of our own servers publish, and the router goes by what they say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from stoker.router.configfile import parse_config
from stoker.router.kv.index import KvIndex
from stoker.router.policies.kv import Kv
from stoker.router.server import RouterServer
from stoker.telemetry.kv_events.config import KVEventsConfig
from stoker.telemetry.kv_events.publisher import KVEventPublisher
from tests.router.fakes import until
from tests.server.conftest import RunningServer, running
from tests.server.doubles import letter_model

NAMES = ("one", "two")
FOX = "The quick brown fox jumps over the lazy dog. " * 8
LOREM = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 8


class Engine:
    """One of our servers, and its publisher."""

    def __init__(self, name: str, folder: Path, stack: ExitStack, num_blocks: int) -> None:
        self.name = name
        config = KVEventsConfig(
            enable_kv_cache_events=True,
            endpoint=f"ipc://{folder}/{name}",
            replay_endpoint=f"ipc://{folder}/{name}-replay",
        )
        self.publisher = KVEventPublisher(config)
        stack.callback(self.publisher.close)
        self.server: RunningServer = stack.enter_context(
            running(lambda: letter_model(num_blocks=num_blocks, kv_listener=self.publisher.publish))
        )

    async def ask(self, prompt: str) -> None:
        """Ask it directly, so that its cache holds the prompt."""
        body = {"model": "letters", "messages": [{"role": "user", "content": prompt}]}
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(
                f"{self.server.url}/v1/chat/completions", json={**body, "max_tokens": 1}
            )
        assert answer.status_code == 200

    async def forget(self) -> bool:
        """Empty its cache."""
        engine = self.server.model.engine
        assert engine._loop is not None
        reset = asyncio.run_coroutine_threadsafe(engine.reset_prefix_cache(), engine._loop)
        return await asyncio.wrap_future(reset)


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    with ExitStack() as stack:
        yield [Engine(name, tmp_path, stack, num_blocks=64) for name in NAMES]


@asynccontextmanager
async def router(engines: list[Engine]) -> AsyncIterator[RouterServer]:
    settings = {
        "router": {"port": 0, "drain": 1, "policy": "kv"},
        "engines": [
            {
                "name": engine.name,
                "kind": "native",
                "url": engine.server.url,
                "kv_events": engine.publisher.endpoint,
                "kv_replay": engine.publisher.replay_endpoint,
            }
            for engine in engines
        ],
    }
    server = RouterServer(parse_config(json.dumps(settings), environment={}))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def index_of(server: RouterServer) -> KvIndex:
    policy = server.dispatcher.policy
    assert isinstance(policy, Kv)
    return policy.index


def blocks(server: RouterServer, engine: Engine) -> int:
    """How many blocks the router knows the engine to hold."""
    return index_of(server).blocks(server.dispatcher.fleet.engines[engine.name])


def held(engine: Engine) -> int:
    """How many it does hold."""
    return engine.server.model.engine.stats().num_cached_blocks


async def in_step(server: RouterServer, engines: list[Engine]) -> None:
    await until(lambda: all(blocks(server, e) == held(e) > 0 for e in engines), seconds=60)


async def choice(server: RouterServer, prompt: str) -> tuple[str, str]:
    """Which engine the router chooses, and why."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        answer = await client.post(
            "/v1/chat/completions",
            json={
                "model": "letters",
                "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 1,
            },
        )
    assert answer.status_code == 200
    return answer.headers["x-stoker-engine"], answer.headers["x-stoker-reason"]


async def test_requests_go_to_the_server_that_holds_their_prefix(engines: list[Engine]) -> None:
    one, two = engines
    await one.ask(FOX)  # before the router is there: it learns of it by replay
    async with router(engines) as server:
        await until(lambda: blocks(server, one) == held(one) > 0, seconds=60)
        await two.ask(LOREM)
        await in_step(server, engines)
        for _ in range(3):
            for prompt, expected in ((FOX, "one"), (LOREM, "two")):
                name, reason = await choice(server, prompt + "And then?")
                assert name == expected
                assert reason.startswith("kv: ")

        # What an engine forgets, the router forgets: the fox is at two now.
        assert await one.forget()
        await until(lambda: blocks(server, one) == 0, seconds=60)
        await two.ask(FOX)
        await until(lambda: blocks(server, two) == held(two), seconds=60)
        assert (await choice(server, FOX + "And then?"))[0] == "two"


async def test_what_is_evicted_is_no_longer_counted(engines: list[Engine]) -> None:
    one, two = engines
    async with router(engines) as server:
        await one.ask(FOX)
        await two.ask("Something short, but longer than a block.")
        await in_step(server, engines)
        for number in range(4):  # 64 blocks hold no more than two of these and the fox
            await one.ask(f"{number} " + LOREM)
        await in_step(server, engines)
        tokens = two.server.model.tokenizer.encode(f"<|im_start|>user\n{FOX}")
        handles = [server.dispatcher.fleet.engines[name] for name in NAMES]
        assert index_of(server).match(tokens, None, handles)[0] <= 16


async def test_a_gap_is_filled_from_the_replay_socket(
    engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = engines
    async with router(engines) as server:
        await one.ask(FOX)
        await two.ask(FOX[:40])
        await in_step(server, engines)
        with monkeypatch.context() as deaf:  # what is sent now reaches nobody
            deaf.setattr(one.publisher, "_pub", Nowhere())
            await one.ask(LOREM)
            await until(lambda: not one.publisher._queue, seconds=60)
        known = blocks(server, one)
        assert known < held(one)
        await one.ask("Another prompt that is longer than a block of tokens.")
        await in_step(server, engines)
        assert (await choice(server, LOREM + "And then?"))[0] == "one"


class Nowhere:
    """A socket whose messages are lost."""

    def send_multipart(self, frames: object) -> None:
        pass
