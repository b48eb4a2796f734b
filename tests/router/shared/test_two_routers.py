"""Two routers, each a process, before the same engines: with a real Redis and without."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from ..fakes import CHAT, FakeEngine, after, until
from ..processes import RouterProcess
from .redis_server import RedisServer

NAMES = ("e0", "e1", "e2")


@asynccontextmanager
async def engines() -> AsyncIterator[list[FakeEngine]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeEngine(name)) for name in NAMES]


def config(engines: list[FakeEngine], directory: Path, policy: str, redis: str | None) -> Any:
    return {
        "router": {"policy": policy},
        "health": {"interval": 0.25},
        "storage": {"url": f"sqlite:///{directory}/router.db"},
        **({"redis": {"url": redis, "timeout": 10}} if redis else {}),
        "engines": [
            {"name": one.name, "kind": "native", "url": one.url, "max_in_flight": 8}
            for one in engines
        ],
    }


async def ask(router: RouterProcess, session: str | None = None) -> tuple[str, str]:
    """The engine that answered, and why that one."""
    headers = {"x-session-id": session} if session else {}
    answer = await router.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-stoker-engine"], answer.headers["x-stoker-reason"]


async def gauges(router: RouterProcess, name: str) -> dict[str, float]:
    """A metric's values by engine."""
    text = (await router.client.get("/metrics")).text
    found = re.findall(rf'^stoker_router_{name}\{{engine="(\w+)"\}} (\S+)$', text, re.MULTILINE)
    return {engine: float(value) for engine, value in found}


async def elsewhere(router: RouterProcess) -> dict[str, float]:
    return await gauges(router, "engine_in_flight_elsewhere")


async def becomes(get: Callable[[], Any], value: Any) -> None:
    """Wait until `get` answers so."""
    last: Any = None
    try:
        async with asyncio.timeout(60):
            while (last := await get()) != value:  # noqa: ASYNC110  (in another process)
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"still {last}, and not {value}") from None


async def test_sessions_need_nothing_shared_in_quiet_times(tmp_path: Path) -> None:
    async with engines() as fleet:
        backwards = config(fleet[::-1], tmp_path, "session", None)
        async with (
            RouterProcess(tmp_path, config(fleet, tmp_path, "session", None), name="a") as one,
            RouterProcess(tmp_path, backwards, name="b") as two,
        ):
            sessions = [f"session-{number}" for number in range(40)]
            through_one = [await ask(one, session) for session in sessions]
            through_two = [await ask(two, session) for session in sessions]
        assert through_one == through_two
        assert {engine for engine, _ in through_one} == set(NAMES)


async def test_each_knows_what_the_other_has_in_flight(redis: RedisServer, tmp_path: Path) -> None:
    nothing = dict.fromkeys(NAMES, 0.0)
    async with engines() as fleet:
        gate = asyncio.Event()
        settings = config(fleet, tmp_path, "least_in_flight", redis.url)
        async with (
            RouterProcess(tmp_path, settings, name="a") as one,
            RouterProcess(tmp_path, settings, name="b") as two,
        ):
            for engine in fleet:
                engine.default = after(gate)
            held = [asyncio.create_task(ask(one)) for _ in range(2)]
            await until(lambda: sum(engine.in_flight for engine in fleet) == 2, 60)
            here = await gauges(one, "engine_in_flight")
            assert sorted(here.values()) == [0, 1, 1]
            await becomes(lambda: elsewhere(two), here)
            [free] = [name for name, count in here.items() if count == 0]
            mine = asyncio.create_task(ask(two))
            await until(lambda: all(engine.in_flight == 1 for engine in fleet), 60)
            await becomes(lambda: elsewhere(one), nothing | {free: 1})

            one.end()  # kill -9
            for task in held:
                task.cancel()
            await asyncio.gather(*held, return_exceptions=True)
            await becomes(lambda: elsewhere(two), nothing)

            redis.kill()
            gate.set()
            assert (await mine)[0] == free
            assert {(await ask(two))[0] for _ in range(6)} == set(NAMES)

            redis.start()
            await one.start()
            gate.clear()
            held = [asyncio.create_task(ask(one))]
            await until(lambda: sum(engine.in_flight for engine in fleet) == 1, 60)
            here = {engine.name: float(engine.in_flight) for engine in fleet}
            await becomes(lambda: elsewhere(two), here)
            gate.set()
            await held[0]
            await becomes(lambda: elsewhere(two), nothing)


async def test_a_session_that_had_to_move_stays_there_through_both(
    redis: RedisServer, tmp_path: Path
) -> None:
    nothing = dict.fromkeys(NAMES, 0.0)
    async with engines() as fleet:
        by_name = {engine.name: engine for engine in fleet}
        settings = config(fleet, tmp_path, "session", redis.url)
        async with (
            RouterProcess(tmp_path, settings, name="a") as one,
            RouterProcess(tmp_path, settings, name="b") as two,
        ):
            home, _ = await ask(one, "s")
            assert await ask(two, "s") == (home, "session: its engine")
            gate = asyncio.Event()
            by_name[home].default = after(gate)
            held = asyncio.create_task(ask(one, "s"))
            await becomes(lambda: elsewhere(two), nothing | {home: 1})
            # Nobody has more than one's share of so little: there is one too much at home.
            moved, reason = await ask(two, "s")
            assert moved != home
            assert reason == "session: 1 before it on the ring have too much"
            gate.set()
            await held
            await becomes(lambda: elsewhere(two), nothing)
            there = (moved, "session: where it was last")
            assert await ask(two, "s") == there
            await becomes(lambda: ask(one, "s"), there)
            one.end()
            await one.start()  # it knows nothing but what Redis has kept
            await becomes(lambda: ask(one, "s"), there)
