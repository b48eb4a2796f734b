"""Stoker beside llama.cpp and vLLM on this machine's CPU: one run, alternating, medians.

    python benchmarks/peers_cpu.py --stoker model.gguf \
        --llama-bin DIR --llama-gguf Q4_0=a.gguf --llama-gguf Q8_0=b.gguf \
        --vllm-python ENV/bin/python --vllm-model HF_DIR

Installs nothing: a peer that is not given is left out and the table says so. Every engine gets
the same numbers of prompt and answer tokens, greedy, without a prefix cache. While one engine
measures, the others are stopped (SIGSTOP), so that none disturbs another.

- memory, batch B: the most MiB resident when B prompts have been answered, by a fresh process.
- decode, batch B: tokens per second after the first token, from the difference between a run
  that answers with N tokens and one that answers with a single token.
- prefill, P: prompt tokens per second of one request that answers with a single token.
- first token, P: milliseconds from a prompt of P tokens to the first token of the answer.
- generate, batch B: answer tokens per second of the whole call, prompts included.
- http, batch B: the same through `stoker serve`, every token an event of its own, in turn with
  the same call offline; `http_streams.py` tells more of it.

llama.cpp is measured with its own `llama-batched-bench` (no HTTP, no sampling: its best case),
the best of the files given for each figure. A file that comes out more than a tenth behind
the best in the first repeat is not measured again for that figure. Beside Stoker's figures stands
their share of this machine's ceilings, which are measured here too (`ceilings.py`): in prefill of
the best multiplying instruction on registers alone, at batch 1 of reading memory as large as the
weights. What memory gives moves within minutes, so it is read right before and after each of these
runs, and the share is the median of the repeats' own.

A long comparison can be made in parts: with `--json FILE --resume` the samples that FILE has are
kept and those of this run added, so `--sections decode --batches 64` and so on may follow each
other. docs/performance.md explains the figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from pathlib import Path

from ceilings import measure
from http_streams import LIKE_OFFLINE, StreamingServer
from peers import HTTP, OFFLINE, SECTIONS, LlamaCpp, Load, Peer, Worker, less_is_better
from peers_plot import plot
from peers_report import Comparison, Share, markdown, table
from peers_targets import TARGETS
from rich.console import Console
from rich.progress import Progress
from step import computes_in_bf16, work_of

from stoker.model.loader import open_model
from stoker.model.store import resolve

console = Console(stderr=True)


class Reading:
    """Memory as large as Stoker's weights, read around each run that is bound by it."""

    def __init__(self, nbytes: int, isa: str, threads: int) -> None:
        self._nbytes, self._isa, self._threads = nbytes, isa, threads
        self.shares: dict[str, list[float]] = {}

    def measure(self, peer: Peer, load: Load, seed: int) -> float:
        """The peer's tokens per second; notes what share of reading they were."""
        before = self._gb_per_s()
        figure = peer.measure(load, seed)
        ceiling = (before + self._gb_per_s()) / 2
        self.shares.setdefault(load.label, []).append(figure * self._nbytes / 1e9 / ceiling)
        return figure

    def _gb_per_s(self) -> float:
        found = measure(self._nbytes / 1e6, isa=self._isa, threads=self._threads, repeats=5)
        return found.read_gb_per_s


def run(
    peers: list[Peer], loads: list[Load], repeats: int, reading: Reading | None = None
) -> dict[str, dict[str, list[float]]]:
    """`{load label: {peer: [a figure of each repeat]}}`, peers alternating."""
    results: dict[str, dict[str, list[float]]] = {
        load.label: {peer.name: [] for peer in peers} for load in loads
    }
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=repeats * len(loads) * len(peers))
        for repeat in range(repeats):
            for load in loads:
                figures = results[load.label]
                for peer in peers:
                    progress.update(task, description=f"{load.label}: {peer.name}")
                    if not _is_settled(load, peer.name, figures, repeat):
                        seed = 1000 * repeat + 10 * load.batch
                        streams = load.kind == "decode" and load.batch == 1
                        if reading and streams and peer.name.startswith("stoker"):
                            figure = reading.measure(peer, load, seed)
                        else:
                            figure = peer.measure(load, seed)
                        figures[peer.name].append(figure)
                    progress.advance(task)
    return results


def _is_settled(load: Load, name: str, figures: dict[str, list[float]], repeat: int) -> bool:
    """Whether another sample would tell nothing."""
    if load.kind == "memory":
        return repeat > 0  # a process's peak stays
    if repeat == 0 or not name.startswith("llama.cpp"):
        return False
    first = figures[name][0]
    files = [samples[0] for n, samples in figures.items() if n.startswith("llama.cpp")]
    if less_is_better(load.label):
        return first > 1.1 * min(files)
    return first < 0.9 * max(files)


def machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{len(os.sched_getaffinity(0))} × {model}, {platform.system()} {platform.release()}"


