"""Routers that die, stop and share: every line has one result, and no living router's line is
asked twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest

from tests.router.fakes import FakeEngine, Fleet, until
from tests.router.postgres_server import PostgresServer
from tests.router.processes import RouterProcess

from .lines import echo, finished, jsonl, line, questions, read, start_batch


@asynccontextmanager
async def router_process(
    engine: FakeEngine, database_url: str, directory: Path, *, name: str = "router"
) -> AsyncIterator[tuple[RouterProcess, openai.AsyncOpenAI]]:
    config = {
        "storage": {"url": database_url},
        "batches": {"max_in_flight": 8},
        "engines": [{"name": "one", "kind": "native", "url": engine.url, "max_in_flight": 8}],
    }
    async with RouterProcess(directory, config, name=name) as process:
        url = f"{process.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0) as sdk:
            yield process, sdk


async def kill_half_way(database_url: str, directory: Path, count: int) -> None:
    async with FakeEngine("one") as engine:
        engine.default = echo(0.005)
        async with router_process(engine, database_url, directory) as (process, sdk):
            batch = await start_batch(sdk, jsonl(*map(line, range(count))))
            await until(lambda: len(engine.seen) >= count // 2, 120)
            process.end(signal.SIGKILL)
            assert len(engine.seen) < count
            await process.start()
            batch = await finished(sdk, await sdk.batches.retrieve(batch.id), 240)
            assert batch.status == "completed"
            assert batch.request_counts is not None
            counts = {"total": count, "completed": count, "failed": 0}
            assert batch.request_counts.model_dump() == counts
            output = await read(sdk, batch.output_file_id)
        assert [one["custom_id"] for one in output] == [f"c{number}" for number in range(count)]
        for number, one in enumerate(output):
            content = one["response"]["body"]["choices"][0]["message"]["content"]
            assert content == f"answer to question {number}"
        # Asked again: only what was under way at the kill, answered and not yet recorded included.
        repeated = {question for question, times in questions(engine).items() if times > 1}
        assert len(repeated) <= 8
        assert max(questions(engine).values()) <= 2


async def test_kill_9_half_way(database_url: str, tmp_path: Path) -> None:
    await kill_half_way(database_url, tmp_path, 60)


@pytest.mark.conformance
async def test_kill_9_half_way_of_a_thousand_lines(database_url: str, tmp_path: Path) -> None:
    await kill_half_way(database_url, tmp_path, 1000)


async def test_a_router_that_stops_lets_go_at_once(database_url: str) -> None:
    engine = FakeEngine("one")
    engine.default = echo(0.005)
    settings = {
        "router": {"port": 0, "drain": 60},
        "storage": {"url": database_url},
        "engine_settings": {"one": {"max_in_flight": 4}},
    }
    async with Fleet(engine, **settings) as first:
        batch = await start_batch(first.sdk, jsonl(*map(line, range(80))))
        await until(lambda: len(engine.seen) >= 20, 60)
    stopped_at = len(engine.seen)
    assert stopped_at < 80
    async with Fleet(engine, **settings) as second:
        batch = await finished(second.sdk, await second.sdk.batches.retrieve(batch.id))
        assert len(await read(second.sdk, batch.output_file_id)) == 80
    assert set(questions(engine).values()) == {1}  # it drained, so nothing was under way


async def test_two_routers_on_one_database_share_batches(database_url: str) -> None:
    engines = FakeEngine("one"), FakeEngine("two")
    for engine in engines:
        engine.default = echo(0.002)
    storage = {"url": database_url}
    async with Fleet(engines[0], storage=storage) as a, Fleet(engines[1], storage=storage) as b:
        contents = [jsonl(*(line(100 * n + m) for m in range(25))) for n in range(6)]
        started = [
            await start_batch(one.sdk, content)
            for one, content in zip((a, b) * 3, contents, strict=True)
        ]
        for fleet, batch in zip((b, a) * 3, started, strict=True):  # each asked of the other
            over = await finished(fleet.sdk, batch)
            assert over.status == "completed"
            assert len(await read(fleet.sdk, over.output_file_id)) == 25
    assert set((questions(engines[0]) + questions(engines[1])).values()) == {1}


async def test_a_router_finishes_what_another_was_killed_in(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database_url = postgres.url()
    count = 60
    async with FakeEngine("one") as engine:
        engine.default = echo(0.005)
        async with (
            router_process(engine, database_url, tmp_path, name="a") as (one, one_sdk),
            router_process(engine, database_url, tmp_path, name="b") as (_, other_sdk),
        ):
            batch = await start_batch(one_sdk, jsonl(*map(line, range(count))))
            await until(lambda: len(engine.seen) >= count // 2, 120)
            one.end(signal.SIGKILL)
            batch = await finished(other_sdk, await other_sdk.batches.retrieve(batch.id), 240)
            assert batch.status == "completed"
            output = await read(other_sdk, batch.output_file_id)
        assert [one["custom_id"] for one in output] == [f"c{number}" for number in range(count)]
        repeated = {question for question, times in questions(engine).items() if times > 1}
        assert len(repeated) <= 8  # what was under way at the kill
        assert max(questions(engine).values()) <= 2


async def test_a_router_that_is_cut_off_cannot_write(database_url: str) -> None:
    """Its hold has run out while it was stopped, and another has taken the batch."""
    from stoker.router.batches.files import FileStore
    from stoker.router.batches.objects import BatchRequest
    from stoker.router.batches.schema import STEPS, SUBJECT
    from stoker.router.batches.store import BatchStore, HoldLost, Line, Result
    from stoker.router.storage import open_database

    database, other_database = open_database(database_url), open_database(database_url)
    await database.migrate(SUBJECT, STEPS)
    files = FileStore(database)
    file_id = await files.begin("in.jsonl", "batch", "")
    await files.finish(file_id, 0, "batch", None)
    store = BatchStore(database, "machine/1/a", hold_s=0.01)
    other = BatchStore(other_database, "elsewhere/1/b", hold_s=60)
    batch = await store.create(
        BatchRequest(input_file_id=file_id, endpoint="/v1/chat/completions"), ""
    )
    assert await store.take(9, []) == [batch.id]
    await store.add_lines(batch.id, [Line(n, f"c{n}", "m", b"{}") for n in (1, 2)])
    await store.validated(batch.id, 2, "m")
    assert await store.record(batch.id, [Result(1, True, b"first")]) == 1
    assert await store.record(batch.id, [Result(1, True, b"again")]) == 0
    await asyncio.sleep(0.02)
    assert await other.take(9, []) == [batch.id]
    assert await store.take(9, []) == []
    for late in (
        store.record(batch.id, [Result(2, True, b"late")]),
        store.renew(batch.id),
        store.finish(batch.id, "completed", unanswered=0, output=None, errors=None, kept=1),
    ):
        with pytest.raises(HoldLost):
            await late
    await store.let_go(batch.id)  # not its own any more
    assert [one.number for one in await other.waiting_lines(batch.id, 0, 9)] == [2]
    assert await other.results(batch.id, 0, 1) == [(1, "c1", True, b"first")]
    assert (await other.get(batch.id)).request_counts.completed == 1
    await database.close()
    await other_database.close()


def test_holders_that_are_dead() -> None:
    from stoker.router.batches.holder import holder_name, is_dead

    mine = holder_name()
    machine, _, rest = mine.rsplit("/", 2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not is_dead(mine)
    assert not is_dead(f"{machine}/{os.getppid()}/{rest}")
    assert not is_dead(f"elsewhere/{gone.pid}/{rest}")
    assert is_dead(f"{machine}/{gone.pid}/{rest}")
    assert is_dead(f"{machine}/{os.getpid()}/someone-before")
