"""Where a step's time goes: to the kernels, part by part, or to Python."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from stoker.engine.engine import Engine
from stoker.engine.step_timer import StepTimer
from stoker.runner.cpu import CPURunner

_PYTHON = ("schedule", "batch", "call", "detokenize", "results")
"""The parts around the kernels, in the order of a step; what is left over is `other`."""


@dataclass(frozen=True, slots=True)
class StepSplit:
    """The time of some steps. Seconds."""

    steps: int
    tokens: int
    """Computed in them, of prompts and of answers."""
    total: float
    kernels: Mapping[str, float]
    """The kernels' share, by kind of work."""
    around: Mapping[str, float]
    """What is not the kernels': choosing sequences (`schedule`), building the `batch`, the way
    into native code and back (`call`), tokens to text (`detokenize`), stops, outputs and metrics
    (`results`)."""

    @property
    def python(self) -> float:
        """All that is not the kernels'."""
        return self.total - sum(self.kernels.values())

    def lines(self) -> list[str]:
        """A line for the steps, and one for each part."""
        if not self.steps:
            return ["No step was made."]
        lines = [
            f"Steps: {self.steps}, {self.total / self.steps * 1e3:.3f} ms and "
            f"{self.tokens / self.steps:.1f} tokens each"
        ]
        for title, whole, parts in (
            ("Kernels", sum(self.kernels.values()), self.kernels),
            ("Python", self.python, self._python_parts()),
        ):
            lines.append(self._line(title, whole))
            lines += [self._line(f"  {name}", seconds) for name, seconds in parts.items()]
        return lines

    def as_json(self) -> dict[str, object]:
        """The same, in seconds over all steps."""
        return {
            "num_steps": self.steps,
            "num_tokens": self.tokens,
            "total": self.total,
            "python": self.python,
            "python_parts": self._python_parts(),
            "kernels": dict(self.kernels),
        }

    def _python_parts(self) -> dict[str, float]:
        parts = {name: self.around.get(name, 0.0) for name in _PYTHON}
        return parts | {"other": self.python - sum(parts.values())}

    def _line(self, name: str, seconds: float) -> str:
        share = seconds / self.total * 100
        return f"  {name:<12}{seconds / self.steps * 1e6:>10.1f} µs  {share:5.1f} %"


class StepMeter:
    """Steps an engine and notes where the time goes. To be used in `measuring`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._timer: StepTimer = engine.timer
        self._total = 0.0

    def run_to_completion(self) -> float:
        """Step until nothing is left; the seconds that took."""
        began = time.perf_counter()
        while self._engine.has_unfinished:
            self._engine.step()
        seconds = time.perf_counter() - began
        self._total += seconds
        return seconds

    def split(self) -> StepSplit:
        """The steps so far."""
        timer = self._timer
        return StepSplit(
            timer.steps, timer.tokens, self._total, dict(timer.kernels), dict(timer.python)
        )

    def reset(self) -> None:
        """Forget the steps so far: they were for warming up."""
        self._total = 0.0
        self._timer.reset()


@contextmanager
def measuring(engine: Engine) -> Iterator[StepMeter]:
    """Measure an engine's steps meanwhile, at some microseconds each."""
    runner = engine.runner
    if isinstance(runner, CPURunner):
        runner.measure = True
    engine.timer.reset()
    engine.timer.on = True
    try:
        yield StepMeter(engine)
    finally:
        engine.timer.on = False
        if isinstance(runner, CPURunner):
            runner.measure = False
