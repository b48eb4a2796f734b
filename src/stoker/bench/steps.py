"""Where a step's time goes: to the kernels, part by part, or to Python."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from stoker.engine.engine import Engine
from stoker.model.spec import ModelSpec
from stoker.runner.base import Batch, CacheConfig, ModelRunner, StepResult
from stoker.runner.cpu import CPURunner


@dataclass(frozen=True, slots=True)
class StepSplit:
    """The time of some steps. Seconds."""

    steps: int
    tokens: int
    """Computed in them, of prompts and of answers."""
    total: float
    parts: Mapping[str, float]
    """The kernels' share, by kind of work."""

    @property
    def python(self) -> float:
        """Scheduling, building batches, the way into native code and back, text, stops."""
        return self.total - sum(self.parts.values())

    def lines(self) -> list[str]:
        """A line for the steps, and one for each part."""
        if not self.steps:
            return ["No step was made."]
        lines = [
            f"Steps: {self.steps}, {self.total / self.steps * 1e3:.3f} ms and "
            f"{self.tokens / self.steps:.1f} tokens each"
        ]
        for name, seconds in (*self.parts.items(), ("Python", self.python)):
            share = seconds / self.total * 100
            lines.append(f"  {name:<10}{seconds / self.steps * 1e6:>10.1f} µs  {share:5.1f} %")
        return lines

    def as_json(self) -> dict[str, object]:
        """The same, in seconds over all steps."""
        return {
            "num_steps": self.steps,
            "num_tokens": self.tokens,
            "total": self.total,
            "python": self.python,
            "kernels": dict(self.parts),
        }


class StepMeter:
    """Steps an engine and notes where the time goes. To be used in `measuring`."""

    def __init__(self, engine: Engine, runner: _MeasuredRunner) -> None:
        self._engine = engine
        self._runner = runner
        self._steps = 0
        self._total = 0.0

    def run_to_completion(self) -> float:
        """Step until nothing is left; the seconds that took."""
        began = time.perf_counter()
        while self._engine.has_unfinished:
            self._engine.step()
            self._steps += 1
        seconds = time.perf_counter() - began
        self._total += seconds
        return seconds

    def split(self) -> StepSplit:
        """The steps so far."""
        return StepSplit(self._steps, self._runner.tokens, self._total, dict(self._runner.parts))

    def reset(self) -> None:
        """Forget the steps so far: they were for warming up."""
        self._steps, self._total = 0, 0.0
        self._runner.tokens = 0
        self._runner.parts.clear()


@contextmanager
def measuring(engine: Engine) -> Iterator[StepMeter]:
    """Measure an engine's steps meanwhile, at some microseconds each."""
    original = engine.runner
    runner = _MeasuredRunner(original)
    if isinstance(original, CPURunner):
        original.measure = True
    engine.runner = runner
    try:
        yield StepMeter(engine, runner)
    finally:
        engine.runner = original
        if isinstance(original, CPURunner):
            original.measure = False


class _MeasuredRunner:
    """A runner that adds up the seconds that another names, or takes."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self.parts: Counter[str] = Counter()
        self.tokens = 0

    @property
    def spec(self) -> ModelSpec:
        return self._runner.spec

    @property
    def cache(self) -> CacheConfig:
        return self._runner.cache

    def run(self, batch: Batch) -> StepResult:
        began = time.perf_counter()
        result = self._runner.run(batch)
        # A runner that does not look into its steps counts as kernel as a whole.
        self.parts.update(result.timings or {"runner": time.perf_counter() - began})
        self.tokens += batch.num_tokens
        return result

    def close(self) -> None:
        self._runner.close()
