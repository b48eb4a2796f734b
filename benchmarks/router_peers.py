"""The routers that benchmarks/router.py measures, the engines behind them, and the load."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from stoker.router.ledger.keys import hash_of, new_key

HERE = Path(__file__).resolve().parent
console = Console(stderr=True)
# Stoker runs with a key that has every limit there is.
KEY = new_key()
PIPE = "copy and hash"

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
    """Each figure, round after round."""

    def note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    def median(self, figure: str) -> float:
        return statistics.median(self.figures[figure])

    def rss(self) -> float:
        """Resident memory in MB."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 1e6

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()

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


def stoker_config(
    policy: str, engines: Sequence[int], directory: Path, port: int = 0
) -> dict[str, Any]:
    """Everything on: a key with limits and a budget, prices, the access log."""
    return {
        "router": {
            "port": port,
            "policy": policy,
            "access_log": str(directory / f"{policy}.log"),
        },
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


@dataclass(frozen=True)
class Build:
    """A Stoker to measure."""

    name: str
    python: str
    """The interpreter of its environment."""

    @property
    def environment(self) -> dict[str, str]:
        """Without what would put another Stoker in its place."""
        here = self.python == sys.executable
        return {k: v for k, v in os.environ.items() if here or k != "PYTHONPATH"}

    def check_compiled(self) -> None:
        command = [self.python, "-m", "stoker", "collect-env", "--json"]
        output = subprocess.run(
            command, capture_output=True, text=True, check=True, env=self.environment
        )
        if json.loads(output.stdout)["software"]["router"] != "native code":
            raise SystemExit(f"the router of {self.python} is not compiled: make compiled")


def start_stoker(build: Build, policy: str, engines: Sequence[int], directory: Path) -> Candidate:
    port = free_port()
    own = directory / build.name
    own.mkdir(exist_ok=True)
    config = stoker_config(policy, engines, own, port)
    file = own / f"{policy}.yaml"
    file.write_text(json.dumps(config))
    command = [build.python, "-m", "stoker", "router", str(file)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=build.environment
    )
    wait_for(port)
    return Candidate(f"{build.name}, {policy}", port, process)


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


def start_pipe(engine: int) -> Candidate:
    """What copying and hashing alone cost."""
    port = free_port()
    command = [sys.executable, str(HERE / "workers" / "pipe.py"), str(port), str(engine)]
    process = subprocess.Popen(command)
    wait_for(port)
    return Candidate(PIPE, port, process)


@dataclass(frozen=True)
class Load:
    """What `wrk` saw."""

    per_second: float
    p50_ms: float
    requests: int


def wrk(port: int, connections: int, seconds: float, body: str, directory: Path) -> Load:
    """Send the same request over and over."""
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
    total = re.search(r"(\d+) requests in", output)
    assert rate
    assert middle
    assert total
    scale = {"us": 1e-3, "ms": 1.0, "s": 1e3}[middle[2]]
    return Load(float(rate[1]), float(middle[1]) * scale, int(total[1]))
