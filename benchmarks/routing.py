"""How well each policy chooses: hit rate, time to first token and throughput of four engines.

    python benchmarks/routing.py [--requests 1000] [--seed 1]

A simulation: the router's own policies and our engine's own block pool (allocation, prefix
cache, eviction, KV events), on a simulated clock. What an engine's step takes is a model: a fixed
part, a part for each token read and one for each answer written. Beside the router's policies
stands `cache_aware`, the algorithm of vllm-router with its default thresholds, written anew here:
the engine with the longest matching prefix if it matches more than 30 %, else the one that has
been sent the least text; the shortest queue while load is out of balance (more than 64 requests
and half as many again).

Traces, of Poisson arrivals: *shared prefix* (32 system prompts of 1 024 tokens, some much more
popular than others), *multi-turn* (each turn repeats the conversation so far) and *no reuse*.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from stoker.engine.block_pool import BlockPool, OutOfBlocksError, hash_block
from stoker.engine.kv_events import BlockRemoved, BlockStored, KVEvent
from stoker.router.config import Breaker, EngineConfig, Health
from stoker.router.engines.handle import EngineHandle, Lease
from stoker.router.engines.load import EngineLoad
from stoker.router.kv.events import Removed, Stored
from stoker.router.kv.index import KvIndex
from stoker.router.policies import POLICIES, Decision, Policy
from stoker.router.policies.kv import Kv
from stoker.router.request import Features, Request, read_features

ENGINES = 4
BLOCK = 16
BLOCKS = 1200
"""Of each engine: 19 200 tokens, so that no engine can hold every prefix of a trace."""
SLOTS = 32
STEP_TOKENS = 512
STEP_S, READ_S, WRITE_S = 0.010, 0.0004, 0.0005
"""A step; each token read; each answer that gets a token."""
TICK_S = 0.1


@dataclass(eq=False)
class Job:
    """A request, and what became of it."""

    tokens: list[int]
    output: int
    then: Callable[[Job, float], None] | None = None
    """Called when it is answered: a conversation's next turn."""
    user: str = ""
    came: float = 0.0
    read: int = 0
    cached: int = 0
    written: int = 0
    first: float = 0.0
    lease: Lease | None = None
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)

    def features(self) -> Features:
        """As the router would read them; a token is four characters."""
        prompt = "".join(f"{token % 46656:x}".rjust(4, "-") for token in self.tokens)
        body = {"model": "m", "prompt": prompt, "max_tokens": self.output, "user": self.user}
        features = read_features(
            Request(b"POST", b"/v1/completions", [], json.dumps(body).encode())
        )
        features.tokens = self.tokens
        return features


class CacheAware(Policy):
    """vllm-router's algorithm, over chains of blocks where it has a tree of characters."""

    name = "cache_aware"

    def __init__(self) -> None:
        self._seen: dict[EngineHandle, set[int]] = {}

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        loads = [engine.in_flight for engine in engines]
        if max(loads) - min(loads) > 64 and max(loads) > 1.5 * min(loads):
            return Decision(engines[loads.index(min(loads))], "balance")
        chain = _chain(features)
        matches = [
            sum(1 for _ in itertools.takewhile(self._seen.get(engine, set()).__contains__, chain))
            for engine in engines
        ]
        if max(matches) > 0.3 * len(chain):
            return Decision(engines[matches.index(max(matches))], "match")
        return Decision(min(engines, key=lambda one: len(self._seen.get(one, ()))), "smallest")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._seen.setdefault(engine, set()).update(_chain(features))


def _chain(features: Features) -> list[int]:
    tokens = features.tokens or []
    keys = [0]
    for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
        keys.append(hash((keys[-1], tuple(tokens[start : start + BLOCK]))))
    return keys[1:]


