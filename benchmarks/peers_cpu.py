"""Stoker beside llama.cpp and vLLM on this machine's CPU: one run, alternating, medians.

    python benchmarks/peers_cpu.py --stoker model.gguf \
        --llama-bin DIR --llama-gguf Q4_0=a.gguf --llama-gguf Q8_0=b.gguf \
        --vllm-python ENV/bin/python --vllm-model HF_DIR

Installs nothing: a peer that is not given is left out and the table says so. Every engine gets
the same numbers of prompt and answer tokens, greedy, without a prefix cache. While one engine
measures, the others are stopped (SIGSTOP), so that none disturbs another.

- decode, batch B: tokens per second after the first token, from the difference between a run
  that answers with N tokens and one that answers with a single token.
- prefill, P: prompt tokens per second of one request that answers with a single token.
- first token, P: milliseconds from a prompt of P tokens to the first token of the answer.
- generate, batch B: answer tokens per second of the whole call, prompts included.

llama.cpp is measured with its own `llama-batched-bench` (no HTTP, no sampling: its best case),
the best of the files given for each figure. Beside Stoker's figures stands their share of this
machine's ceilings, which are measured here too (`ceilings.py`): at batch 1 of reading memory as
large as the weights, in prefill of the best multiplying instruction on registers alone.

A long comparison can be made in parts: with `--json FILE --resume` the samples that FILE has are
kept and those of this run added, so `--sections decode --batches 64` and so on may follow each
other. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ceilings import measure
from peers_report import FIRST_TOKEN, Comparison, Share, plot, table
from rich.console import Console
from rich.progress import Progress
from step import computes_in_bf16, work_of

from stoker.model.loader import open_model
from stoker.model.store import resolve

HERE = Path(__file__).resolve().parent
SECTIONS = ("decode", "prefill", "first", "generate")
console = Console(stderr=True)


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
        return f"{self.kind} ×{self.batch}"


class Peer(Protocol):
    """An engine under test. `measure` returns tokens per second, or milliseconds to a token."""

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

    def __init__(self, name: str, binary: Path, model: Path, threads: int) -> None:
        self.name = name
        self.start_s: float | None = None
        self.rss_mib: float | None = None
        self._binary, self._model, self._threads = binary, model, threads
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


def run(peers: list[Peer], loads: list[Load], repeats: int) -> dict[str, dict[str, list[float]]]:
    """`{load label: {peer: [tokens per second of each repeat]}}`, peers alternating."""
    results: dict[str, dict[str, list[float]]] = {
        load.label: {peer.name: [] for peer in peers} for load in loads
    }
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=repeats * len(loads) * len(peers))
        for repeat in range(repeats):
            for load in loads:
                for peer in peers:
                    progress.update(task, description=f"{load.label}: {peer.name}")
                    rate = peer.measure(load, seed=1000 * repeat + 10 * load.batch)
                    results[load.label][peer.name].append(rate)
                    progress.advance(task)
    return results


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{len(os.sched_getaffinity(0))} × {model}, {platform.system()} {platform.release()}"


def shares(arguments: argparse.Namespace, threads: int) -> dict[str, Share]:
    """What of the ceilings a token per second of Stoker is, for each kind of load that has one.

    The ceiling's weights are in the format that Stoker computes them in, so only where one format
    is compared."""
    model = open_model(resolve(arguments.stoker))
    weight_format = (arguments.stoker_format or [None])[0]
    work = work_of(model, weight_format)
    nbytes = sum(part.bytes for part in work.values())
    found = measure(nbytes / 1e6, isa=arguments.isa or "", threads=threads)
    rate = found.int8_gmac_per_s
    if computes_in_bf16(model, weight_format):
        rate = found.bf16_gmac_per_s
    macs = sum(part.weights for name, part in work.items() if name != "logits")
    shared = {"decode ×1": Share("of reading memory", nbytes / 1e9 / found.read_gb_per_s)}
    if rate:
        shared["prefill"] = Share("of multiplying", macs / 1e9 / rate)
    return shared


def loads_of(arguments: argparse.Namespace) -> list[Load]:
    """What the sections asked for consist of."""
    sections = [s for s in arguments.sections.split(",") if s]
    unknown = set(sections) - set(SECTIONS)
    if unknown:
        raise SystemExit(f"--sections: no {', '.join(sorted(unknown))}; there are {SECTIONS}")
    loads = []
    for section in sections:
        if section == "prefill":
            loads += [Load(section, 1, int(p), 1) for p in arguments.prefill.split(",") if p]
        elif section == "first":
            loads.append(Load(section, 1, arguments.prompt, 1))
        else:
            loads += [
                Load(section, int(b), arguments.prompt, arguments.tokens)
                for b in arguments.batches.split(",")
            ]
    return loads


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stoker", required=True, help="model for Stoker: a name or a path")
    parser.add_argument(
        "--stoker-format", action="append", default=[], help="weight format(s): q4, q8, bf16"
    )
    parser.add_argument("--isa", help="force Stoker's instruction set")
    parser.add_argument("--llama-bin", type=Path, help="directory of llama.cpp's programs")
    parser.add_argument(
        "--llama-gguf", action="append", default=[], metavar="NAME=FILE", help="may be repeated"
    )
    parser.add_argument("--vllm-python", help="interpreter of vLLM's environment")
    parser.add_argument("--vllm-model", help="model directory for vLLM")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens in batches")
    parser.add_argument("--tokens", type=int, default=64, help="answer tokens")
    parser.add_argument("--prefill", default="1000,4000")
    parser.add_argument(
        "--sections", default="decode,prefill,first", help=f"some of {', '.join(SECTIONS)}"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--resume", action="store_true", help="add to the samples of --json")
    parser.add_argument("--plot", type=Path, help="draw the medians here (.svg or .png)")
    parser.add_argument("--logs", type=Path, default=Path("build/bench-logs"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)

    loads = loads_of(arguments)
    comparison = Comparison(machine=machine())
    if arguments.resume:
        if not arguments.json:
            parser.error("--resume needs --json")
        if arguments.json.exists():
            comparison = Comparison.load(arguments.json)
    if len(arguments.stoker_format) < 2:
        comparison.shares |= shares(arguments, arguments.threads)

    peers: list[Peer] = []
    try:
        for weight_format in arguments.stoker_format or [""]:
            options = ["--engine", "stoker", "--model", arguments.stoker]
            options += ["--weight-format", weight_format] if weight_format else []
            options += ["--isa", arguments.isa] if arguments.isa else []
            name = f"stoker {weight_format}".strip()
            peers.append(Worker(name, sys.executable, options, arguments.logs / f"{name}.log"))
        if arguments.llama_bin and arguments.llama_gguf:
            binary = arguments.llama_bin / "llama-batched-bench"
            for entry in arguments.llama_gguf:
                name, _, file = entry.partition("=")
                peers.append(LlamaCpp(f"llama.cpp {name}", binary, Path(file), arguments.threads))
        else:
            console.print("llama.cpp is left out: give --llama-bin and --llama-gguf")
        if arguments.vllm_python and arguments.vllm_model:
            console.print("starting vLLM (a minute or more) …")
            options = ["--engine", "vllm", "--model", arguments.vllm_model]
            peers.append(
                Worker("vllm bf16", arguments.vllm_python, options, arguments.logs / "vllm.log")
            )
        else:
            console.print("vLLM is left out: give --vllm-python and --vllm-model")
        for label, row in run(peers, loads, arguments.repeats).items():
            for name, samples in row.items():
                comparison.add(label, name, samples)
    finally:
        for peer in peers:
            peer.close()
    for peer in peers:
        comparison.note(peer.name, peer.start_s, peer.rss_mib)
    title = f"{Path(arguments.stoker).name} on {comparison.machine}, medians"
    Console(width=150).print(table(comparison, title))
    if arguments.json:
        comparison.save(arguments.json, {k: str(v) for k, v in vars(arguments).items()})
    if arguments.plot:
        plot(comparison, arguments.plot)


if __name__ == "__main__":
    main()