def ceilings(arguments: argparse.Namespace) -> tuple[dict[str, Share], Reading]:
    """What of multiplying a token per second of Stoker's prefill is, and how to judge its decode.

    The ceilings' weights are in the format that Stoker computes them in, so only where one format
    is compared."""
    model = open_model(resolve(arguments.stoker))
    weight_format = (arguments.stoker_format or [None])[0]
    work = work_of(model, weight_format)
    isa = arguments.isa or ""
    reading = Reading(sum(part.bytes for part in work.values()), isa, arguments.threads)
    found = measure(1, isa=isa, threads=arguments.threads)
    rate = found.int8_gmac_per_s
    if computes_in_bf16(model, weight_format):
        rate = found.bf16_gmac_per_s
    macs = sum(part.weights for name, part in work.items() if name != "logits")
    return {"prefill": Share("of multiplying", macs / 1e9 / rate)} if rate else {}, reading


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
        elif section == "memory":
            loads.insert(0, Load(section, 8, arguments.prompt, arguments.tokens))
        elif section == "decode" or section == "generate":
            loads += [
                Load(section, int(b), arguments.prompt, arguments.tokens)
                for b in arguments.batches.split(",")
            ]
    return loads


def through_http(arguments: argparse.Namespace, offline: Peer, comparison: Comparison) -> None:
    """The `http` section: the server and the engine in turn, with the same prompts."""
    options = [*LIKE_OFFLINE]
    if arguments.stoker_format:
        options += ["--weight-format", arguments.stoker_format[0]]
    if arguments.isa:
        options += ["--isa", arguments.isa]
    load = Load("generate", arguments.streams, arguments.prompt, arguments.tokens)
    server = StreamingServer(arguments.stoker, options, arguments.logs / "serve.log")
    try:
        server.measure(2, 200, 8, 0)
        for repeat in range(arguments.repeats):
            comparison.add(OFFLINE, offline.name, [offline.measure(load, seed=7000 + repeat)])
            streams = server.measure(load.batch, load.prompt, load.tokens, seed=7000 + repeat)
            comparison.add(HTTP, offline.name, [streams.rate])
    finally:
        server.close()


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
    parser.add_argument(
        "--llama-flash-attention", default="auto", choices=["auto", "on", "off"], help="its -fa"
    )
    parser.add_argument("--vllm-python", help="interpreter of vLLM's environment")
    parser.add_argument("--vllm-model", help="model directory for vLLM")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--prompt", type=int, default=128, help="prompt tokens in batches")
    parser.add_argument("--tokens", type=int, default=64, help="answer tokens")
    parser.add_argument("--prefill", default="1000,4000")
    parser.add_argument("--streams", type=int, default=32, help="of the http section")
    parser.add_argument(
        "--sections",
        default="memory,decode,prefill,first,http",
        help=f"some of {', '.join(SECTIONS)}",
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="write every sample here")
    parser.add_argument("--resume", action="store_true", help="add to the samples of --json")
    parser.add_argument("--targets", choices=sorted(TARGETS), help="judge the figures by these")
    parser.add_argument("--markdown", type=Path, help="write the table here, for a README")
    parser.add_argument("--plot", type=Path, help="draw the medians here (.svg or .png)")
    parser.add_argument("--title", help="of table and plot; default: the model and the machine")
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
    reading = None
    if len(arguments.stoker_format) < 2:
        shares, reading = ceilings(arguments)
        comparison.shares = comparison.shares or shares

    peers = start(arguments)
    try:
        for label, row in run(peers, loads, arguments.repeats, reading).items():
            for name, samples in row.items():
                comparison.add(label, name, samples)
        for label, samples in (reading.shares if reading else {}).items():
            comparison.paired_shares.setdefault(label, []).extend(samples)
        if "http" in arguments.sections.split(","):
            through_http(arguments, peers[0], comparison)
    finally:
        for peer in peers:
            peer.close()
    for peer in peers:
        comparison.note(peer.name, peer.start_s, peer.rss_mib)
    if arguments.json:
        comparison.save(arguments.json, {k: str(v) for k, v in vars(arguments).items()})
    show(comparison, arguments)


def start(arguments: argparse.Namespace) -> list[Peer]:
    """The engines that were given, Stoker first, each ready and stopped."""
    peers: list[Peer] = []
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
            name = f"llama.cpp {name}"
            options = ["-fa", arguments.llama_flash_attention]
            peers.append(LlamaCpp(name, binary, Path(file), arguments.threads, options))
    else:
        console.print("llama.cpp is left out: give --llama-bin and --llama-gguf")
    if arguments.vllm_python and arguments.vllm_model:
        console.print("starting vLLM (a minute or more) …")
        options = ["--engine", "vllm", "--model", arguments.vllm_model]
        log = arguments.logs / "vllm.log"
        peers.append(Worker("vllm bf16", arguments.vllm_python, options, log))
    else:
        console.print("vLLM is left out: give --vllm-python and --vllm-model")
    return peers


def show(comparison: Comparison, arguments: argparse.Namespace) -> None:
    """The table here, and where else it was asked for."""
    title = arguments.title or f"{Path(arguments.stoker).name}, {comparison.machine}"
    targets = TARGETS[arguments.targets] if arguments.targets else []
    Console(width=150).print(table(comparison, f"{title}: medians"))
    if arguments.markdown:
        arguments.markdown.write_text(markdown(comparison, targets))
    if arguments.plot:
        plot(comparison, arguments.plot, title)


if __name__ == "__main__":
    main()
