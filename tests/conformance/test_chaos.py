"""Engine processes killed, stopped and slowed, their answers cut off and garbled, under load.

A `stoker router` before four `stoker serve`. Nothing may be lost and nothing answered twice: every
request gets the answer that it had from an engine left in peace, word for word, or, once its
stream has begun, the beginning of it and an error. In the end every counter is back at zero.
`make soak` asks 20 000.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.test_serve import checkpoint  # noqa: F401  (a fixture)
from tests.conformance.unreliable import SERVE, EngineProcess, Line
from tests.conformance.wire import Connection

pytestmark = pytest.mark.conformance

REQUESTS = int(os.environ.get("STOKER_CHAOS_REQUESTS", "4000"))
CLIENTS = 40
ENGINES = 4
PATIENCE_S = 120.0
PATH = "/v1/completions"
QUESTIONS = [
    {"model": "m", "prompt": f"{letter * 3} {number}", "max_tokens": 4 + number, "temperature": 0}
    for letter in "abcdefgh"
    for number in range(6)
]


@asynccontextmanager
async def router(directory: Path, lines: Sequence[Line], policy: str) -> AsyncIterator[str]:
    """A router process before the lines; its address, once all engines are well."""
    config = {
        "router": {"port": 0, "policy": policy, "drain": 5},
        "storage": {"url": f"sqlite:///{directory}/router.db"},
        "retries": {"attempts": 16, "budget": 1, "backoff": 0.01, "backoff_max": 0.5},
        "breaker": {"open_for": 1},
        "health": {"interval": 0.3, "timeout": 0.5},
        "admission": {"max_wait": PATIENCE_S},
        "timeouts": {"first_byte": 20, "idle": 20},
        "engines": [
            {"name": f"e{n}", "kind": "native", "url": f"http://127.0.0.1:{line.port}"}
            for n, line in enumerate(lines)
        ],
    }
    file = directory / "stoker.yaml"
    file.write_text(json.dumps(config))
    with (directory / "router.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", SERVE, "router", str(file)),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        assert process.stdout is not None
        first = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+:\d+", first)
        assert found, (directory / "router.log").read_text()
        await all_are(found[0], healthy=True)
        yield found[0]
    finally:
        process.terminate()
        await process.communicate()


async def engines_of(url: str) -> dict[str, Any]:
    async with httpx.AsyncClient(timeout=30) as client:
        engines: dict[str, Any] = (await client.get(f"{url}/health")).json()["engines"]
        return engines


async def all_are(url: str, **wanted: object) -> None:
    """Wait until every engine has these fields in the router's `/health`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            engines = (await engines_of(url)).values()
            if all(wanted.items() <= engine.items() for engine in engines):
                return
            await asyncio.sleep(0.1)


class Clients:
    """Forty of them, each asking its next question when the one before is answered, until there
    were `REQUESTS` and `enough` is set."""

    def __init__(
        self, port: int, expected: Sequence[str], enough: asyncio.Event, seed: int
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self._port = port
        self._expected = expected
        self._dice = random.Random(seed)
        self._enough = enough
        self._asked = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self._client())

    async def _client(self) -> None:
        connection = await Connection.open(self._port)
        try:
            while self._asked < REQUESTS or not self._enough.is_set():
                self._asked += 1
                which = self._dice.randrange(len(QUESTIONS))
                way = self._dice.choices(("whole", "streamed", "left"), (47, 47, 6))[0]
                if way == "left":
                    await self._leave(which)
                else:
                    connection.send(PATH, QUESTIONS[which] | {"stream": way == "streamed"})
                    answer = await connection.receive()
                    assert answer.status == 200, (QUESTIONS[which], answer)
                    way = self._judge(way, answer.body, self._expected[which])
                self.outcomes[way] += 1
        finally:
            await connection.close()

    def _judge(self, way: str, body: bytes, expected: str) -> str:
        """What became of it: `way`, or broken."""
        if way == "whole":
            assert text_of(json.loads(body)) == expected
            return way
        events = [line[6:] for line in body.decode().split("\n\n") if line]
        if events[-1] == "[DONE]":
            assert "".join(text_of(json.loads(event)) for event in events[:-1]) == expected
            return way
        *pieces, last = (json.loads(event) for event in events)
        assert "stopped in the middle of its answer" in last["error"]["message"], body
        assert pieces, "a stream that had not begun must be tried elsewhere"
        assert expected.startswith("".join(map(text_of, pieces)))
        return "broken"

    async def _leave(self, which: int) -> None:
        """Ask, and go before the answer is there, or in the middle of it."""
        connection = await Connection.open(self._port)
        try:
            connection.send(PATH, QUESTIONS[which] | {"stream": True, "max_tokens": 100})
            if self._dice.random() < 0.5:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(connection.receive_some(), 10)
        finally:
            await connection.close()


def text_of(body: Any) -> str:
    return "".join(choice["text"] for choice in body["choices"])


class Trouble:
    """Engines are killed and started anew, stopped for a while, and slowed, in turns."""

    def __init__(self, engines: Sequence[EngineProcess], seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.all_done = asyncio.Event()
        """Each has happened."""
        self._engines = engines
        self._dice = random.Random(seed)

    async def run(self) -> None:
        for what in itertools.cycle(("killed", "stopped", "slowed")):
            engine = self._dice.choice(self._engines)
            if what == "killed":
                engine.kill()
                engine.start()
                await asyncio.sleep(1.5)
            else:
                times, pause = (1, 2.5) if what == "stopped" else (20, 0.05)
                for _ in range(times):
                    engine.signal(signal.SIGSTOP)
                    try:
                        await asyncio.sleep(pause)
                    finally:
                        engine.signal(signal.SIGCONT)
                    await asyncio.sleep(0.05)
            self.done[what] += 1
            if len(self.done) == 3:
                self.all_done.set()


@pytest.mark.parametrize("policy", ["least_in_flight", "auto"])
async def test_nothing_is_lost_and_nothing_answered_twice(
    policy: str,
    tmp_path: Path,
    checkpoint: Path,  # noqa: F811  (the fixture)
) -> None:
    engines = [EngineProcess(checkpoint, tmp_path / f"e{n}.log") for n in range(ENGINES)]
    lines = [Line(one.port, random.Random(n), 0.0) for n, one in enumerate(engines)]
    try:
        for engine, line in zip(engines, lines, strict=True):
            engine.start()
            await line.start()
        async with router(tmp_path, lines, policy) as url:
            async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
                expected = [
                    text_of((await http.post(PATH, json=question)).json()) for question in QUESTIONS
                ]
            assert all(expected)
            for line in lines:
                line.share = 0.05
            trouble = Trouble(engines, seed=2)
            port = int(url.rpartition(":")[2])
            clients = Clients(port, expected, trouble.all_done, seed=1)
            troubling = asyncio.create_task(trouble.run())
            try:
                await clients.run()
            finally:
                troubling.cancel()
                await asyncio.gather(troubling, return_exceptions=True)
            for line in lines:
                line.share = 0.0
            await all_are(url, healthy=True, in_flight=0)
        faults: Counter[str] = sum((line.done for line in lines), Counter())
        print(f"{dict(clients.outcomes)}; engines {dict(trouble.done)}; answers {dict(faults)}")
        assert clients.outcomes.total() >= REQUESTS
        assert clients.outcomes["broken"] < clients.outcomes.total() // 10
        assert set(faults) == {*Line.FAULTS, "-"}
    finally:
        for line in lines:
            await line.stop()
        for engine in engines:
            engine.kill()
