"""What Stoker should reach beside its peers, by model: judged in the tables of `peers_cpu.py`."""

from __future__ import annotations

from dataclasses import dataclass

from peers import HTTP, MEMORY

LLAMA, VLLM, CEILING, OFFLINE, SECONDS = "llama.cpp", "vllm", "ceiling", "offline", "seconds"
START = "start to first token, s"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure's ratio to something: at least so much, or (`START`, memory) at most."""

    label: str
    """The figure's, or how it begins."""
    beside: str
    wanted: float

    @property
    def at_most(self) -> bool:
        return self.beside == SECONDS or self.label == MEMORY

    def fits(self, label: str, beside: str) -> bool:
        named = label == self.label or label.startswith(f"{self.label} ")
        return named and beside == self.beside

    def is_met(self, value: float) -> bool:
        return value <= self.wanted if self.at_most else value >= self.wanted


TARGETS = {
    "smollm2": [
        Target("decode ×1", LLAMA, 2.5),
        Target("decode ×1", VLLM, 9),
        Target("decode ×1", CEILING, 0.75),
        Target("decode ×8", LLAMA, 3),
        Target("decode ×8", VLLM, 5),
        Target("decode ×32", LLAMA, 5),
        Target("decode ×32", VLLM, 4),
        Target("prefill 1000", LLAMA, 10),
        Target("prefill 1000", VLLM, 2.5),
        Target("prefill 1000", CEILING, 0.6),
        Target(HTTP, OFFLINE, 0.9),
        Target(MEMORY, LLAMA, 1.1),
        Target(START, SECONDS, 2),
    ],
    "llama-1b": [
        Target("decode ×1", LLAMA, 1.8),
        Target("decode ×1", VLLM, 3.8),
        Target("decode ×1", CEILING, 0.85),
        Target("decode ×8", LLAMA, 3.5),
        Target("decode ×8", VLLM, 3.5),
        Target("decode ×32", LLAMA, 6),
        Target("decode ×32", VLLM, 3.5),
        Target("prefill 1000", LLAMA, 11),
        Target("prefill 1000", VLLM, 2),
        Target("prefill 1000", CEILING, 0.65),
        Target(HTTP, OFFLINE, 0.95),
        Target(MEMORY, LLAMA, 1.1),
        Target(START, SECONDS, 4),
    ],
}
