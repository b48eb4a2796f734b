"""What the engine itself costs per step: scheduling, building the batch, tokens into text.

    python benchmarks/engine_overhead.py

The runner computes nothing and the tokens are letters, so everything measured is Python: a step
that lasts 10 ms in the kernels should not find these microseconds worth mentioning.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.sampling_params import RequestOutputKind, SamplingParams
from stoker.model.loader import open_model
from stoker.model.store import resolve
from stoker.model.tokenizer import Tokenizer
from stoker.runner.base import Batch, CacheConfig, StepResult

MEASURED_STEPS = 300


class NullRunner:
    """Samples letters without looking at anything."""

    def __init__(self, model: Path, tokenizer: Tokenizer, num_blocks: int) -> None:
        self.spec = open_model(model).spec
        self.cache = CacheConfig(num_blocks)
        self._letters = np.array([tokenizer.encode(" " + c)[0] for c in "abcdefgh"], np.int32)
        self._rng = np.random.default_rng(0)

    def run(self, batch: Batch) -> StepResult:
        return StepResult(self._rng.choice(self._letters, len(batch.sample)))

    def close(self) -> None:
        """Nothing to free."""


def step_microseconds(
    runner: NullRunner,
    tokenizer: Tokenizer,
    running: int,
    *,
    waiting: int = 0,
    context: int = 200,
    **params: Any,
) -> float:
    """Median time of a step in which `running` sequences each get a token."""
    engine = Engine(
        runner,
        tokenizer,
        EngineConfig(max_num_seqs=running, max_num_batched_tokens=4096, max_waiting_requests=0),
    )
    given: dict[str, Any] = {"output_kind": RequestOutputKind.DELTA, "temperature": 0.7} | params
    sampling = SamplingParams(ignore_eos=True, max_tokens=MEASURED_STEPS + 100, **given)
    for i in range(running + waiting):
        engine.submit(str(i), [1000 + i] * context, sampling)
    while not all(s.num_generated for s in engine.scheduler.running[-1:]):
        engine.step()
    times = []
    for _ in range(MEASURED_STEPS):
        began = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e6


def main() -> None:
    path = resolve("smollm2")
    tokenizer = Tokenizer.load(path)
    runner = NullRunner(path, tokenizer, 40_000)
    final = {"output_kind": RequestOutputKind.FINAL_ONLY}
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("streamed", 1, {}),
        ("streamed", 8, {}),
        ("streamed", 32, {}),
        ("streamed", 128, {}),
        ("text at the end", 32, final),
        ("5000 more waiting", 32, {"waiting": 5000}),
        ("context of 4000", 32, {"context": 4000}),
        ("two stop strings", 32, {"stop": ["END", "\n\n"]}),
        ("repetition penalty", 32, {"repetition_penalty": 1.1}),
    ]
    table = Table("", "sequences", "µs per step", "µs per sequence", title="The engine's own time")
    for name, running, settings in cases:
        microseconds = step_microseconds(runner, tokenizer, running, **settings)
        table.add_row(name, str(running), f"{microseconds:.0f}", f"{microseconds / running:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
