"""Fifty requests of 10 to 150 tokens: one by one, at once, as a list, through the batch handler.

    python benchmarks/batch_handler.py [--model smollm2] [--rounds 15]

Starts one engine of ours and a router before it. All four ways go through that router:

- *one by one*: each request when the one before is answered (in the first round only);
- *concurrent*: fifty single requests at once;
- *explicit batch*: one `POST /batch` with all fifty;
- *handler*: fifty single requests at once that say `x-stoker-gather: true`.

Twice: with lengths of their own, so that no two requests can share a list, and with the same
length for all, so that all can. Answers have exactly the length asked for (`ignore_eos`), prompts
are new in every round, and the ways take turns at being first. Medians of the rounds, of the
ratio too, which is taken within each. A call's time is until its own answer is there; for a
`POST /batch`, until the whole list is.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from fleet import running
from rich.console import Console
from rich.table import Table

from stoker.client import ApiClient

REQUESTS = 50
SHORTEST, LONGEST = 10, 150
SUBJECTS = ("a stoker", "the sea", "a locomotive", "winter", "the night shift")
Body = dict[str, Any]


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

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def one_by_one(self, bodies: list[Body]) -> list[float]:
        return [await self._ask(body) for body in bodies]

    async def concurrent(self, bodies: list[Body]) -> list[float]:
        return list(await asyncio.gather(*map(self._ask, bodies)))

    async def explicit(self, bodies: list[Body]) -> list[float]:
        began = time.perf_counter()
        asked = {"requests": bodies, "endpoint": "/v1/completions"}
        answer = (await self._api.post("/batch", asked, within=600)).raise_for_status().json()
        if answer["succeeded"] != len(bodies):
            raise SystemExit(f"/batch: {answer['failed']} requests failed")
        return [time.perf_counter() - began] * len(bodies)

    async def handler(self, bodies: list[Body]) -> list[float]:
        headers = {"x-stoker-gather": "true"}
        return list(await asyncio.gather(*(self._ask(body, headers) for body in bodies)))

    async def _ask(self, body: Body, headers: dict[str, str] | None = None) -> float:
        began = time.perf_counter()
        reply = await self._api.post("/v1/completions", body, within=600, headers=headers)
        answer = reply.raise_for_status().json()
        if not answer["choices"][0]["text"]:
            raise SystemExit(f"an answer without text: {answer}")
        return time.perf_counter() - began


Way = Callable[[list[Body]], Awaitable[list[float]]]


async def timed(way: Way, bodies: list[Body]) -> Round:
    began = time.perf_counter()
    calls = await way(bodies)
    return Round(time.perf_counter() - began, sorted(calls))


async def measure(url: str, model: str, rounds: int, *, alike: bool) -> dict[str, list[Round]]:
    """Every round of every way, in turns."""
    dice = random.Random(1)
    async with ApiClient(url) as api:
        client = Client(api)
        ways: dict[str, Way] = {
            "concurrent": client.concurrent,
            "explicit batch": client.explicit,
            "handler": client.handler,
        }
        for way in ways.values():  # connections
            await way(requests(model, dice, alike=alike))
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
    ratios = [
        concurrent.seconds / handler.seconds
        for concurrent, handler in zip(found["concurrent"], found["handler"], strict=True)
    ]
    console = Console(width=100)
    console.print(table)
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
    console.print(f"handler / concurrent: {statistics.median(ratios):.3f} (rounds: {spread})\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with running([{"name": "native", "kind": "native", "model": given.model}]) as url:
        for alike, title in ((False, "lengths of their own"), (True, "the same length for all")):
            report(title, asyncio.run(measure(url, given.model, given.rounds, alike=alike)))


if __name__ == "__main__":
    main()
