"""Two hundred clients at once: cancels, malformed bodies, slow readers, and a SIGTERM.

Nothing may fail but what was wrong, everything accepted must end, and in the end every counter is
back at zero and memory where it was. `make soak` asks ten times as often.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.conformance.wire import Connection
from tests.server.test_drain import server

pytestmark = pytest.mark.conformance

CLIENTS = 200
REQUESTS = int(os.environ.get("STOKER_STORM_REQUESTS", "10000"))
PATH = "/v1/completions"
GAUGES = "num_requests_running|num_requests_waiting|kv_cache_usage_perc"
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


def resident(process: subprocess.Popen[str]) -> int:
    """Bytes of memory the process has in use."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_memory_is_flat_and_every_counter_returns_to_zero() -> None:
    with server(delay=0, drain=10) as (url, process):
        port = httpx.URL(url).port
        assert port is not None
        memory: list[int] = []
        seen: Counter[tuple[str, int]] = Counter()
        for _ in range(10):
            seen += asyncio.run(storm(port, REQUESTS // 10))
            memory.append(resident(process))
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
        assert max(memory[5:]) - max(memory[:5]) < 2e6, memory
        for _ in range(100):
            text = httpx.get(f"{url}/metrics").text
            load = httpx.get(f"{url}/load").json()
            gauges = re.findall(rf"^vllm:(?:{GAUGES})\S* (\S+)$", text, re.MULTILINE)
            if load == {"server_load": 0} and gauges == ["0.0"] * 3:
                break
        else:
            pytest.fail(f"still busy: {load}, {gauges}")


def test_a_signal_in_the_middle_ends_everything_cleanly() -> None:
    async def run(port: int, process: subprocess.Popen[str]) -> Counter[tuple[str, int]]:
        half = asyncio.Event()
        storming = asyncio.create_task(storm(port, 4000, half))
        await half.wait()
        process.send_signal(signal.SIGTERM)
        return await storming

    with server(delay=0.001, drain=20) as (url, process):
        port = httpx.URL(url).port
        assert port is not None
        seen = asyncio.run(run(port, process))
        assert process.wait(30) == 0
    assert {status for _, status in seen} <= {200, 400, 503, 0}
    assert seen["whole", 503] + seen["stream", 503] + seen["closed", 0] > 0
    assert seen["whole", 200] > 100
