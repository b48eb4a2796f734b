"""What metrics need to know of an engine: totals at a moment, and what one step brought."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine's gauges and counters at one moment."""

    num_running: int
    """Sequences that hold a place in the batch."""
    num_waiting: int
    """Sequences waiting for one."""
    num_waiting_tokens: int
    """Tokens those still have to compute."""
    num_blocks: int
    num_used_blocks: int
    """Blocks referenced by a sequence."""
    num_cached_blocks: int
    """Blocks that hold a reusable prefix, in use or not."""
    num_preemptions: int
    prompt_tokens: int
    """Prompt tokens of requests that were scheduled, cached ones included."""
    generation_tokens: int
    prefix_cache_queries: int
    """Prompt tokens looked up in the prefix cache."""
    prefix_cache_hits: int
    """… and found there."""
    admission_rejections: int
    steps: int
    finished: Mapping[str, int]
    """Requests finished, by reason."""

    @property
    def kv_cache_usage(self) -> float:
        """Share of the blocks in use, 0 … 1."""
        return self.num_used_blocks / self.num_blocks


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """One request's figures, when it is over. Times in seconds."""

    request_id: str
    finish_reason: str
    num_prompt_tokens: int
    num_generation_tokens: int
    num_cached_tokens: int
    num_preemptions: int
    n: int
    max_tokens: int
    e2e_time: float
    queue_time: float
    """Arrival → first scheduled."""
    prefill_time: float
    """First scheduled → first token."""
    decode_time: float
    """First token → last token."""

    @property
    def inference_time(self) -> float:
        return self.prefill_time + self.decode_time

    @property
    def time_per_output_token(self) -> float:
        """Mean over the tokens after the first; 0 when there was only one."""
        return self.decode_time / max(self.num_generation_tokens / self.n - 1, 1)


@dataclass(slots=True)
class StepStats:
    """What one step brought, for histograms."""

    num_tokens: int = 0
    """Tokens computed, of prompts and of answers."""
    num_prefill_tokens: int = 0
    num_generation_tokens: int = 0
    num_preemptions: int = 0
    times_to_first_token: list[float] = field(default_factory=list)
    inter_token_latencies: list[float] = field(default_factory=list)
    finished: list[FinishedRequest] = field(default_factory=list)
