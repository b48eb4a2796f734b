"""Batches of keys with limits: lines wait for what comes back, and end where nothing will."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import openai

from tests.router.fakes import FakeEngine, Fleet, until

from .lines import echo, finished, jsonl, line, read, start_batch

KEY = f"sk-ann-{'x' * 32}"
# A token costs 0.1; an answer of `echo` is 7 read and 2 written.
PRICE = {"input_per_million": 100_000.0, "output_per_million": 100_000.0}
DAY_S = 86_400


def at_a_days_begin(one: Fleet) -> Callable[[float], None]:
    """Let this router's days and months go by a clock that is at the begin of the next UTC day,
    so that none of them ends in the middle of a test; what comes back turns it forwards.

    What a database dates, such as when a batch expires, goes by the true clock.
    """
    ledger, begin = one.server.dispatcher.ledger, time.time()
    ahead = DAY_S - begin % DAY_S

    def turn(seconds: float) -> None:
        nonlocal ahead
        ahead += seconds

    ledger.wall_clock = lambda: time.time() + ahead
    return turn


def fleet(engine: FakeEngine, database_url: str, **limits: Any) -> Fleet:
    key = {"name": "ann", "hash": f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()}"}
    return Fleet(
        engine,
        storage={"url": database_url},
        keys=[key | limits],
        engine_settings={"one": {"price": PRICE, "max_in_flight": 8}},
    )


def ann(one: Fleet) -> openai.AsyncOpenAI:
    return one.sdk.with_options(api_key=KEY)


async def test_a_budget_that_is_only_set_aside_costs_no_line(database_url: str) -> None:
    engine = FakeEngine("one")
    engine.default = echo(0.01)
    # Each line may cost 26.1, and costs 0.9: one at a time has room.
    async with fleet(engine, database_url, budget={"per_day": 45}) as one:
        at_a_days_begin(one)
        lines = [line(number, max_tokens=250) for number in range(12)]
        batch = await finished(ann(one), await start_batch(ann(one), jsonl(*lines)))
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 12
    assert len(engine.seen) == 12


async def test_lines_beyond_a_spent_budget_end_with_the_error(database_url: str) -> None:
    engine = FakeEngine("one")
    engine.default = echo()
    async with fleet(engine, database_url, budget={"per_month": 20}) as one:
        at_a_days_begin(one)
        lines = [line(number, max_tokens=170) for number in range(8)]
        batch = await start_batch(ann(one), jsonl(*lines), completion_window="10m")
        batch = await finished(ann(one), batch)
        assert batch.status == "completed"
        output = await read(ann(one), batch.output_file_id)
        errors = await read(ann(one), batch.error_file_id)
    # A line may cost 18.1, so it is let in while at most 1.9 is spent: three times 0.9.
    assert [one["custom_id"] for one in output] == ["c0", "c1", "c2"]
    assert [one["custom_id"] for one in errors] == [f"c{number}" for number in range(3, 8)]
    for one_error in errors:
        assert one_error["response"]["status_code"] == 429
        assert one_error["response"]["body"]["error"]["code"] == "insufficient_quota"
    assert len(engine.seen) == 3


async def test_lines_wait_for_a_budget_that_comes_back_before_the_batch_expires(
    database_url: str, monkeypatch: Any
) -> None:
    engine = FakeEngine("one")
    engine.default = echo()
    monkeypatch.setattr("stoker.router.batches.budget._LATER_S", 0.05)
    async with fleet(engine, database_url, budget={"per_day": 20}) as one:
        turn = at_a_days_begin(one)
        lines = [line(number, max_tokens=170) for number in range(5)]
        batch = await start_batch(ann(one), jsonl(*lines), completion_window="3d")
        await until(lambda: len(engine.seen) == 3)
        await asyncio.sleep(0.2)
        assert len(engine.seen) == 3
        assert one.server.dispatcher.metrics.batches.in_flight == 0  # it keeps no place meanwhile
        batch = await ann(one).batches.retrieve(batch.id)
        assert batch.status == "in_progress"
        turn(DAY_S)
        batch = await finished(ann(one), batch)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 5


async def test_a_line_larger_than_its_keys_limit_ends_at_once(database_url: str) -> None:
    engine = FakeEngine("one")
    engine.default = echo()
    async with fleet(engine, database_url, tokens_per_minute=500) as one:
        lines = [line(1, max_tokens=50), line(2, max_tokens=1000), line(3, max_tokens=50)]
        batch = await finished(ann(one), await start_batch(ann(one), jsonl(*lines)))
        assert batch.status == "completed"
        [error] = await read(ann(one), batch.error_file_id)
        assert error["custom_id"] == "c2"
        assert error["response"]["body"]["error"]["code"] == "request_too_large_for_limit"
        assert len(await read(ann(one), batch.output_file_id)) == 2
