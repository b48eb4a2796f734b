"""What one router tells and hears, in one process."""

from __future__ import annotations

import asyncio
from typing import Any

from stoker.router.shared.link import RedisLink

from ..fakes import CHAT, FakeEngine, Fleet, after, until
from .redis_server import RedisServer


def replica(redis: RedisServer, name: str, **settings: Any) -> Fleet:
    return Fleet(FakeEngine("e"), redis={"url": redis.url, "timeout": 10}, **settings)


async def told(*fleets: Fleet) -> None:
    """Wait until Redis is there and each has heard of the others."""
    await until(lambda: all(link(fleet).up for fleet in fleets), 60)
    shared = [fleet.server.shared for fleet in fleets]
    await until(lambda: all(one is not None and one.routers == len(fleets) for one in shared), 60)


def link(fleet: Fleet) -> RedisLink:
    assert fleet.server.dispatcher.redis is not None
    return fleet.server.dispatcher.redis


async def test_tokens_in_flight_are_told_too(redis: RedisServer) -> None:
    async with replica(redis, "one") as one, replica(redis, "two") as two:
        await told(one, two)
        gate = asyncio.Event()
        one.engines[0].default = after(gate)
        task = asyncio.create_task(one.post({**CHAT, "max_tokens": 33}))
        mine, seen = one.handle("e"), two.handle("e")
        await until(lambda: seen.elsewhere.in_flight == 1, 60)
        assert seen.elsewhere.prompt_tokens == mine.prompt_tokens_in_flight > 0
        assert seen.elsewhere.output_tokens == mine.output_tokens_in_flight == 33
        assert mine.elsewhere.in_flight == 0
        gate.set()
        assert (await task).status_code == 200
        await until(lambda: seen.elsewhere.in_flight == 0, 60)


async def test_a_full_engine_is_full_for_all(redis: RedisServer) -> None:
    small = {"engine_settings": {"e": {"max_in_flight": 2}}}
    async with replica(redis, "one", **small) as one, replica(redis, "two", **small) as two:
        await told(one, two)
        gate = asyncio.Event()
        for fleet in (one, two):
            fleet.engines[0].default = after(gate)
        first = [asyncio.create_task(one.post()) for _ in range(2)]
        await until(lambda: two.handle("e").elsewhere.in_flight == 2, 60)
        # Its share, half, is let in; the rest waits until the other router has finished.
        second = [asyncio.create_task(two.post()) for _ in range(2)]
        await until(lambda: two.server.dispatcher.waiting == 1, 60)
        assert two.handle("e").in_flight == 1
        gate.set()
        answers = await asyncio.gather(*first, *second)
        assert [answer.status_code for answer in answers] == [200] * 4


async def test_a_router_that_stops_says_so(redis: RedisServer) -> None:
    async with replica(redis, "one") as one:
        async with replica(redis, "two") as two:
            await told(one, two)
        assert await link(one).script("return redis.call('HLEN', KEYS[1])", ["loads"], []) == 1
        await told(one)


async def test_nobody_waits_for_a_redis_that_hangs(redis: RedisServer) -> None:
    async with replica(redis, "one", router={"port": 0, "policy": "session"}) as one:
        await told(one)
        redis.pause()
        for number in range(30):
            answer = await one.post(None, **{"x-session-id": f"s{number}"})
            assert answer.status_code == 200
        # The question that was under way has not even been given up.
        assert link(one).up
        redis.kill()
        await until(lambda: not link(one).up, 60)
        assert (await one.post()).status_code == 200


async def test_words_of_another_version_are_passed_over(redis: RedisServer) -> None:
    async with replica(redis, "one") as one:
        await told(one)
        text = """
        local now = string.format('%.0f', redis.call('TIME')[1] * 1000)
        return redis.call('HSET', KEYS[1], 'x', now .. ' ' .. ARGV[1])
        """
        await link(one).script(text, ["loads"], ['{"e": "many"}'])
        async with replica(redis, "two") as two:
            await until(lambda: two.handle("e").elsewhere.routers > 1, 60)
            assert (await two.post()).status_code == 200
