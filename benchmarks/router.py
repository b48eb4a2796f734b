"""The router beside vllm-router: requests per second, added latency, streams, memory.

    python benchmarks/router.py [--vllm-router ENV/bin/vllm-router] [--rounds 3] [--seconds 4]

Needs `wrk` and `nginx` (Debian: `apt-get install wrk nginx-light`); vllm-router comes from the
package index into a virtual environment of its own and is left out when not given. Two nginx
listeners stand for engines: they answer every chat completion at once, so what is measured is
the router. All candidates are measured in turn, round after round, on the same cores; the table
has the medians, the best round and the ratio to nginx asked directly. While one candidate
measures, the others are stopped (SIGSTOP).

- 1 connection: the median latency, of which what exceeds nginx' own is what a router adds.
- 32 connections: requests per second.
- 200 KB: requests per second with prompts of that size, 8 connections.
- streams: chunks per second through 200 concurrent event streams, and for streams paced at
  50 chunks a second, how much later than directly the chunks arrive (p50, p99).
- memory: resident size with 10 000 idle connections, and before and after the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stoker.router.ledger.keys import hash_of, new_key

HERE = Path(__file__).resolve().parent
console = Console(stderr=True)
# Stoker runs with a key that has every limit there is.
KEY = new_key()

ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "The capital of France is Paris."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 60, "completion_tokens": 8, "total_tokens": 68},
    }
)
SYSTEM = (
    "You are a helpful assistant. Answer in short sentences, and say when you do not know. " * 4
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until something that answers HTTP listens."""
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                if b" 200 " in connection.recv(200):
                    return
        except OSError:
            pass
        if time.monotonic() > end:
            raise SystemExit(f"nothing answers on port {port}")
        time.sleep(0.1)


