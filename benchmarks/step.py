"""How a step spends its time, and how near its parts come to what the machine could do at best.

    python benchmarks/step.py                        # the default model
    python benchmarks/step.py --model other.gguf --decode 1 --decode 32 --prefill 512

A step is what an engine asks of the runner: a token for each of so many sequences, or one chunk of
a prompt. The fastest of many is shown, since other programs only ever slow a step down: its parts
as its first thread sees them. Where another program takes a processor, threads wait for each other
and the parts say little; `--threads 1` is steadier.
Beside a matrix product stand the weights that it reads and its multiply-adds per second, each with
its share of the ceilings, which are measured here too: reading memory of the weights' size, and the
best multiplying instruction on registers alone.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ceilings import Ceilings, measure
from rich.console import Console
from rich.table import Table

from stoker import _kernels
from stoker.model.loader import LoadedModel, open_model
from stoker.model.store import resolve
from stoker.model.tokenizer import Tokenizer
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import Batch, CacheConfig, SampleRows
from stoker.runner.cpu import CPURunner, WeightFormat, default_threads

ROOT = Path(__file__).parents[1]
MATRICES = {"qkv": ("q", "k", "v"), "output": ("o",), "gate_up": ("gate", "up"), "down": ("down",)}


@dataclass(frozen=True, slots=True)
class Work:
    """What the products of one part multiply, over all layers."""

    weights: int
    """Elements, which is the multiply-adds of a row."""
    bytes: int
    """Packed."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is measured: `tokens` for each of `sequences`, after `context` cached tokens."""

    sequences: int
    tokens: int
    context: int

    @property
    def name(self) -> str:
        if self.tokens > 1:
            return f"prefill, {self.tokens} tokens after {self.context}"
        return f"decode, {self.sequences} × 1 token after {self.context}"


def work_of(model: LoadedModel, weight_format: WeightFormat | None) -> dict[str, Work]:
    """The products of each part; rows are multiplied with all of them, but for the logits."""
    shapes = weight_shapes(model.spec)
    head = "lm_head.weight" if "lm_head.weight" in shapes else "embed.weight"
    parts = {"logits": [head]}
    for part, matrices in MATRICES.items():
        parts[part] = [n for n in shapes if n.split(".")[-2] in matrices and n.endswith("weight")]
    result = {}
    for part, names in parts.items():
        nbytes = 0
        for name in names:
            rows, cols = shapes[name]
            nbytes += _kernels.packed_size(model.weights[name].type, rows, cols, weight_format)[0]
        result[part] = Work(sum(math.prod(shapes[n]) for n in names), nbytes)
    return result


def computes_in_bf16(model: LoadedModel, weight_format: WeightFormat | None) -> bool:
    """Whether most products are of bfloat16: of mixed files the layers' matrices decide."""
    if weight_format is not None:
        return weight_format == "bf16"
    return model.weights["layers.0.up.weight"].type in ("F32", "F16", "BF16")


