"""What an engine says of its own load, read from its Prometheus metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# Each measure under the names that engines give it: ours and vLLM's, then llama.cpp's.
_RUNNING = ("vllm:num_requests_running", "llamacpp:requests_processing")
_WAITING = ("vllm:num_requests_waiting", "llamacpp:requests_deferred")
_KV_USAGE = (
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "llamacpp:kv_cache_usage_ratio",
)
# Settings of the cache that tell its size: ours and vLLM's, and that of vLLM on a CPU.
_KV_BYTES = ("kv_cache_memory_bytes", "cpu_kvcache_space_bytes")
_MEMORY = re.compile(r"^process_resident_memory_bytes(?:\{[^}]*\})? ([0-9.e+]+)$", re.MULTILINE)


@dataclass(frozen=True)
class EngineLoad:
    """A reading of an engine's gauges. `at` is the reader's clock, in seconds."""

    at: float
    running: int
    waiting: int
    kv_usage: float | None
    """Share of the KV cache in use, 0 to 1; None when the engine does not say."""
    num_blocks: int | None = None
    block_size: int | None = None
    """The KV cache's blocks, and the tokens in each, if the engine says."""
    kv_bytes: int | None = None
    """The memory of the KV cache,"""
    memory_bytes: int | None = None
    """and of the engine's process, if it says."""

    @property
    def cache_tokens(self) -> int | None:
        """How many tokens the KV cache has room for, if the engine says."""
        if self.num_blocks is None or self.block_size is None:
            return None
        return self.num_blocks * self.block_size


def parse_load(text: str, now: float) -> EngineLoad | None:
    """Read a `/metrics` page; None when it holds none of the gauges that tell load."""
    gauges = _gauges(text)
    running, waiting = _first(gauges, _RUNNING), _first(gauges, _WAITING)
    if running is None and waiting is None:
        return None
    kv_usage = _first(gauges, _KV_USAGE)
    return EngineLoad(
        at=now,
        running=int(running or 0),
        waiting=int(waiting or 0),
        kv_usage=None if kv_usage is None else min(max(kv_usage, 0.0), 1.0),
        num_blocks=_cache_setting(text, "num_gpu_blocks"),
        block_size=_cache_setting(text, "block_size"),
        kv_bytes=next(filter(None, (_cache_setting(text, name) for name in _KV_BYTES)), None),
        memory_bytes=None if not (found := _MEMORY.search(text)) else int(float(found[1])),
    )


def _cache_setting(text: str, name: str) -> int | None:
    """A whole number among the labels of `vllm:cache_config_info`."""
    found = re.search(rf'^vllm:cache_config_info{{.*\b{name}="(\d+)"', text, re.MULTILINE)
    return int(found[1]) if found else None


def _first(gauges: Mapping[str, list[float]], names: tuple[str, ...]) -> float | None:
    for name in names:
        if name in gauges:
            values = gauges[name]
            # Requests add up over an engine's data-parallel ranks; its cache is as full as the
            # fullest of them.
            return max(values) if name in _KV_USAGE else sum(values)
    return None


def _gauges(text: str) -> dict[str, list[float]]:
    """The samples of the gauges we know, by name, labels dropped."""
    known = (*_RUNNING, *_WAITING, *_KV_USAGE)
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        if not line.startswith(("vllm:", "llamacpp:")):
            continue
        name = line.split("{", 1)[0].split(" ", 1)[0]
        if name not in known:
            continue
        rest = line[len(name) :].rpartition("}")[2].split()
        try:
            value = float(rest[0])
        except (IndexError, ValueError):
            continue
        if value == value and value not in (float("inf"), float("-inf")):
            found.setdefault(name, []).append(value)
    return found
