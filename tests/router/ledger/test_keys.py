"""Keys at the door: who may ask, for which models, how much; by the clients people use."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import anthropic
import openai
import pytest

from stoker.router.config import Budget, KeyConfig
from stoker.router.ledger import tables
from stoker.router.ledger.keys import hash_of, new_key
from stoker.router.storage import Database

from ..fakes import CHAT, FakeEngine, Fleet, after, until

KEY = new_key()
OTHER = new_key()


def fleet(*keys: dict[str, Any], **settings: Any) -> Fleet:
    named = [{"name": "alice", "hash": hash_of(KEY), **keys[0]}]
    named += [{"name": "bob", "hash": hash_of(OTHER), **key} for key in keys[1:]]
    return Fleet(FakeEngine("one", models=("m", "big")), keys=named, **settings)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def test_without_a_key_nothing_but_probes() -> None:
    async with fleet({}) as one:
        for headers in ({}, bearer("sk-wrong"), {"x-api-key": "sk-wrong"}):
            response = await one.post(None, **headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
        for path, expected in (("/v1/models", 401), ("/usage", 401), ("/models/status", 401)):
            assert (await one.client.get(path)).status_code == expected
        for path in ("/health", "/ready", "/metrics"):
            assert (await one.client.get(path)).status_code == 200
        assert (await one.post(None, **bearer(KEY))).status_code == 200
        assert (await one.client.get("/v1/models", headers=bearer(KEY))).status_code == 200
        assert one.engines[0].seen[-1].headers.get("authorization") is None


async def test_anthropics_way_to_send_a_key() -> None:
    async with fleet({}) as one:
        response = await one.post(None, **{"x-api-key": KEY})
        assert response.status_code == 200
        assert "x-api-key" not in one.engines[0].seen[-1].headers
        client = anthropic.AsyncAnthropic(base_url=one.url, api_key="sk-wrong", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError):
            await client.messages.create(model="m", max_tokens=1, messages=[])
        await client.close()


async def test_without_keys_the_clients_own_goes_to_the_engine() -> None:
    async with Fleet(FakeEngine("one")) as one:
        await one.post(None, **bearer("sk-theirs"))
        assert one.engines[0].seen[-1].headers["authorization"] == "Bearer sk-theirs"


async def test_only_the_models_it_may_use() -> None:
    async with fleet({"models": ["m"]}) as one:
        client = openai.AsyncOpenAI(base_url=f"{one.url}/v1", api_key=KEY, max_retries=0)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await client.chat.completions.create(
                model="big", messages=[{"role": "user", "content": "hi"}]
            )
        await client.close()
        assert refused.value.code == "model_not_allowed"
        assert "'alice' may not use the model 'big'. It may use: m." in str(refused.value)
        assert (await one.post(None, **bearer(KEY))).status_code == 200


async def test_requests_per_minute() -> None:
    async with fleet({"requests_per_minute": 2}, {}) as one:
        left = [await one.post(None, **bearer(KEY)) for _ in range(3)]
        assert [response.status_code for response in left] == [200, 200, 429]
        assert [response.headers["x-ratelimit-remaining-requests"] for response in left] == [
            *("1", "0", "0")
        ]
        refused = left[2]
        assert refused.headers["x-ratelimit-limit-requests"] == "2"
        assert re.fullmatch(r"1m[01]s|\d\ds", refused.headers["x-ratelimit-reset-requests"])
        assert 50 <= int(refused.headers["retry-after"]) <= 61
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert len(one.engines[0].seen) == 2
        assert (await one.post(None, **bearer(OTHER))).status_code == 200


async def test_tokens_are_set_aside_and_corrected() -> None:
    engine = FakeEngine("one")
    keys = [{"name": "alice", "hash": hash_of(KEY), "tokens_per_minute": 400}]
    async with Fleet(engine, keys=keys) as one:
        go = asyncio.Event()
        engine.default = after(go)
        body = CHAT | {"max_tokens": 300}
        first = asyncio.ensure_future(one.post(body, **bearer(KEY)))
        await until(lambda: engine.in_flight == 1)
        second = await one.post(body, **bearer(KEY))  # the first's 300 are set aside
        assert second.status_code == 429
        assert "tokens per minute" in second.json()["error"]["message"]
        go.set()
        await first
        third = await one.post(body, **bearer(KEY))  # it took 9
        assert third.status_code == 200
        account = one.server.dispatcher.ledger.keyring.account("alice")
        assert account is not None
        assert account.tokens is not None
        assert account.tokens.used == 18
        large = await one.post(CHAT | {"max_tokens": 1000}, **bearer(KEY))
        assert large.json()["error"]["code"] == "request_too_large_for_limit"
        assert large.headers["x-should-retry"] == "false"


async def test_a_budget_that_is_spent() -> None:
    price = {"input_per_million": 100_000.0, "output_per_million": 100_000.0}
    async with fleet(
        {"budget": {"per_day": 1.5}}, {}, engine_settings={"one": {"price": price}}
    ) as one:
        body = CHAT | {"max_tokens": 2}
        assert (await one.post(body, **bearer(KEY))).status_code == 200  # 9 tokens: 0.9
        refused = await one.post(body, **bearer(KEY))
        assert refused.status_code == 429
        error = refused.json()["error"]
        assert error["code"] == error["type"] == "insufficient_quota"
        assert refused.headers["x-should-retry"] == "false"
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        assert (await one.post(body, **bearer(OTHER))).status_code == 200
        await until(lambda: _purse(one).stored_day == pytest.approx(0.9))
        assert _purse(one).reserved == 0.0
        assert (await one.post(body, **bearer(KEY))).status_code == 429


def _purse(one: Fleet) -> Any:
    account = one.server.dispatcher.ledger.keyring.account("alice")
    assert account is not None
    return account.purse


async def test_keys_in_the_database(database: Database, database_url: str) -> None:
    await tables.prepare(database)
    key = KeyConfig(
        name="carol", hash=hash_of(KEY), models=frozenset({"m"}), budget=Budget(per_day=5)
    )
    await tables.add_key(database, key, 1)
    [stored] = await tables.all_keys(database)
    assert stored == (key, 1, None)
    with pytest.raises(ValueError, match="a key named 'carol'"):
        await tables.add_key(database, key, 2)
    async with Fleet(FakeEngine("one"), require_key=True, storage={"url": database_url}) as one:
        assert (await one.post(None, **bearer(KEY))).status_code == 200
        assert (await one.post(None, **bearer(OTHER))).status_code == 401
        assert await tables.revoke_key(database, "carol", int(time.time()))
        assert not await tables.revoke_key(database, "carol", int(time.time()))
        await until(lambda: not len(one.server.dispatcher.ledger.keyring), 60)
        assert (await one.post(None, **bearer(KEY))).status_code == 401
        await tables.add_key(database, key, 3)  # the name is free again


async def test_another_configuration_changes_keys_and_keeps_counts() -> None:
    async with fleet({"requests_per_minute": 1}) as one:
        assert (await one.post(None, **bearer(KEY))).status_code == 200
        config = one.server.config
        assert config.keys is not None
        raised = config.keys[0].model_copy(update={"requests_per_minute": 2})
        await one.server.reload(config.model_copy(update={"keys": (raised,)}))
        statuses = [(await one.post(None, **bearer(KEY))).status_code for _ in range(2)]
        assert statuses == [200, 429]


def test_keys_differ_and_hashes_are_of_them() -> None:
    assert new_key() != new_key()
    assert re.fullmatch(r"sk-stoker-[\w-]{43}", new_key())
    known = "sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
    assert hash_of("password") == known
