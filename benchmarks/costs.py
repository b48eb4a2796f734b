"""What a thousand requests and a million tokens cost, engine by engine.

    python benchmarks/costs.py --engine native=1.536/h --engine llama_cpp=1.536/h \
        [--engine vllm=4.10/h] [--model smollm2] [--requests 200] [--concurrent 32]

A price is money an hour of the engine (`1.536/h`), or money a million tokens read and written
(`0.15,0.60`). Starts the engines behind one router, each on the whole machine but only one with
work at a time, and asks each for the same: prompts of about 60 tokens, answers of exactly 10 to
150.

Two counts that know nothing of each other: here, a clock around the run and the tokens of every
answer; in the router, what `GET /usage` recorded. The table is the first; it is printed only if
the second agrees in requests and tokens exactly, and in cost within 3 % (the clock here also runs
while a request is on its way). Prices are what you say they are: the table tells how engines
compare on this machine at those prices, not what a cloud would charge for another.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import time
from dataclasses import dataclass
from typing import Any

import httpx
from fleet import running
from rich.console import Console
from rich.table import Table

SHORTEST, LONGEST = 10, 150
TOLERANCE = 0.03
WORDS = ("coal", "fire", "steam", "iron", "wheel", "track", "night", "signal", "bridge", "river")


@dataclass(frozen=True, slots=True)
class Price:
    """Money per hour, or per million tokens read and written."""

    per_hour: float = 0.0
    read: float = 0.0
    written: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Price:
        if text.endswith("/h"):
            return cls(per_hour=float(text[:-2]))
        read, _, written = text.partition(",")
        return cls(read=float(read), written=float(written))

    def settings(self) -> dict[str, float]:
        """As in stoker.yaml."""
        if self.per_hour:
            return {"per_hour": self.per_hour}
        return {"input_per_million": self.read, "output_per_million": self.written}

    def __str__(self) -> str:
        if self.per_hour:
            return f"{self.per_hour:g} an hour"
        return f"{self.read:g} / {self.written:g} a million"


@dataclass(slots=True)
class Count:
    """What one engine did."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def cost(self, price: Price) -> float:
        return (
            self.seconds / 3600 * price.per_hour
            + self.prompt_tokens / 1e6 * price.read
            + self.completion_tokens / 1e6 * price.written
        )


def engine(kind: str, model: str, price: Price) -> dict[str, Any]:
    """An engine as in stoker.yaml, to be found as the end-to-end tests find it."""
    found: dict[str, Any] = {"name": kind, "kind": kind, "model": model, "models": [model]}
    if kind == "llama_cpp":
        # Its slots divide its context: 256 tokens each is what the requests need.
        found["args"] = ["--ctx-size", "8192", "--parallel", "32"]
        found["args"] += ["--threads", str(os.cpu_count())]
        if program := os.environ.get("STOKER_LLAMA_SERVER"):
            found["executable"] = program
    elif kind == "vllm":
        found["model"] = os.environ.get("STOKER_SMOLLM2", "HuggingFaceTB/SmolLM2-135M-Instruct")
        found["executable"] = os.environ.get("STOKER_VLLM_PYTHON") or shutil.which("vllm")
        found["args"] = ["--max-model-len", "2048", "--max-num-seqs", "64"]
        found["env"] = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    return found | {"price": price.settings()}


async def ask_all(
    url: str, kind: str, model: str, requests: int, concurrent: int, seed: int
) -> Count:
    """Ask one engine for everything."""
    dice = random.Random(seed)
    count, room = Count(), asyncio.Semaphore(concurrent)
    bodies = [
        {
            "model": model,
            "prompt": " ".join(dice.choices(WORDS, k=58)),
            "max_tokens": SHORTEST + (LONGEST - SHORTEST) * number // max(1, requests - 1),
            "temperature": 0,
            "ignore_eos": True,
        }
        for number in range(requests)
    ]
    dice.shuffle(bodies)
    limits = httpx.Limits(max_connections=concurrent)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as http:

        async def ask(body: dict[str, Any]) -> None:
            async with room:
                headers = {"x-stoker-backend": kind}
                response = await http.post("/v1/completions", json=body, headers=headers)
            if response.status_code != 200:
                raise SystemExit(f"{kind}: {response.status_code} {response.text[:300]}")
            usage = response.json()["usage"]
            if usage["completion_tokens"] != body["max_tokens"]:
                raise SystemExit(f"{kind} wrote {usage} when {body['max_tokens']} were asked for")
            count.requests += 1
            count.prompt_tokens += usage["prompt_tokens"]
            count.completion_tokens += usage["completion_tokens"]

        began = time.perf_counter()
        await asyncio.gather(*map(ask, bodies))
        count.seconds = time.perf_counter() - began
    return count


def recorded(url: str) -> dict[str, dict[str, Any]]:
    """What the router recorded of each engine."""
    data = httpx.get(f"{url}/usage", params={"by": "engine"}, timeout=30).json()["data"]
    return {row["engine"]: row for row in data}


def check(kind: str, mine: Count, cost: float, row: dict[str, Any], before: dict[str, Any]) -> None:
    """End here if the router counted otherwise; `before`: what it had recorded before."""
    names = ("requests", "prompt_tokens", "completion_tokens")
    theirs = {name: row[name] - before.get(name, 0) for name in names}
    if theirs != {name: getattr(mine, name) for name in names}:
        raise SystemExit(f"{kind}: GET /usage says {theirs}, the answers {mine}")
    own = row["cost"] - before.get("cost", 0.0)
    if row["estimated"] or abs(own / cost - 1) > TOLERANCE:
        raise SystemExit(f"{kind}: GET /usage says it cost {own:.6f}, the clock {cost:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--engine", action="append", required=True, metavar="KIND=PRICE", dest="engines"
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--concurrent", type=int, default=32)
    given = parser.parse_args()
    prices = {}
    for text in given.engines:
        kind, _, price = text.partition("=")
        prices[kind] = Price.parse(price)
    table = Table(
        title=f"{given.model}, {given.requests} requests, {given.concurrent} at once",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for column in (
        *("engine", "price", "requests/h", "tokens/s written"),
        *("per 1 000 requests", "per million tokens", "recorded"),
    ):
        table.add_column(column, justify="left" if column == "engine" else "right")
    with running([engine(kind, given.model, price) for kind, price in prices.items()]) as url:
        for kind, price in prices.items():
            asyncio.run(ask_all(url, kind, given.model, given.concurrent, given.concurrent, 0))
            before = recorded(url)[kind]
            mine = asyncio.run(ask_all(url, kind, given.model, given.requests, given.concurrent, 1))
            row, cost = recorded(url)[kind], mine.cost(price)
            check(kind, mine, cost, row, before)
            tokens = mine.prompt_tokens + mine.completion_tokens
            table.add_row(
                kind,
                str(price),
                f"{mine.requests / mine.seconds * 3600:,.0f}",
                f"{mine.completion_tokens / mine.seconds:,.0f}",
                f"{cost / mine.requests * 1e3:.4f}",
                f"{cost / tokens * 1e6:.4f}",
                f"{(row['cost'] - before['cost']) / mine.requests * 1e3:.4f}",
            )
    Console(width=110).print(table)
    print("recorded: per 1 000 requests, by GET /usage; requests and tokens agree exactly.")


if __name__ == "__main__":
    main()