class Engine:
    """Our engine's scheduling in short: answers first, then prompts, within a step's tokens."""

    def __init__(self, number: int, tell: Callable[[EngineHandle, KVEvent], None]) -> None:
        config = EngineConfig(
            name=f"e{number}",
            kind="native",
            url="http://127.0.0.1:1",
            models={"m": "m"},
            max_in_flight=4096,
        )
        self.handle = EngineHandle(config, Breaker(), Health())
        self.handle.load = EngineLoad(0.0, 0, 0, None, num_blocks=BLOCKS, block_size=BLOCK)
        self.pool = BlockPool(BLOCKS, BLOCK, lambda event: tell(self.handle, event))
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.busy = False

    def admit(self) -> None:
        while self.waiting and len(self.running) < SLOTS:
            job = self.waiting[0]
            whole = (len(job.tokens) - 1) // BLOCK
            known = self.pool.longest_prefix(job.hashes[:whole])
            needed = -(-(len(job.tokens) + job.output) // BLOCK) - len(known)
            if needed > self.pool.num_free - self.pool.num_unused(known):
                return
            self.pool.acquire(known)
            try:
                job.blocks = known + self.pool.allocate(needed)
            except OutOfBlocksError:
                self.pool.release(known)
                return
            job.read = job.cached = len(known) * BLOCK
            self.running.append(self.waiting.popleft())

    def step(self, now: float) -> tuple[float, list[Job]]:
        """When the step ends, and the jobs that end with it."""
        self.admit()
        writing = [job for job in self.running if job.read == len(job.tokens)]
        left = STEP_TOKENS - len(writing)
        reading: list[Job] = []
        read = 0
        for job in self.running:
            if job.read < len(job.tokens) and left > 0:
                part = min(left, len(job.tokens) - job.read)
                job.read, left, read = job.read + part, left - part, read + part
                reading.append(job)
        end = now + STEP_S + READ_S * read + WRITE_S * len(writing)
        for job in reading:
            if job.read == len(job.tokens):
                self.register(job)
                writing.append(job)
        done = []
        for job in writing:
            job.written += 1
            if job.written == 1:
                job.first = end
                assert job.lease is not None
                job.lease.prefilled()
            if job.written == job.output:
                done.append(job)
                self.running.remove(job)
                self.pool.release(job.blocks)
        return end, done

    def register(self, job: Job) -> None:
        """The prompt's full blocks enter the prefix cache."""
        parent = None
        for number, block_hash in enumerate(job.hashes):
            part = job.tokens[number * BLOCK : (number + 1) * BLOCK]
            block = job.blocks[number]
            same = self.pool.register(block, block_hash, parent, np.array(part, np.int32))
            if same != block:
                self.pool.acquire([same])
                self.pool.release([block])
                job.blocks[number] = same
            parent = block_hash


class Simulation:
    """Four engines and a policy, on a clock of their own."""

    def __init__(self, policy: str) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        index = KvIndex(lambda: self.now)
        if policy == "cache_aware":
            self.policy: Policy = CacheAware()
        elif policy == "kv":
            self.policy = Kv(index)
        else:
            self.policy = POLICIES[policy]()  # type: ignore[index]

        def tell(engine: EngineHandle, event: KVEvent) -> None:
            if isinstance(event, BlockStored):
                parent, tokens = event.parent_block_hash, event.token_ids
                index.apply(engine, Stored(event.block_hashes, parent, tokens, BLOCK, None))
            elif isinstance(event, BlockRemoved):
                index.apply(engine, Removed(event.block_hashes))

        self.engines = [Engine(number, tell) for number in range(ENGINES)]
        self.done: list[Job] = []
        self._tick_due = TICK_S

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def arrive(self, job: Job) -> None:
        job.came = self.now
        parent: bytes | None = None
        for end in range(BLOCK, len(job.tokens) + 1, BLOCK):
            parent = hash_block(parent, np.array(job.tokens[end - BLOCK : end], np.int32))
            job.hashes.append(parent)
        features = job.features()
        decision = self.policy.choose(features, [one.handle for one in self.engines])
        handle = decision.engine
        self.policy.placed(features, handle)
        to_read = max(features.prompt_tokens - decision.known_tokens, 1)
        job.lease = handle.take(to_read, features.output_tokens, self.now)
        engine = next(one for one in self.engines if one.handle is handle)
        engine.waiting.append(job)
        if not engine.busy:
            engine.busy = True
            self.step(engine)

    def step(self, engine: Engine) -> None:
        end, done = engine.step(self.now)
        self.at(end, lambda: self.stepped(engine, done))

    def stepped(self, engine: Engine, done: list[Job]) -> None:
        for job in done:
            assert job.lease is not None
            engine.handle.meter.tokens += job.output
            job.lease.give_back(self.now)
            self.done.append(job)
            if job.then is not None:
                job.then(job, self.now)
        if engine.waiting or engine.running:
            self.step(engine)
        else:
            engine.busy = False

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            while self._tick_due <= self.now:
                for engine in self.engines:
                    engine.handle.meter.update(self._tick_due)
                self._tick_due += TICK_S
            what()


def fresh(dice: random.Random, count: int) -> list[int]:
    return [dice.randrange(1 << 20) for _ in range(count)]


def arrivals(dice: random.Random, rate: float, count: int) -> Iterator[float]:
    now = 0.0
    for _ in range(count):
        now += dice.expovariate(rate)
        yield now


def shared_prefix(simulation: Simulation, dice: random.Random, count: int) -> None:
    systems = [fresh(dice, 1024) for _ in range(32)]
    weights = [1 / (1 + rank) ** 0.8 for rank in range(len(systems))]
    for when in arrivals(dice, 16.0, count):
        [system] = dice.choices(systems, weights)
        job = Job(system + fresh(dice, dice.randrange(32, 256)), dice.randrange(16, 96))
        simulation.at(when, lambda job=job: simulation.arrive(job))  # type: ignore[misc]


def multi_turn(simulation: Simulation, dice: random.Random, count: int) -> None:
    turns = 8
    for number, when in enumerate(arrivals(dice, 2.0, count // turns)):
        own = random.Random(dice.random())

        def again(job: Job, now: float, own: random.Random = own) -> None:
            if len(job.tokens) < turns * 256:
                tokens = job.tokens + fresh(own, job.output + own.randrange(128, 256))
                after = Job(tokens, own.randrange(32, 96), again_of(own), job.user)
                simulation.at(now + own.expovariate(0.25), lambda: simulation.arrive(after))

        def again_of(own: random.Random, again: Callable[..., None] = again) -> Callable[..., None]:
            return lambda job, now: again(job, now, own)

        first = Job(fresh(own, own.randrange(256, 512)), 64, again_of(own), f"c{number}")
        simulation.at(when, lambda job=first: simulation.arrive(job))  # type: ignore[misc]


def no_reuse(simulation: Simulation, dice: random.Random, count: int) -> None:
    for when in arrivals(dice, 16.0, count):
        job = Job(fresh(dice, dice.randrange(128, 768)), dice.randrange(16, 96))
        simulation.at(when, lambda job=job: simulation.arrive(job))  # type: ignore[misc]


TRACES = {"shared prefix": shared_prefix, "multi-turn": multi_turn, "no reuse": no_reuse}
SHOWN = ("round_robin", "cache_aware", "least_work", "session", "prefix", "cost", "kv", "auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name, make in TRACES.items():
        table = Table(title=name, title_justify="left", box=None, header_style="bold")
        for column in ("policy", "hit rate", "TTFT mean ms", "p50", "p99", "output tokens/s"):
            table.add_column(column, justify="left" if column == "policy" else "right")
        for policy in SHOWN:
            simulation = Simulation(policy)
            make(simulation, random.Random(given.seed), given.requests)
            simulation.run()
            jobs = simulation.done
            waits = sorted((job.first - job.came) * 1e3 for job in jobs)
            table.add_row(
                policy,
                f"{sum(j.cached for j in jobs) / sum(len(j.tokens) for j in jobs):.1%}",
                f"{statistics.mean(waits):,.0f}",
                f"{waits[len(waits) // 2]:,.0f}",
                f"{waits[len(waits) * 99 // 100]:,.0f}",
                f"{sum(job.output for job in jobs) / simulation.now:,.0f}",
            )
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