def text_ids(model: LoadedModel, path: Path, count: int) -> list[int]:
    """Tokens of real text, whose activations have the outliers that random tokens may lack."""
    text = "".join(p.read_text() for p in sorted(ROOT.glob("**/*.md")) if ".venv" not in p.parts)
    ids = Tokenizer.load(path).encode(text)
    return [i % model.spec.vocab_size for i in (ids * (count // len(ids) + 1))[:count]]


def batch_of(step: Step, ids: list[int], *, filling: bool) -> Batch:
    """The step's batch, or with `filling` the one that makes its context."""
    tokens, start = (step.context, 0) if filling else (step.tokens, step.context)
    blocks = -(-(step.context + step.tokens) // 16)
    n = step.sequences
    chunk = [i for s in range(n) for i in ids[97 * s + start : 97 * s + start + tokens]]
    last = np.arange(1, n + 1, dtype=np.int32) * tokens - 1
    return Batch(
        token_ids=np.array(chunk, np.int32),
        query_starts=np.arange(n + 1, dtype=np.int32) * tokens,
        context_lens=np.full(n, start, np.int32),
        block_tables=np.arange(n * blocks, dtype=np.int32).reshape(n, blocks),
        sample=SampleRows(
            rows=last,
            temperature=np.zeros(n, np.float32),
            top_k=np.zeros(n, np.int32),
            top_p=np.ones(n, np.float32),
            min_p=np.zeros(n, np.float32),
            seeds=np.zeros(n, np.uint64),
            steps=np.zeros(n, np.int32),
            num_logprobs=np.full(n, -1, np.int32),
        ),
    )


def fastest(runner: CPURunner, step: Step, ids: list[int], repeats: int) -> Mapping[str, float]:
    """Seconds of each part in the fastest step, on its first thread."""
    runner.measure = False
    if step.context:
        runner.run(batch_of(step, ids, filling=True))
    runner.measure = True
    batch = batch_of(step, ids, filling=False)
    steps = [runner.run(batch).timings for _ in range(repeats)]
    return min(steps, key=lambda parts: sum(parts.values()))


def report(
    step: Step,
    parts: Mapping[str, float],
    work: dict[str, Work],
    ceilings: Ceilings,
    peak: float,
) -> Table:
    whole = sum(parts.values())
    rows = step.sequences * step.tokens
    table = Table(
        *("part", "ms", "share", "GB/s", "of reading", "GMAC/s", "of peak"),
        title=f"{step.name}: {1e3 * whole:.2f} ms, {rows / whole:,.0f} tokens/s",
        title_justify="left",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    products = [
        (work[part], step.sequences if part == "logits" else rows, parts[part]) for part in work
    ]
    totals = {
        "all products": (
            sum(w.bytes for w, _, _ in products),
            sum(w.weights * m for w, m, _ in products),
            sum(seconds for _, _, seconds in products),
        ),
        "all": (
            sum(w.bytes for w, _, _ in products),
            sum(w.weights * m for w, m, _ in products),
            whole,
        ),
    }
    for part, seconds in parts.items():
        if part in work:
            macs = work[part].weights * (step.sequences if part == "logits" else rows)
            rates = rates_of(work[part].bytes, macs, seconds, ceilings, peak)
        else:
            rates = ()
        table.add_row(part, f"{1e3 * seconds:.3f}", f"{seconds / whole:.1%}", *rates)
    table.add_section()
    for name, (nbytes, macs, seconds) in totals.items():
        rates = rates_of(nbytes, macs, seconds, ceilings, peak)
        table.add_row(name, f"{1e3 * seconds:.3f}", f"{seconds / whole:.1%}", *rates)
    return table


def rates_of(
    nbytes: int, macs: int, seconds: float, ceilings: Ceilings, peak: float
) -> tuple[str, ...]:
    read, rate = nbytes / seconds / 1e9, macs / seconds / 1e9
    return (
        f"{read:.1f}",
        f"{read / ceilings.read_gb_per_s:.0%}",
        f"{rate:.1f}",
        f"{rate / peak:.0%}" if peak else "–",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--weight-format", choices=["q4", "q8", "bf16"])
    parser.add_argument("--kv-cache-dtype", choices=["bfloat16", "float32", "int8"])
    parser.add_argument("--isa", default=_kernels.available_isas()[-1])
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--decode", type=int, action="append", help="sequences; repeatable")
    parser.add_argument("--prefill", type=int, action="append", help="tokens; repeatable")
    parser.add_argument("--context", type=int, default=128, help="cached tokens before a decode")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, help="also write the seconds of each part here")
    options = parser.parse_args()
    asked = options.decode or options.prefill
    decodes = options.decode or ([] if asked else [1, 8, 32, 64])
    prefills = options.prefill or ([] if asked else [512])
    steps = [Step(n, 1, options.context) for n in decodes] + [Step(1, n, 0) for n in prefills]

    path = resolve(options.model)
    model = open_model(path)
    tokens = max(s.sequences * max(s.context, s.tokens) for s in steps)
    blocks = max(s.sequences * -(-(s.context + s.tokens) // 16) for s in steps)
    runner = CPURunner(
        model.spec,
        model.weights,
        CacheConfig(blocks, dtype=options.kv_cache_dtype or "bfloat16"),
        max_num_batched_tokens=tokens,
        max_num_seqs=max(s.sequences for s in steps),
        threads=options.threads,
        isa=options.isa,
        weight_format=options.weight_format,
    )
    work = work_of(model, options.weight_format)
    megabytes = sum(w.bytes for w in work.values()) / 1e6
    ceilings = measure(megabytes, isa=options.isa, threads=options.threads)
    bf16 = computes_in_bf16(model, options.weight_format)
    peak = ceilings.bf16_gmac_per_s if bf16 else ceilings.int8_gmac_per_s
    console = Console(width=100)
    console.print(
        f"{path.name}: {megabytes:.0f} MB of weights, {options.isa}, {options.threads} threads; "
        f"reading {ceilings.read_gb_per_s:.1f} GB/s, multiplying {peak:.0f} GMAC/s at best"
    )
    longest = max(s.sequences * 97 + s.context + s.tokens for s in steps)
    ids = text_ids(model, path, longest)
    results = {}
    for step in steps:
        parts = fastest(runner, step, ids, options.repeats)
        console.print(report(step, parts, work, ceilings, peak))
        results[step.name] = parts
    runner.close()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
