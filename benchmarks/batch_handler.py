"""Fifty requests of 10 to 150 tokens: one by one, at once, as a list, through the batch handler.

    python benchmarks/batch_handler.py [--model smollm2] [--rounds 5]

Starts one engine of ours and a router before it. All four ways go through that router:

- *one by one*: each request when the one before is answered (in the first round only);
- *concurrent*: fifty single requests at once;
- *explicit batch*: one `POST /batch` with all fifty;
- *handler*: fifty single requests at once that say `x-stoker-gather: true`.

Twice: with lengths of their own, so that no two requests can share a list, and with the same
length for all, so that all can. Answers have exactly the length asked for (`ignore_eos`), prompts
are new in every round, and the ways take turns at being first. Medians of the rounds; a call's
time is until its own answer is there, for a `POST /batch` the whole list.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

REQUESTS = 50
SHORTEST, LONGEST = 10, 150
SUBJECTS = ("a stoker", "the sea", "a locomotive", "winter", "the night shift")
Body = dict[str, Any]


@contextmanager
def fleet(model: str) -> Iterator[str]:
    """One engine and a router; the router's address, once the engine answers."""
    with tempfile.TemporaryDirectory() as directory:
        config = {
            "router": {"port": 0},
            "storage": {"url": f"sqlite:///{directory}/router.db"},
            "supervision": {"logs": f"{directory}/logs"},
            "engines": [{"name": "native", "kind": "native", "model": model}],
        }
        file = Path(directory, "stoker.yaml")
        file.write_text(json.dumps(config))
        process = subprocess.Popen(
            [sys.executable, "-m", "stoker", "up", str(file)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+", process.stdout.readline())
            if found is None:
                raise SystemExit("The router did not start; its message is above.")
            end = time.monotonic() + 120
            while httpx.get(f"{found[0]}/ready").status_code != 200:
                if time.monotonic() > end:
                    raise SystemExit(f"The engine is not ready: {httpx.get(found[0] + '/health')}")
                time.sleep(0.1)
            yield found[0]
        finally:
            process.terminate()
            process.wait(60)


def requests(model: str, dice: random.Random, *, alike: bool) -> list[Body]:
    """Prompts that no round before had, with the lengths of their answers."""
    bodies: list[Body] = []
    for number in range(REQUESTS):
        spread = SHORTEST + (LONGEST - SHORTEST) * number // (REQUESTS - 1)
        bodies.append(
            {
                "model": model,
                "prompt": f"{dice.randrange(10**9)}. A story about {dice.choice(SUBJECTS)}:",
                "max_tokens": (SHORTEST + LONGEST) // 2 if alike else spread,
                "temperature": 0,
                "ignore_eos": True,
            }
        )
    dice.shuffle(bodies)
    return bodies


@dataclass(frozen=True, slots=True)
class Round:
    """All requests answered once, in `seconds`; `calls`: how long each took."""

    seconds: float
    calls: list[float]


class Client:
    """The four ways of asking."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def one_by_one(self, bodies: list[Body]) -> list[float]:
        return [await self._ask(body) for body in bodies]

    async def concurrent(self, bodies: list[Body]) -> list[float]:
        return list(await asyncio.gather(*map(self._ask, bodies)))

    async def explicit(self, bodies: list[Body]) -> list[float]:
        began = time.perf_counter()
        asked = {"requests": bodies, "endpoint": "/v1/completions"}
        response = await self._http.post("/batch", json=asked)
        answer = response.json()
        if response.status_code != 200 or answer["succeeded"] != len(bodies):
            raise SystemExit(f"/batch: {response.status_code} {response.text[:300]}")
        return [time.perf_counter() - began] * len(bodies)

    async def handler(self, bodies: list[Body]) -> list[float]:
        gather = {"x-stoker-gather": "true"}
        return list(await asyncio.gather(*(self._ask(body, gather) for body in bodies)))

    async def _ask(self, body: Body, headers: dict[str, str] | None = None) -> float:
        began = time.perf_counter()
        response = await self._http.post("/v1/completions", json=body, headers=headers)
        if response.status_code != 200 or not response.json()["choices"][0]["text"]:
            raise SystemExit(f"{response.status_code} {response.text[:300]}")
        return time.perf_counter() - began


Way = Callable[[list[Body]], Awaitable[list[float]]]


async def timed(way: Way, bodies: list[Body]) -> Round:
    began = time.perf_counter()
    calls = await way(bodies)
    return Round(time.perf_counter() - began, sorted(calls))


async def measure(url: str, model: str, rounds: int, *, alike: bool) -> dict[str, list[Round]]:
    """Every round of every way, in turns."""
    dice = random.Random(1)
    limits = httpx.Limits(max_connections=REQUESTS, max_keepalive_connections=REQUESTS)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:
        client = Client(http)
        ways: dict[str, Way] = {
            "concurrent": client.concurrent,
            "explicit batch": client.explicit,
            "handler": client.handler,
        }
        await client.concurrent(requests(model, dice, alike=alike))  # connections, caches
        one = requests(model, dice, alike=alike)
        found = {"one by one": [await timed(client.one_by_one, one)]}
        found |= {name: [] for name in ways}
        names = list(ways)
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                bodies = requests(model, dice, alike=alike)
                found[name].append(await timed(ways[name], bodies))
    return found


def report(title: str, found: dict[str, list[Round]]) -> None:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for column in ("way", "seconds", "requests/s", "× one by one", "call p50 s", "call p95 s"):
        table.add_column(column, justify="left" if column == "way" else "right")
    alone = found["one by one"][0].seconds
    for name, rounds in found.items():
        seconds = statistics.median(one.seconds for one in rounds)
        middle = statistics.median(one.calls[REQUESTS // 2] for one in rounds)
        late = statistics.median(one.calls[REQUESTS * 95 // 100] for one in rounds)
        table.add_row(
            name,
            f"{seconds:.2f}",
            f"{REQUESTS / seconds:.1f}",
            f"{alone / seconds:.1f}",
            f"{middle:.2f}",
            f"{late:.2f}",
        )
    concurrent, handler = (
        statistics.median(one.seconds for one in found[name]) for name in ("concurrent", "handler")
    )
    console = Console(width=100)
    console.print(table)
    console.print(f"handler / concurrent: {concurrent / handler:.3f} of its requests/s\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with fleet(given.model) as url:
        for alike, title in ((False, "lengths of their own"), (True, "the same length for all")):
            report(title, asyncio.run(measure(url, given.model, given.rounds, alike=alike)))


if __name__ == "__main__":
    main()
