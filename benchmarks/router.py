"""The router beside vllm-router: requests per second, added latency, streams, memory.

    python benchmarks/router.py [--compiled .venv/compiled/bin/python]
        [--vllm-router ENV/bin/vllm-router] [--rounds 3] [--seconds 4]

Needs `wrk` and `nginx` (Debian: `apt-get install wrk nginx-light`); vllm-router comes from the
package index into a virtual environment of its own and is left out when not given. Two nginx
listeners stand for engines: they answer every chat completion at once, so what is measured is
the router. Stoker has everything on: a key with limits and a budget, prices, metrics, the access
log. All candidates are measured in turn, round after round, on the same cores; the tables have
the medians and the best round. While one candidate measures, the others are stopped (SIGSTOP).

- 1 connection: the median latency, of which what exceeds nginx' own is what a router adds.
- 32 connections: requests per second.
- 200 KB: prompts of that size, 8 connections. What they cost more than short ones, beside the
  same through a pipe that copies and hashes each byte and does nothing else.
- streams: chunks per second through 200 concurrent event streams, and for streams paced at
  50 chunks a second, how much later than directly the chunks arrive (p50, p99).
- memory: resident size with 10 000 idle connections, and after each tenth of `--soak` requests.

The last tables have each target beside what was measured: the first policy's, of the router as
Python runs it, and of the one that `make compiled` made if its interpreter is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table
from router_peers import (
    HERE,
    KEY,
    PIPE,
    Build,
    Candidate,
    console,
    free_port,
    start_nginx,
    start_pipe,
    start_stoker,
    start_vllm_router,
    wait_for,
    wrk,
)

DIRECTLY = "nginx directly"
SYSTEM = (
    "You are a helpful assistant. Answer in short sentences, and say when you do not know. " * 4
)


def chat(prompt: str) -> str:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
    return json.dumps({"model": "m", "messages": messages, "max_tokens": 64})


def measure_requests(
    candidates: Sequence[Candidate], rounds: int, seconds: float, directory: Path
) -> None:
    short = chat("What is the capital of France, and how many people live there?")
    long = chat("word " * 40_000)
    for number in range(rounds):
        for candidate in candidates:
            console.print(f"round {number + 1}: {candidate.name}")
            with candidate.running_alone(candidates):
                for connections in (1, 32):
                    load = wrk(candidate.port, connections, seconds, short, directory)
                    candidate.note(f"{connections}: p50 ms", load.p50_ms)
                    candidate.note(f"{connections}: req/s", load.per_second)
                large = wrk(candidate.port, 8, seconds, long, directory).per_second
                candidate.note("200 KB: req/s", large)
                candidate.note("200 KB: µs more", 1e6 / large - 1e6 / load.per_second)


def soak(candidate: Candidate, requests: int, directory: Path) -> list[float]:
    """Resident MB at first, and after each tenth of so many requests."""
    sizes, done = [candidate.rss()], 0
    body = chat("What is the capital of France, and how many people live there?")
    while len(sizes) <= 10:
        done += wrk(candidate.port, 32, 1, body, directory).requests
        if done >= requests * len(sizes) / 10:
            sizes.append(candidate.rss())
    return sizes


def measure_streams(
    builds: Sequence[Build], policy: str, rounds: int, seconds: float, directory: Path
) -> list[Candidate]:
    """Streams directly and through each router, from the worker that makes and reads them."""
    worker = HERE / "workers" / "streams.py"
    engine_port = free_port()
    engine = subprocess.Popen([sys.executable, str(worker), "serve", str(engine_port)])
    try:
        wait_for(engine_port)
        measured = [Candidate("directly", engine_port)]
        try:
            measured += [start_stoker(build, policy, [engine_port], directory) for build in builds]
            for load in ("fast", "paced") * rounds:
                for candidate in measured:
                    command = [
                        *(sys.executable, str(worker), load),
                        *(str(candidate.port), "200", str(seconds)),
                    ]
                    environment = {**os.environ, "STOKER_KEY": KEY}
                    output = subprocess.run(
                        command, capture_output=True, text=True, check=True, env=environment
                    )
                    for figure, value in json.loads(output.stdout).items():
                        candidate.note(f"{load}: {figure}", value)
        finally:
            for candidate in measured:
                candidate.stop()
    finally:
        engine.kill()
        engine.wait()
    return measured


def idle_connections(candidate: Candidate, count: int) -> float:
    """Resident MB of a router with so many idle connections."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 500), hard))
    sockets = []
    try:
        for _ in range(count):
            sockets.append(socket.create_connection(("127.0.0.1", candidate.port)))
        time.sleep(1)
        return candidate.rss()
    finally:
        for one in sockets:
            one.close()


def print_table(title: str, candidates: Sequence[Candidate], figures: Sequence[str]) -> None:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("")
    for figure in figures:
        table.add_column(figure, justify="right")
    for candidate in candidates:
        cells = []
        for figure in figures:
            values = candidate.figures.get(figure)
            if values is None:
                cells.append("")
                continue
            best = max(values) if "/s" in figure else min(values)
            cells.append(f"{statistics.median(values):,.2f} ({best:,.2f})")
        table.add_row(candidate.name, *cells)
    Console(width=160).print(table)


