"""The engines that `peers_cpu.py` compares, each driven by the same `Load`s."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).resolve().parent
SECTIONS = ("memory", "decode", "prefill", "first", "generate", "http")
FIRST_TOKEN = "first token of"
MEMORY = "memory"
"""How a figure begins of which less is better; all others are tokens per second."""
HTTP = "through HTTP"
OFFLINE = "offline, same prompts"


def less_is_better(label: str) -> bool:
    return label.startswith((FIRST_TOKEN, MEMORY))


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure."""

    kind: str  # one of SECTIONS
    batch: int
    prompt: int
    tokens: int

    @property
    def label(self) -> str:
        if self.kind == "prefill":
            return f"prefill {self.prompt}"
        if self.kind == "first":
            return f"{FIRST_TOKEN} {self.prompt}, ms"
        if self.kind == "memory":
            return f"{MEMORY} ×{self.batch}, MiB"
        return f"{self.kind} ×{self.batch}"


class Peer(Protocol):
    """An engine under test. `measure` returns tokens per second, milliseconds to a token, or the
    most MiB that were resident so far."""

    name: str
    start_s: float | None
    rss_mib: float | None

    def measure(self, load: Load, seed: int) -> float: ...

    def close(self) -> None: ...


class Worker:
    """Stoker or vLLM in a process of its own, driven through `workers/llm_worker.py`."""

    def __init__(self, name: str, python: str, arguments: list[str], log: Path) -> None:
        self.name = name
        self.rss_mib: float | None = None
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [python, str(HERE / "workers" / "llm_worker.py"), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "WORKER_SPAWNED": repr(time.time())},
        )
        reply = self._read()
        self.start_s: float | None = reply["first_token_s"]
        self._process.send_signal(signal.SIGSTOP)

    def measure(self, load: Load, seed: int) -> float:
        with self._awake():
            if load.kind == "memory":
                self._ask(load.batch, load.prompt, load.tokens, seed)
                return self.rss_mib or 0.0
            if load.kind == "generate":
                seconds = self._ask(load.batch, load.prompt, load.tokens, seed)
                return load.batch * load.tokens / seconds
            one = self._ask(load.batch, load.prompt, 1, seed)
            if load.kind == "prefill":
                return load.prompt / one
            if load.kind == "first":
                return 1e3 * one
            whole = self._ask(load.batch, load.prompt, load.tokens, seed + 1)
            return load.batch * (load.tokens - 1) / (whole - one)

    def close(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def _ask(self, batch: int, prompt: int, tokens: int, seed: int) -> float:
        assert self._process.stdin is not None
        request = {"batch": batch, "prompt": prompt, "tokens": tokens, "seed": seed}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        self.rss_mib = reply["peak_rss_mib"]
        return float(reply["seconds"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended; its log is {self._log.name}")
        return dict(json.loads(line))


class LlamaCpp:
    """llama.cpp's own batched benchmark on one file; a process per measurement."""

    def __init__(
        self, name: str, binary: Path, model: Path, threads: int, options: list[str]
    ) -> None:
        self.name = name
        self.start_s: float | None = None
        self.rss_mib: float | None = None
        self._binary, self._model, self._threads = binary, model, threads
        self._options = options
        began = time.monotonic()
        self.measure(Load("first", 1, 5, 1), 0)
        self.start_s = time.monotonic() - began

    def measure(self, load: Load, seed: int) -> float:
        tokens = 1 if load.kind in ("prefill", "first") else load.tokens
        context = load.batch * (load.prompt + tokens) + 256
        command = [
            str(self._binary), "-m", str(self._model), "-c", str(context), "-b", "2048",
            "-ub", "512", "-npp", str(load.prompt), "-ntg", str(tokens), "-npl", str(load.batch),
            "-t", str(self._threads), "-tb", str(self._threads), "--output-format", "jsonl",
            *self._options,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}")
        self.rss_mib = max(self.rss_mib or 0.0, usage.ru_maxrss / 1024)
        if load.kind == "memory":
            return usage.ru_maxrss / 1024
        row = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
        if load.kind == "prefill":
            return float(row["speed_pp"])
        if load.kind == "first":
            return 1e3 * float(row["t_pp"])
        if load.kind == "decode":
            return float(row["speed_tg"])
        return load.batch * tokens / (float(row["t_pp"]) + float(row["t_tg"]))

    def close(self) -> None:
        """Nothing outlives a measurement."""