@dataclass
class Candidate:
    """Something that answers on a port, and what was measured of it."""

    name: str
    port: int
    process: subprocess.Popen[bytes] | None = None
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    def rss(self) -> float:
        """Resident memory in MB."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    @contextlib.contextmanager
    def running_alone(self, others: Sequence[Candidate]) -> Iterator[None]:
        for other in others:
            if other is not self and other.process is not None:
                other.process.send_signal(signal.SIGSTOP)
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            time.sleep(0.3)  # probes of engines that failed meanwhile
        yield
        for other in others:
            if other.process is not None:
                other.process.send_signal(signal.SIGCONT)


def start_nginx(directory: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """Two listeners that answer at once."""
    ports = [free_port(), free_port()]
    models = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})
    server = """
    server {{
      listen 127.0.0.1:{port};
      location = /health {{ return 200 '{{}}'; }}
      location = /v1/models {{ return 200 '{models}'; }}
      location / {{ return 200 '{answer}'; }}
    }}"""
    servers = "".join(server.format(port=port, models=models, answer=ANSWER) for port in ports)
    (directory / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off;
pid {directory}/nginx.pid; error_log {directory}/log crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; default_type application/json; client_max_body_size 10m;
    keepalive_requests 1000000000; keepalive_timeout 600s;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    {servers}
}}"""
    )
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    command = [program, "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for port in ports:
        wait_for(port)
    return process, ports


def start_stoker(policy: str, engines: Sequence[int], directory: Path) -> Candidate:
    port = free_port()
    config = {
        "router": {"port": port, "policy": policy},
        "storage": {"url": f"sqlite:///{directory}/{policy}.db"},
        "keys": [
            {
                "name": "wrk",
                "hash": hash_of(KEY),
                "models": ["m"],
                "requests_per_minute": 1_000_000_000,
                "tokens_per_minute": 1_000_000_000_000,
                "budget": {"per_day": 1e9},
            }
        ],
        "engines": [
            {
                "name": f"e{number}",
                "kind": "openai",
                "url": f"http://127.0.0.1:{engine}",
                "max_in_flight": 1024,
                "price": {"input_per_million": 0.1, "output_per_million": 0.4},
            }
            for number, engine in enumerate(engines)
        ],
    }
    file = directory / f"{policy}.yaml"
    file.write_text(json.dumps(config))
    command = [sys.executable, "-m", "stoker", "router", str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    return Candidate(f"stoker, {policy}", port, process)


def start_vllm_router(program: str, policy: str, engines: Sequence[int]) -> Candidate:
    port, metrics = free_port(), free_port()
    urls = [f"http://127.0.0.1:{engine}" for engine in engines]
    command = [
        *(program, "--host", "127.0.0.1", "--port", str(port), "--policy", policy),
        *("--prometheus-port", str(metrics), "--log-level", "error", "--worker-urls", *urls),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    return Candidate(f"vllm-router, {policy}", port, process)


def wrk(
    port: int, connections: int, seconds: float, body: str, directory: Path
) -> tuple[float, float]:
    """Requests per second, and the median latency in milliseconds."""
    script = directory / "post.lua"
    (directory / "body.json").write_text(body)
    script.write_text(
        f"""local file = io.open("{directory}/body.json", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer {KEY}"
"""
    )
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [
        *("wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"),
        *("-s", str(script), url),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in output or "Socket errors" in output:
        console.print(f"[red]errors[/] from port {port}:\n{output}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    middle = re.search(r"50%\s+([\d.]+)(us|ms|s)", output)
    assert rate
    assert middle
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}[middle[2]]
    return float(rate[1]), float(middle[1]) * scale


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
                rate, middle = wrk(candidate.port, 1, seconds, short, directory)
                candidate.note("1: p50 ms", middle)
                candidate.note("1: req/s", rate)
                rate, middle = wrk(candidate.port, 32, seconds, short, directory)
                candidate.note("32: p50 ms", middle)
                candidate.note("32: req/s", rate)
                rate, _ = wrk(candidate.port, 8, seconds, long, directory)
                candidate.note("200 KB: req/s", rate)


def measure_streams(policy: str, seconds: float, directory: Path) -> list[Candidate]:
    """Streams directly and through the router, from the worker that makes and reads them."""
    worker = HERE / "workers" / "streams.py"
    engine_port = free_port()
    engine = subprocess.Popen([sys.executable, str(worker), "serve", str(engine_port)])
    try:
        wait_for(engine_port)
        router = start_stoker(policy, [engine_port], directory)
        measured = [Candidate("directly", engine_port), router]
        try:
            for load in ("fast", "paced"):
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
            assert router.process is not None
            router.process.terminate()
            router.process.wait()
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
            best = min(values) if "ms" in figure else max(values)
            cells.append(f"{statistics.median(values):,.2f} ({best:,.2f})")
        table.add_row(candidate.name, *cells)
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--vllm-router", help="its program, in its own environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--policies", default="round_robin,prefix,auto", help="Stoker's to measure")
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections to hold")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not here: apt-get install wrk nginx-light")
    policies = given.policies.split(",")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        nginx, engines = start_nginx(directory)
        candidates = [Candidate("nginx directly", engines[0])]
        try:
            candidates += [start_stoker(policy, engines, directory) for policy in policies]
            if given.vllm_router:
                candidates += [
                    start_vllm_router(given.vllm_router, policy, engines)
                    for policy in ("round_robin", "cache_aware")
                ]
            ours = candidates[len(policies)]
            fresh = ours.rss()
            measure_requests(candidates, given.rounds, given.seconds, directory)
            after = ours.rss()
            with ours.running_alone(candidates):
                idle = idle_connections(ours, given.idle)
        finally:
            for candidate in candidates:
                if candidate.process is not None:
                    candidate.process.send_signal(signal.SIGCONT)
                    candidate.process.terminate()
                    candidate.process.wait()
            nginx.terminate()
            nginx.wait()
        streams = measure_streams(policies[-1], given.seconds, directory)
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f}")
    requests = ("1: p50 ms", "1: req/s", "32: p50 ms", "32: req/s", "200 KB: req/s")
    print_table("Requests: median (best)", candidates, requests)
    chunks = ("fast: chunks/s", "paced: p50 late ms", "paced: p99 late ms")
    print_table("200 streams", streams, chunks)
    print(
        f"Memory of {ours.name}: {fresh:.0f} MB at start, {after:.0f} MB after the requests, "
        f"{idle:.0f} MB with {given.idle} idle connections"
    )


if __name__ == "__main__":
    main()
