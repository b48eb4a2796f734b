"""Two hundred clients at once: cancels, malformed bodies, slow readers, and a SIGTERM.

They strike the server alone, and a router before it. Nothing may fail but what was wrong,
everything accepted must end, and in the end every counter is back at zero and memory where it was.
`make soak` asks ten times as often and prints the memory as it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.conformance.serving import routed
from tests.conformance.wire import Connection
from tests.server.test_drain import server

pytestmark = pytest.mark.conformance

CLIENTS = 200
REQUESTS = int(os.environ.get("STOKER_STORM_REQUESTS", "10000"))
PATH = "/v1/completions"
ROUNDS = 10
SERVER_GAUGES = re.compile(
    r"^vllm:(?:num_requests_running|num_requests_waiting|kv_cache_usage_perc)\S* .*$", re.M
)
ROUTER_GAUGES = re.compile(
    r"^stoker_router_(?:active_requests|engine_in_flight|queue_length)\S* .*$", re.M
)
MALFORMED = (b"{", b"\xff", b"[]", b'{"prompt": 1}', b'{"prompt": "x", "n": 0}')


async def one_request(connection: Connection, dice: random.Random, port: int) -> tuple[str, int]:
    """Ask in one of several ways; returns the way and the status (0: the client left)."""
    roll = dice.random()
    body = {"prompt": "abc " * dice.randrange(1, 20), "max_tokens": dice.randrange(1, 8)}
    if roll < 0.70:
        connection.send(PATH, body)
        return "whole", (await connection.receive()).status
    if roll < 0.88:
        connection.send(PATH, body | {"stream": True, "n": dice.randrange(1, 3)})
        answer = await connection.receive()
        assert answer.status != 200 or answer.ended
        return "stream", answer.status
    if roll < 0.92:
        connection.send(PATH, dice.choice(MALFORMED))
        return "malformed", (await connection.receive()).status
    if roll < 0.94:
        connection.send(PATH, body | {"prompt": "x" * 2000})
        return "too long", (await connection.receive()).status
    other = await Connection.open(port)
    try:
        other.send(PATH, body | {"stream": dice.random() < 0.7, "max_tokens": 900})
        if roll < 0.98:
            with contextlib.suppress(TimeoutError):  # an answer that does not stream comes late
                await asyncio.wait_for(other.receive_some(), 10)
            return "cancelled", 0
        answer = await other.receive(pause=0.001)
        return "slow", answer.status
    finally:
        await other.close()


async def storm(
    port: int, requests: int, watch: asyncio.Event | None = None
) -> Counter[tuple[str, int]]:
    """Ask `requests` times from `CLIENTS` clients; `watch` is set when half is done."""
    seen: Counter[tuple[str, int]] = Counter()
    left = requests

    async def client(number: int) -> None:
        nonlocal left
        dice = random.Random(number)
        connection = await Connection.open(port)
        try:
            while left > 0:
                left -= 1
                if watch is not None and left == requests // 2:
                    watch.set()
                seen[await one_request(connection, dice, port)] += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            seen["closed", 0] += 1
        finally:
            await connection.close()

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return seen


@dataclass(frozen=True)
class Served:
    """What the storm strikes."""

    url: str
    """Where clients ask."""
    engine: str
    """Where the engine's own server is."""
    processes: dict[str, subprocess.Popen[str]]
    """By their parts; the first is the one that clients speak to."""
    gauges: dict[str, re.Pattern[str]]
    """By the address whose `/metrics` has them: what must come back to zero."""

    @property
    def port(self) -> int:
        port = httpx.URL(self.url).port
        assert port is not None
        return port

    def stirring(self) -> list[str]:
        """The gauges that are not zero."""
        found = []
        for address, pattern in self.gauges.items():
            lines = pattern.findall(httpx.get(f"{address}/metrics").text)
            assert len(lines) >= 2
            found += [line for line in lines if not line.endswith(" 0.0")]
        return found


@contextmanager
def server_alone(directory: Path, *, delay: float, drain: float) -> Iterator[Served]:
    with server(delay=delay, drain=drain) as (url, process):
        yield Served(url, url, {"server": process}, {url: SERVER_GAUGES})


@contextmanager
def behind_a_router(directory: Path, *, delay: float, drain: float) -> Iterator[Served]:
    with (
        server(delay=delay, drain=drain) as (url, engine),
        routed(url, directory, drain=drain) as (router, process),
    ):
        yield Served(
            router,
            url,
            {"router": process, "server": engine},
            {router: ROUTER_GAUGES, url: SERVER_GAUGES},
        )


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory the process has in use."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(memory: list[int], requests: int) -> float:
    """Bytes a request by which memory grew over the second half of the rounds, of `requests`
    each: the slope of the straight line nearest to them."""
    half = memory[len(memory) // 2 :]
    slope: float = np.polyfit(np.arange(len(half)) * requests, half, 1)[0]
    return slope


@pytest.mark.parametrize("serving", [server_alone, behind_a_router])
def test_memory_is_flat_and_every_counter_returns_to_zero(
    serving: Callable[..., AbstractContextManager[Served]], tmp_path: Path
) -> None:
    with serving(tmp_path, delay=0, drain=10) as served:
        memory: dict[str, list[int]] = {part: [] for part in served.processes}
        seen: Counter[tuple[str, int]] = Counter()
        for number in range(1, ROUNDS + 1):
            began = time.monotonic()
            seen += asyncio.run(storm(served.port, REQUESTS // ROUNDS))
            rate = REQUESTS / ROUNDS / (time.monotonic() - began)
            for part, process in served.processes.items():
                memory[part].append(resident(process))
            now = ", ".join(f"{part} {sizes[-1] / 1e6:.1f} MB" for part, sizes in memory.items())
            print(f"{number * REQUESTS // ROUNDS} requests, {rate:.0f} a second: {now}")
        statuses = {
            way: {status for found, status in seen if found == way}
            for way in {way for way, _ in seen}
        }
        assert statuses == {
            "whole": {200},
            "stream": {200},
            "malformed": {400},
            "too long": {400},
            "cancelled": {0},
            "slow": {200},
        }
        # What is cached (compiled types, prefixes of prompts) is there after the first rounds.
        for part, sizes in memory.items():
            slope = growth(sizes, REQUESTS // ROUNDS)
            print(f"{part}: {slope:+.1f} bytes a request over the second half")
            assert max(sizes[ROUNDS // 2 :]) - max(sizes[: ROUNDS // 2]) < 2e6, (part, sizes)
        for _ in range(100):
            stirring = served.stirring()
            load = httpx.get(f"{served.engine}/load").json()
            if not stirring and load == {"server_load": 0}:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"still busy: {load}, {stirring}")


@pytest.mark.parametrize("serving", [server_alone, behind_a_router])
def test_a_signal_in_the_middle_ends_everything_cleanly(
    serving: Callable[..., AbstractContextManager[Served]], tmp_path: Path
) -> None:
    async def run(port: int, process: subprocess.Popen[str]) -> Counter[tuple[str, int]]:
        half = asyncio.Event()
        storming = asyncio.create_task(storm(port, 4000, half))
        await half.wait()
        process.send_signal(signal.SIGTERM)
        return await storming

    with serving(tmp_path, delay=0.001, drain=20) as served:
        struck = next(iter(served.processes.values()))
        seen = asyncio.run(run(served.port, struck))
        assert struck.wait(30) == 0
    assert {status for _, status in seen} <= {200, 400, 503, 0}
    assert seen["whole", 503] + seen["stream", 503] + seen["closed", 0] > 0
    assert seen["whole", 200] > 100
