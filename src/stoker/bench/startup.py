"""From the command to the first token: a server started, asked and stopped, several times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from stoker.bench.offline import PERCENTAGES
from stoker.errors import StokerError
from stoker.router.managed.commands import HOST, free_port

_LIMIT_S = 300.0
_POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a server. Seconds from before its process existed."""

    ready: float
    """Until `/health` said that requests are taken."""
    first_token: float
    """Until a streamed answer's first token."""
    peak_mib: float
    """Most memory resident until then."""


@dataclass(frozen=True, slots=True)
class StartupReport:
    """Starts with the model's files on disk only, and with them in the page cache."""

    cold: Sequence[Start]
    warm: Sequence[Start]

    def lines(self) -> list[str]:
        """In the form of `vllm bench startup`."""
        rule = "=" * 60
        lines = [rule, "STARTUP TIME BENCHMARK RESULTS", rule]
        for phase, starts in (("COLD", self.cold), ("WARM", self.warm)):
            if not starts:
                continue
            lines += ["", f"{phase} STARTUP:"]
            figures = _figures(starts)
            for name, values in figures.items():
                lines.append(f"Avg {name.lower()}: {np.mean(values):.2f} seconds")
            for name, values in figures.items():
                lines.append(f"{name} percentiles:")
                lines += [f"  {p}%: {np.percentile(values, p):.2f} seconds" for p in PERCENTAGES]
            lines.append(f"Peak memory: {max(start.peak_mib for start in starts):.0f} MiB")
        return [*lines, rule]

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for phase, starts in (("cold", self.cold), ("warm", self.warm)):
            if not starts:
                continue
            for name, values in _figures(starts).items():
                key = f"{phase}_{name.lower().removesuffix(' time').replace(' ', '_')}"
                result[f"avg_{key}_time"] = float(np.mean(values))
                result[f"{key}_times"] = values
                result[f"{key}_percentiles"] = {
                    str(p): float(np.percentile(values, p)) for p in PERCENTAGES
                }
            result[f"{phase}_peak_memory_mib"] = max(start.peak_mib for start in starts)
        return result


def measure_startup(
    model: str,
    files: Sequence[Path],
    arguments: Sequence[str],
    *,
    cold: int,
    warmup: int,
    warm: int,
    on_done: Callable[[], None] = lambda: None,
) -> StartupReport:
    """Start `stoker serve` so many times. `files` are the model's, which a cold start has to read
    from disk; `arguments` go to the server.

    Raises `StokerError` when the server does not start.
    """
    cold_starts, warm_starts = [], []
    for _ in range(cold):
        forget(files)
        cold_starts.append(start_once(model, arguments))
        on_done()
    for number in range(warmup + warm):
        start = start_once(model, arguments)
        if number >= warmup:
            warm_starts.append(start)
        on_done()
    return StartupReport(cold_starts, warm_starts)


def start_once(model: str, arguments: Sequence[str]) -> Start:
    """Start a server, ask it, and stop it."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [*(sys.executable, "-m", "stoker", "serve", model, "--port", str(port)), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _wait_until_ready(process, port, began + _LIMIT_S)
        ready = time.monotonic()
        _first_token(port)
        first = time.monotonic()
        return Start(ready - began, first - began, _peak_mib(process.pid))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def forget(files: Sequence[Path]) -> None:
    """Ask the kernel to drop files from its page cache."""
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, deadline: float) -> None:
    while True:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=10):
                return
        except (urllib.error.URLError, ConnectionError):
            if process.poll() is not None:
                raise StokerError(f"the server did not start: {_last_line(process)}") from None
            if time.monotonic() > deadline:
                raise StokerError(f"the server was not ready within {_LIMIT_S:g} s") from None
        time.sleep(_POLL_S)


def _first_token(port: int) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 4, "stream": True}
    request = urllib.request.Request(
        f"http://{HOST}:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            if line.startswith(b"data: {"):
                return
    raise StokerError("the server's first answer was empty")


def _last_line(process: subprocess.Popen[bytes]) -> str:
    stream: IO[bytes] | None = process.stderr
    lines = stream.read().decode("utf-8", "replace").splitlines() if stream else []
    return lines[-1].removeprefix("stoker: ") if lines else "it said nothing"


def _peak_mib(pid: int) -> float:
    """Most memory a process has had resident, 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _figures(starts: Sequence[Start]) -> dict[str, list[float]]:
    return {
        "Total startup time": [start.ready for start in starts],
        "Time to first token": [start.first_token for start in starts],
    }
