"""Following an engine's events over real sockets, and routing by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
import zmq
import zmq.asyncio

from stoker.router.kv.index import KvIndex
from stoker.router.kv.subscriber import Subscriber
from stoker.router.policies.kv import Kv
from tests.router.fakes import CHAT, FakeEngine, Fleet, until
from tests.router.policies.fleets import fleet


class Publisher:
    """An engine's side: publishes batches, replays them if asked."""

    def __init__(self, *, replays: bool = True, topic: bool = True) -> None:
        self._topic = (b"kv",) if topic else ()
        """Older engines leave the topic out of what they replay."""
        self._context = zmq.asyncio.Context.instance()
        self._pub = self._context.socket(zmq.PUB)
        self._pub.linger = 0
        self.events = f"tcp://127.0.0.1:{self._pub.bind_to_random_port('tcp://127.0.0.1')}"
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.replay = f"tcp://127.0.0.1:{port}" if replays else None
        self.kept: list[bytes] = []
        self.replayed = 0
        self._task = asyncio.ensure_future(self._serve_replays())

    async def publish(self, *texts: str, heard: bool = True) -> None:
        """A batch in which each text entered the cache, a token a character, blocks of two."""
        events = []
        for text in texts:
            hashes = [text[:end].encode() for end in range(2, len(text) + 1, 2)]
            tokens = [ord(c) for c in text]
            events.append(["BlockStored", hashes, None, tokens, 2, None, "GPU"])
        payload = msgspec.msgpack.encode([0.0, events])
        self.kept.append(payload)
        if heard:
            number = len(self.kept) - 1
            await self._pub.send_multipart((b"kv", number.to_bytes(8, "big"), payload))

    async def _serve_replays(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            self.replayed += 1
            for number in range(int.from_bytes(start, "big"), len(self.kept)):
                frames = (*self._topic, number.to_bytes(8, "big"), self.kept[number])
                await self._router.send_multipart((client, b"", *frames))
            end = (-1).to_bytes(8, "big", signed=True)
            await self._router.send_multipart((client, b"", *self._topic, end, b""))

    def close(self) -> None:
        self._task.cancel()
        self._pub.close()
        self._router.close()


@pytest.fixture
def publishers() -> Iterator[list[Publisher]]:
    made: list[Publisher] = []
    yield made
    for publisher in made:
        publisher.close()


def known(index: KvIndex, engine: object, text: str) -> int:
    return index.match([ord(c) for c in text], None, [engine])[0]  # type: ignore[list-item]


async def follow(publisher: Publisher, index: KvIndex) -> tuple[object, asyncio.Task[None]]:
    """A subscriber that has heard something."""
    [engine] = fleet(0)
    subscriber = Subscriber(engine, index, events=publisher.events, replay=publisher.replay)
    task = asyncio.create_task(subscriber.run())
    for _ in range(200):
        await publisher.publish("hello")
        await asyncio.sleep(0.01)
        if known(index, engine, "hello"):
            break
    return engine, task


async def test_events_reach_the_index(publishers: list[Publisher]) -> None:
    publishers.append(publisher := Publisher())
    index = KvIndex(asyncio.get_running_loop().time)
    engine, task = await follow(publisher, index)
    await publisher.publish("abcdef", "xy")
    await until(lambda: known(index, engine, "abcdefgh") == 6)
    assert known(index, engine, "xyz") == 2
    task.cancel()


@pytest.mark.parametrize("topic", [True, False])
async def test_what_was_there_before_is_replayed(publishers: list[Publisher], topic: bool) -> None:
    publishers.append(publisher := Publisher(topic=topic))
    await publisher.publish("before", heard=False)
    index = KvIndex(asyncio.get_running_loop().time)
    engine, task = await follow(publisher, index)
    assert known(index, engine, "before") == 6
    task.cancel()


async def test_a_gap_is_noticed_and_filled(publishers: list[Publisher]) -> None:
    publishers.append(publisher := Publisher())
    index = KvIndex(asyncio.get_running_loop().time)
    engine, task = await follow(publisher, index)
    before = publisher.replayed
    await publisher.publish("missed", heard=False)
    await publisher.publish("missed too", heard=False)
    await publisher.publish("other!")
    await until(lambda: known(index, engine, "other!") == 6)
    assert (known(index, engine, "missed"), known(index, engine, "missed too")) == (6, 10)
    assert publisher.replayed == before + 1
    task.cancel()


async def test_without_replay_a_gap_means_to_forget(publishers: list[Publisher]) -> None:
    publishers.append(publisher := Publisher(replays=False))
    index = KvIndex(asyncio.get_running_loop().time)
    engine, task = await follow(publisher, index)
    await publisher.publish("missed", heard=False)
    await publisher.publish("other!")
    await until(lambda: known(index, engine, "other!") == 6)
    assert (known(index, engine, "hello"), known(index, engine, "missed")) == (0, 0)
    task.cancel()


async def test_an_engine_that_starts_anew_has_an_empty_cache(publishers: list[Publisher]) -> None:
    publishers.append(publisher := Publisher())
    index = KvIndex(asyncio.get_running_loop().time)
    engine, task = await follow(publisher, index)
    await publisher.publish("old")
    await until(lambda: known(index, engine, "old") == 2)
    publisher.kept.clear()
    await publisher.publish("new")
    await until(lambda: known(index, engine, "new") == 2)
    assert (known(index, engine, "old"), known(index, engine, "hello")) == (0, 0)
    task.cancel()


async def test_requests_go_where_their_prompt_is_cached(publishers: list[Publisher]) -> None:
    publishers += [Publisher(), Publisher()]
    engines = FakeEngine("one"), FakeEngine("two")
    kv = {
        engine.name: {"kv_events": publisher.events, "kv_replay": publisher.replay}
        for engine, publisher in zip(engines, publishers, strict=True)
    }
    text = "The quick brown fox jumps over the lazy dog. " * 20
    other = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 20
    await publishers[0].publish(other, heard=False)
    await publishers[1].publish(text, heard=False)
    router = {"port": 0, "policy": "kv", "drain": 1}
    async with Fleet(*engines, router=router, engine_settings=kv) as running:
        policy = running.server.dispatcher.policy
        assert isinstance(policy, Kv)
        await until(lambda: all(policy.index.blocks(running.handle(n)) > 9 for n in ("one", "two")))
        for _ in range(3):
            for prompt, expected in ((text, "two"), (other, "one")):
                body = CHAT | {"messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
                response = await running.post(body)
                assert response.headers["x-stoker-engine"] == expected
                assert response.headers["x-stoker-reason"].startswith("kv: ")
        # What nobody holds is shared out by load.
        fresh = [CHAT | {"messages": [{"role": "user", "content": f"{n} {n}"}]} for n in range(4)]
        chosen = [(await running.post(body)).headers["x-stoker-engine"] for body in fresh]
        assert sorted(chosen) == ["one", "one", "two", "two"]