Row = tuple[str, str, str, bool]
"""What is asked for, the target, what was measured, whether it is met."""


def request_targets(ours: Candidate, others: Sequence[Candidate]) -> Iterator[Row]:
    named = {other.name: other for other in others}
    rate = ours.median("32: req/s")
    yield "requests/s, 32 connections", "≥ 20 000", f"{rate:,.0f}", rate >= 20_000
    for peer, factor in (("cache_aware", 2.0), ("round_robin", 1.0)):
        other = named.get(f"vllm-router, {peer}")
        if other is not None:
            ratio = rate / other.median("32: req/s")
            name = f"of vllm-router's {peer}"
            yield name, f"≥ {factor:g} times", f"{ratio:.2f} times", ratio >= factor
    added = ours.median("1: p50 ms") - named[DIRECTLY].median("1: p50 ms")
    yield "added at 1 connection, p50", "≤ 0.1 ms", f"{added:.3f} ms", added <= 0.1
    more, least = ours.median("200 KB: µs more"), named[PIPE].median("200 KB: µs more")
    name = "200 KB prompts, over short ones"
    yield name, f"≤ {least:.0f} µs (copy and hash)", f"{more:.0f} µs", more <= least


def other_targets(
    directly: Candidate, through: Candidate, idle: float, sizes: Sequence[float]
) -> Iterator[Row]:
    chunks = through.median("fast: chunks/s")
    yield "chunks/s, 200 streams", "≥ 100 000", f"{chunks:,.0f}", chunks >= 100_000
    late = through.median("paced: p99 late ms") - directly.median("paced: p99 late ms")
    yield "added to a chunk at 200 streams, p99", "< 1 ms", f"{late:.2f} ms", late < 1
    yield "10 000 idle connections", "< 200 MB", f"{idle:.0f} MB", idle < 200
    grown = sizes[-1] - sizes[1]
    yield "memory, from the first tenth to the last", "flat", f"{grown:+.1f} MB", grown < 2


def print_targets(name: str, rows: Iterator[Row]) -> None:
    table = Table(title=f"Targets: {name}", title_justify="left", box=None, header_style="bold")
    for column in ("", "target", "measured", ""):
        table.add_column(column)
    for name, target, measured, met in rows:
        table.add_row(name, target, measured, "met" if met else "missed")
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vllm-router", help="its program, in its own environment")
    parser.add_argument("--compiled", help="the interpreter that `make compiled` installed for")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--policies", default="prefix,round_robin,auto", help="Stoker's to measure")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections to hold")
    parser.add_argument("--soak", type=int, default=1_000_000, help="requests for the memory")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not here: apt-get install wrk nginx-light")
    policies = given.policies.split(",")
    builds = [Build("stoker", sys.executable)]
    if given.compiled:
        builds.append(Build("stoker compiled", given.compiled))
        builds[-1].check_compiled()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        nginx, engines = start_nginx(directory)
        candidates = [Candidate(DIRECTLY, engines[0])]
        try:
            candidates.append(start_pipe(engines[0]))
            candidates += [
                start_stoker(build, policy, engines, directory)
                for policy in policies
                for build in builds
            ]
            judged = candidates[2 : 2 + len(builds)]
            if given.vllm_router:
                candidates += [
                    start_vllm_router(given.vllm_router, policy, engines)
                    for policy in ("round_robin", "cache_aware")
                ]
            measure_requests(candidates, given.rounds, given.seconds, directory)
            sizes, idle = [], []
            for ours in judged:
                with ours.running_alone(candidates):
                    console.print(f"memory: {ours.name}")
                    sizes.append(soak(ours, given.soak, directory))
                    idle.append(idle_connections(ours, given.idle))
        finally:
            for candidate in candidates:
                candidate.stop()
            nginx.terminate()
            nginx.wait()
        directly, *streams = measure_streams(
            builds, policies[0], given.rounds, given.seconds, directory
        )
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}")
    requests = ("1: p50 ms", "32: p50 ms", "32: req/s", "200 KB: req/s", "200 KB: µs more")
    print_table("Requests: median (best)", candidates, requests)
    chunks = ("fast: chunks/s", "paced: p50 late ms", "paced: p99 late ms")
    print_table("200 streams", [directly, *streams], chunks)
    for ours, through, resident, held in zip(judged, streams, sizes, idle, strict=True):
        tenths = " ".join(f"{size:.1f}" for size in resident)
        print(f"Memory of {ours.name} over {given.soak:,} requests, MB: {tenths}")
        print(f"With {given.idle} idle connections: {held:.0f} MB")
        rows = (
            request_targets(ours, candidates),
            other_targets(directly, through, held, resident),
        )
        print_targets(ours.name, chain.from_iterable(rows))


if __name__ == "__main__":
    main()
