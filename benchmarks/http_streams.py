"""What HTTP costs: many streams, every token an event of its own, beside the same engine offline.

    python benchmarks/http_streams.py --model smollm2

`LLM.generate` in one process and `stoker serve` in another take the same prompts in turn, each
stopped (SIGSTOP) while the other works. Rates are of the whole call, prompts included. The client
is a process of its own on the same processors: it reads raw sockets, and what it takes of the
machine is shown, for a part of what HTTP seems to cost is the client's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from peers import Load, Worker
from rich.console import Console
from rich.table import Table

from stoker.router.managed.commands import HOST, free_port

HERE = Path(__file__).resolve().parent
LIKE_OFFLINE = ["--max-num-seqs", "64", "--max-num-batched-tokens", "2048"]
LIKE_OFFLINE += ["--max-model-len", "8192", "--no-enable-prefix-caching"]
"""The settings of `workers/llm_worker.py`."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Streams:
    """What one load through HTTP came to. Seconds."""

    seconds: float
    tokens: int
    events: int
    """With text. Fewer than tokens where a character takes several, or one event took two."""
    client_cpu: float
    server_cpu: float
    loop_cpu: float
    """Of the server, its event loop: all that HTTP adds, with the client."""

    @property
    def rate(self) -> float:
        """Answer tokens per second."""
        return self.tokens / self.seconds


class StreamingServer:
    """`stoker serve` and a client that reads its streams, both stopped between measurements."""

    def __init__(self, model: str, arguments: Sequence[str], log: Path) -> None:
        self.port = free_port()
        self._log = log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stoker", "serve", model, "--port", str(self.port), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self._client = subprocess.Popen(
            [sys.executable, str(HERE / "workers" / "stream_client.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._wait_until_ready()
        self.process.send_signal(signal.SIGSTOP)

    def measure(self, streams: int, prompt: int, tokens: int, seed: int) -> Streams:
        """Answer `streams` random prompts of `prompt` tokens with `tokens` each."""
        load = {"streams": streams, "prompt": prompt, "tokens": tokens, "seed": seed}
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        with self._awake():
            cpu, loop = self._server_cpu(), self._loop_cpu()
            self._client.stdin.write(json.dumps({"port": self.port, **load}) + "\n")
            self._client.stdin.flush()
            line = self._client.stdout.readline()
            if not line:
                raise RuntimeError(f"the client failed; the server's log is {self._log.name}")
            found = json.loads(line)
            cpu, loop = self._server_cpu() - cpu, self._loop_cpu() - loop
        if found["tokens"] != streams * tokens:
            raise RuntimeError(f"asked for {streams * tokens} tokens, got {found['tokens']}")
        return Streams(
            found["seconds"], found["tokens"], found["events"], found["cpu_s"], cpu, loop
        )

    def close(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        assert self._client.stdin is not None
        self._client.stdin.close()
        self._client.wait(10)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._log.close()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGSTOP)

    def _server_cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _loop_cpu(self) -> float:
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://{HOST}:{self.port}/health", timeout=10):
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise RuntimeError(f"the server did not start; its log is {self._log.name}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens")
    parser.add_argument("--tokens", type=int, default=128, help="answer tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--logs", type=Path, default=Path("build/bench-logs"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)

    load = Load("generate", arguments.streams, arguments.prompt, arguments.tokens)
    offline, through_http = [], []
    options = ["--engine", "stoker", "--model", arguments.model]
    worker = Worker("offline", sys.executable, options, arguments.logs / "offline.log")
    server = StreamingServer(
        arguments.model,
        LIKE_OFFLINE,
        arguments.logs / "serve.log",
    )
    try:
        server.measure(2, 200, 8, 0)
        for repeat in range(arguments.repeats):
            offline.append(worker.measure(load, seed=repeat))
            through_http.append(server.measure(load.batch, load.prompt, load.tokens, seed=repeat))
    finally:
        worker.close()
        server.close()
    report(offline, through_http, f"{arguments.model}, {arguments.streams} streams")
    if arguments.json:
        samples = {"offline": offline, "http": [asdict(s) for s in through_http]}
        arguments.json.write_text(json.dumps(samples, indent=1) + "\n")


def report(offline: Sequence[float], through_http: Sequence[Streams], title: str) -> None:
    rate = statistics.median(s.rate for s in through_http)
    ratio = statistics.median(s.rate / o for o, s in zip(offline, through_http, strict=True))
    seconds = sum(s.seconds for s in through_http)
    tokens = sum(s.tokens for s in through_http)
    table = Table("", "", title=title, title_justify="left", show_header=False)
    table.add_row("offline, tokens/s", f"{statistics.median(offline):,.0f}")
    table.add_row("through HTTP, tokens/s", f"{rate:,.0f}")
    table.add_row("HTTP ÷ offline, median of repeats", f"{ratio:.1%}")
    table.add_row("events per token", f"{sum(s.events for s in through_http) / tokens:.3f}")
    for name, cpu in (
        ("server", sum(s.server_cpu for s in through_http)),
        ("server's event loop", sum(s.loop_cpu for s in through_http)),
        ("client", sum(s.client_cpu for s in through_http)),
    ):
        busy = f"{cpu / seconds:.3f} processors, {cpu / tokens * 1e6:.1f} µs a token"
        table.add_row(f"busy with the {name}", busy)
    Console().print(table)


if __name__ == "__main__":
    main()
