"""Two routers and a real Redis: a key's limit is one limit, and no Redis is no reason to stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from stoker.router.ledger.keys import hash_of, new_key

from ..fakes import CHAT, FakeEngine, Fleet, until
from .redis_server import RedisServer

KEY = new_key()
AUTH = {"authorization": f"Bearer {KEY}"}


def replica(redis: RedisServer, name: str, **limits: Any) -> Fleet:
    keys = [{"name": "alice", "hash": hash_of(KEY), **limits}]
    return Fleet(FakeEngine(name), keys=keys, redis={"url": redis.url, "timeout": 10})


async def up(*fleets: Fleet) -> None:
    await until(lambda: all(_link(one).up for one in fleets), 60)


def _link(one: Fleet) -> Any:
    return one.server.dispatcher.redis


async def test_a_limit_is_one_limit_over_both(redis: RedisServer) -> None:
    async with (
        replica(redis, "one", requests_per_minute=10) as one,
        replica(redis, "two", requests_per_minute=10) as two,
    ):
        await up(one, two)
        answers = await asyncio.gather(
            *(fleet.post(None, **AUTH) for _ in range(15) for fleet in (one, two))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 10, 429: 20}
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert 50 <= int(refused.headers["retry-after"]) <= 61
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        figures = (await one.client.get("/usage", headers=AUTH)).json()["total"]
        theirs = (await two.client.get("/usage", headers=AUTH)).json()["total"]
        assert figures["requests"] + theirs["requests"] == 30
        assert figures["refused"] + theirs["refused"] == 20


async def test_what_was_not_used_is_there_for_the_other(redis: RedisServer) -> None:
    async with (
        replica(redis, "one", tokens_per_minute=400) as one,
        replica(redis, "two", tokens_per_minute=400) as two,
    ):
        await up(one, two)
        body = CHAT | {"max_tokens": 300}
        assert (await one.post(body, **AUTH)).status_code == 200  # it took 9 of more than 300
        async with asyncio.timeout(60):
            while (await two.post(body, **AUTH)).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        large = await two.post(CHAT | {"max_tokens": 1000}, **AUTH)
        assert large.json()["error"]["code"] == "request_too_large_for_limit"


async def test_without_redis_each_goes_alone_until_it_is_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with replica(redis, "one", requests_per_minute=3) as one:
        await up(one)
        assert (await one.post(None, **AUTH)).status_code == 200
        redis.kill()
        statuses = [(await one.post(None, **AUTH)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]  # the first was counted here too
        assert "Redis is away" in caplog.text
        assert "stoker_router_redis_up 0.0" in (await one.client.get("/metrics")).text
        redis.start()
        await up(one)
        assert "stoker_router_redis_up 1.0" in (await one.client.get("/metrics")).text
        assert (await one.post(None, **AUTH)).status_code == 200
