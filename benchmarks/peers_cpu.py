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
- generate, batch B: answer tokens per second of the whole call, prompts included.

llama.cpp is measured with its own `llama-batched-bench` (no HTTP, no sampling: its best case),
the best of the files given for each figure. docs/performance.md explains the targets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).resolve().parent
console = Console(stderr=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """One thing to measure."""

    kind: str  # "decode", "prefill" or "generate"
    batch: int
    prompt: int
    tokens: int

    @property
    def label(self) -> str:
        if self.kind == "prefill":
            return f"prefill {self.prompt}"
        return f"{self.kind} ×{self.batch}"


class Peer(Protocol):
    """An engine under test. `measure` returns tokens per second."""

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

    def measure(self, load: Load, seed: int) -> float:
        tokens = 1 if load.kind == "prefill" else load.tokens
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


def table(
    results: dict[str, dict[str, list[float]]], peers: list[Peer], title: str
) -> tuple[Table, dict[str, Any]]:
    """The medians, and Stoker's ratio to the best llama.cpp file and to vLLM."""
    medians = {
        label: {name: statistics.median(rates) for name, rates in row.items()}
        for label, row in results.items()
    }
    out = Table(title=title, title_justify="left")
    out.add_column("tokens/s (median)")
    for peer in peers:
        out.add_column(peer.name, justify="right")
    out.add_column("÷ best llama.cpp", justify="right")
    out.add_column("÷ vLLM", justify="right")
    ratios: dict[str, dict[str, float]] = {}
    for label, row in medians.items():
        ours = max((v for k, v in row.items() if k.startswith("stoker")), default=0.0)
        llama = max((v for k, v in row.items() if k.startswith("llama.cpp")), default=0.0)
        vllm = row.get("vllm bf16", 0.0)
        ratios[label] = {
            **({"llama.cpp": ours / llama} if llama else {}),
            **({"vllm": ours / vllm} if vllm else {}),
        }
        out.add_row(
            label,
            *(f"{row[peer.name]:,.0f}" for peer in peers),
            f"{ours / llama:.2f}×" if llama else "–",
            f"{ours / vllm:.2f}×" if vllm else "–",
        )
    for label, values, form in (
        ("start to first token, s", [p.start_s for p in peers], "{:.1f}"),
        ("peak memory, MiB", [p.rss_mib for p in peers], "{:,.0f}"),
    ):
        out.add_row(label, *(form.format(v) if v is not None else "–" for v in values), "", "")
    data = {
        "medians": medians,
        "samples": results,
        "ratios": ratios,
        "start_s": {p.name: p.start_s for p in peers},
        "peak_rss_mib": {p.name: p.rss_mib for p in peers},
    }
    return out, data


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{len(os.sched_getaffinity(0))} × {model}, {platform.system()} {platform.release()}"


def plot(results: dict[str, Any], path: Path) -> None:
    """Bars of the medians, one group per load."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    medians: dict[str, dict[str, float]] = results["medians"]
    names = list(next(iter(medians.values())))
    figure, axes = pyplot.subplots(1, len(medians), figsize=(2.2 * len(medians), 3.2))
    for axis, (label, row) in zip(axes, medians.items(), strict=True):
        colours = ["#d9480f" if n.startswith("stoker") else "#adb5bd" for n in names]
        axis.bar(range(len(names)), [row[n] for n in names], color=colours)
        axis.set_title(label, fontsize=9)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("tokens/s")
    figure.tight_layout()
    figure.savefig(path)


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
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens in batches")
    parser.add_argument("--tokens", type=int, default=64, help="answer tokens")
    parser.add_argument("--prefill", default="1000,4000")
    parser.add_argument("--generate", action="store_true", help="whole calls too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--plot", type=Path, help="draw the medians here (.svg or .png)")
    parser.add_argument("--logs", type=Path, default=Path("build/bench-logs"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)

    batches = [int(b) for b in arguments.batches.split(",")]
    loads = [Load("decode", b, arguments.prompt, arguments.tokens) for b in batches]
    loads += [Load("prefill", 1, int(p), 1) for p in arguments.prefill.split(",") if p]
    if arguments.generate:
        loads += [Load("generate", b, arguments.prompt, arguments.tokens) for b in batches]

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
        results = run(peers, loads, arguments.repeats)
        title = f"{Path(arguments.stoker).name} on {machine()}, median of {arguments.repeats}"
        rendered, data = table(results, peers, title)
        Console(width=140).print(rendered)
    finally:
        for peer in peers:
            peer.close()
    data["machine"] = machine()
    data["options"] = {k: str(v) for k, v in vars(arguments).items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(data, indent=1))
    if arguments.plot:
        plot(data, arguments.plot)


if __name__ == "__main__":
    main()
