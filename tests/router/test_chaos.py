"""Engines that fail in every way at once: nothing is lost, nothing is answered twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter

import httpx
import pytest

from .fakes import (
    Behaviour,
    FakeEngine,
    Fleet,
    Seen,
    close_after_head,
    close_at_once,
    close_in_body,
    close_in_event,
    close_in_stream,
    garbage,
    hang,
    reply,
    start_stream,
    status,
    stream_piece,
)

REQUESTS = int(os.environ.get("STOKER_CHAOS_REQUESTS", "400"))
CLIENTS = 40
# Of the attempts at one request, at most so many go wrong on purpose.
FAULTS_EACH = 2


async def echo(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """The request's own number, as the whole answer or in a stream."""
    number = seen.json["number"]
    if not seen.json["stream"]:
        return await reply(writer, 200, json.dumps({"number": number}).encode())
    await start_stream(writer)
    for piece in (number, number, "[DONE]"):
        await stream_piece(writer, f"data: {piece}\n\n".encode())
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def echo_late(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(0.05)
    return await echo(engine, seen, writer)


FAULTS: list[Behaviour] = [
    close_at_once,
    garbage,
    close_in_body,
    close_after_head,
    close_in_event,
    status(500),
    status(503),
    status(429),
    echo_late,
]


class Chaos:
    """What goes wrong, decided by a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.faults: Counter[int] = Counter()
        self.attempts: Counter[int] = Counter()

    async def behave(self, engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        number = seen.json["number"]
        self.attempts[number] += 1
        if self.faults[number] < FAULTS_EACH and self.random.random() < 0.25:
            self.faults[number] += 1
            faults = FAULTS
            if seen.json["stream"] and self.random.random() < 0.1:
                faults = [close_in_stream]
            return await self.random.choice(faults)(engine, seen, writer)
        return await echo(engine, seen, writer)

    async def kill_and_hang(self, engines: tuple[FakeEngine, ...]) -> None:
        """One engine after another is killed or stops answering, for a moment."""
        while True:
            engine = self.random.choice(engines)
            if self.random.random() < 0.5:
                await engine.kill()
                await asyncio.sleep(0.1)
                await engine.start()
            else:
                engine.default, engine.healthy = hang, False
                await asyncio.sleep(0.3)
                engine.default, engine.healthy = self.behave, True
            await asyncio.sleep(0.05)


async def ask(fleet: Fleet, number: int, outcomes: Counter[str]) -> None:
    body = {"model": "m", "number": number, "stream": number % 2 == 0}
    response = await fleet.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, (number, response.text, dict(response.headers))
    if not body["stream"]:
        assert response.json() == {"number": number}
        outcomes["whole"] += 1
        return
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.strip()]
    if events[-1] == "[DONE]":
        assert events == [str(number), str(number), "[DONE]"]
        outcomes["streamed"] += 1
    else:
        assert len(events) >= 2, "a stream that had not begun must be tried elsewhere"
        assert "stopped in the middle of its answer" in json.loads(events[-1])["error"]["message"]
        outcomes["broken"] += 1


@pytest.mark.parametrize("policy", ["least_in_flight", "auto"])
async def test_nothing_is_lost_and_nothing_answered_twice(policy: str) -> None:
    chaos = Chaos(seed=1)
    engines = tuple(FakeEngine(f"e{number}") for number in range(4))
    for engine in engines:
        engine.default = chaos.behave
    outcomes: Counter[str] = Counter()
    settings = {
        "router": {"port": 0, "policy": policy, "drain": 1},
        "retries": {"attempts": 10, "budget": 1, "backoff": 0.005},
        "health": {"interval": 0.1, "timeout": 0.1},
        "engine_settings": {engine.name: {"max_in_flight": 8} for engine in engines},
    }
    async with Fleet(*engines, **settings) as fleet:
        fleet.client = httpx.AsyncClient(
            base_url=fleet.url, timeout=60, limits=httpx.Limits(max_connections=CLIENTS)
        )
        trouble = asyncio.create_task(chaos.kill_and_hang(engines))
        numbers = iter(range(REQUESTS))

        async def client() -> None:
            for number in numbers:
                await ask(fleet, number, outcomes)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(client())
        finally:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
        dispatcher = fleet.server.dispatcher
        assert not dispatcher.active
        assert dispatcher.waiting == 0
        for handle in dispatcher.fleet.engines.values():
            assert handle.in_flight == 0
            assert handle.prompt_tokens_in_flight == 0
            assert handle.output_tokens_in_flight == 0
    assert outcomes.total() == REQUESTS
    assert outcomes["whole"] == REQUESTS // 2
    assert outcomes["broken"] < REQUESTS // 20
    assert sum(chaos.faults.values()) > REQUESTS // 8
    assert set(chaos.attempts) == set(range(REQUESTS))
