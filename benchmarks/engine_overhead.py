"""What the engine itself costs per step: scheduling, building the batch, tokens into text.

    python benchmarks/engine_overhead.py

The runner computes nothing and the tokens are letters, so everything measured is Python: a step
that lasts 10 ms in the kernels should not find these microseconds worth mentioning. Between two
steps the runner reads as much memory as a small model's weights, as kernels would: Python then
finds nothing of its own in the processor's caches. The `warm` rows show what that costs.

Times are the thread's own, which other programs do not lengthen, and means of all steps.
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
from stoker.runner.base import Batch, CacheConfig, Int32Array, StepResult

MEASURED_STEPS = 100
WEIGHT_BYTES = 96 << 20
PARTS = ("schedule", "batch", "detokenize", "results")


class NullRunner:
    """Samples letters without looking at anything."""

    def __init__(self, model: Path, tokenizer: Tokenizer, num_blocks: int) -> None:
        self.spec = open_model(model).spec
        self.cache = CacheConfig(num_blocks)
        self._letters = np.array([tokenizer.encode(" " + c)[0] for c in "abcdefgh"], np.int32)
        self._rng = np.random.default_rng(0)
        self._weights = np.zeros(WEIGHT_BYTES // 8, np.int64)
        self._samples = 0
        self.reads_weights = True

    def run(self, batch: Batch) -> StepResult:
        self._samples = len(batch.sample)
        return self._compute()

    def run_next(self, block_tables: Int32Array | None) -> StepResult:
        return self._compute()

    def _compute(self) -> StepResult:
        if self.reads_weights:
            self._weights.max()
        return StepResult(self._rng.choice(self._letters, self._samples))

    def close(self) -> None:
        """Nothing to free."""


def step_microseconds(
    runner: NullRunner,
    tokenizer: Tokenizer,
    running: int,
    *,
    waiting: int = 0,
    context: int = 200,
    warm: bool = False,
    **params: Any,
) -> list[float]:
    """The time of each of `PARTS`, of a step in which `running` sequences each get a token."""
    runner.reads_weights = not warm
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
    timer = engine.timer
    timer.clock = time.thread_time
    timer.on = True
    for _ in range(MEASURED_STEPS):
        engine.step()
    return [timer.python[part] / timer.steps * 1e6 for part in PARTS]


def main() -> None:
    path = resolve("smollm2")
    tokenizer = Tokenizer.load(path)
    runner = NullRunner(path, tokenizer, 40_000)
    final = {"output_kind": RequestOutputKind.FINAL_ONLY}
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("streamed", 1, {}),
        ("streamed", 8, {}),
        ("streamed", 32, {}),
        ("streamed", 64, {}),
        ("streamed, warm", 1, {"warm": True}),
        ("streamed, warm", 32, {"warm": True}),
        ("text at the end", 32, final),
        ("5000 more waiting", 32, {"waiting": 5000}),
        ("context of 4000", 32, {"context": 4000}),
        ("two stop strings", 32, {"stop": ["END", "\n\n"]}),
        ("repetition penalty", 32, {"repetition_penalty": 1.1}),
    ]
    headings = ("", "sequences", *PARTS, "µs per step", "µs per sequence")
    table = Table(*headings, title="The engine's own time")
    for name, running, settings in cases:
        parts = step_microseconds(runner, tokenizer, running, **settings)
        whole = sum(parts)
        figures = (*(f"{part:.0f}" for part in parts), f"{whole:.0f}", f"{whole / running:.1f}")
        table.add_row(name, str(running), *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
