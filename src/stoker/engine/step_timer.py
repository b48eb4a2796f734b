"""Where the time of steps goes: to the runner, part by part, and to what is around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from time import perf_counter


class StepTimer:
    """Adds up the seconds of steps while it is `on`, at some microseconds a step.

    Whoever works on a step calls `lap` at the end of a part, which has the time since the last.
    """

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self.on = False
        self.clock = clock
        self._last = 0.0
        self.reset()

    def reset(self) -> None:
        """Forget the steps so far."""
        self.steps = 0
        self.tokens = 0
        """Computed, of prompts and of answers."""
        self.kernels: defaultdict[str, float] = defaultdict(float)
        """By kind of work, as the runner names it."""
        self.python: defaultdict[str, float] = defaultdict(float)
        """By part of the step."""

    def begin(self) -> None:
        """A step begins."""
        self._last = self.clock()

    def lap(self, part: str) -> None:
        """A part of the step that is not the runner's ends."""
        now = self.clock()
        self.python[part] += now - self._last
        self._last = now

    def lap_runner(self, timings: Mapping[str, float], num_tokens: int) -> None:
        """The runner ends. What it does not account for is the way there and back (`call`); a
        runner without `timings` is a kernel as a whole."""
        now = self.clock()
        taken = now - self._last
        for part, seconds in (timings or {"runner": taken}).items():
            self.kernels[part] += seconds
        if timings:
            self.python["call"] += taken - sum(timings.values())
        self.steps += 1
        self.tokens += num_tokens
        self._last = now
