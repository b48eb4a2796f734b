"""What an engine can be told, with the names of vLLM's flags where the meaning is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from stoker.errors import InvalidRequest
from stoker.runner.base import KVDtype

SchedulingPolicy = Literal["fcfs", "priority"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """An engine's settings. A field `max_num_seqs` is the flag `--max-num-seqs`."""

    max_model_len: int | None = None
    """Longest prompt plus answer, in tokens; None: what the model and the cache allow."""
    max_num_seqs: int = 128
    """Sequences running at the same time."""
    max_num_batched_tokens: int = 512
    """Tokens computed in one step, and so the bound on how long a step keeps decodes waiting."""
    long_prefill_token_threshold: int = 0
    """Most tokens of one prompt computed in a step; 0: the whole budget."""
    scheduling_policy: SchedulingPolicy = "fcfs"
    """`fcfs`: in order of arrival; `priority`: lowest priority value first, then arrival."""
    enable_prefix_caching: bool = True
    block_size: int = 16
    """Tokens per cache block."""
    kv_cache_dtype: Literal["auto"] | KVDtype = "auto"
    kv_cache_memory_bytes: int | None = None
    """Memory for keys and values; None: a modest share of what is free."""
    max_logprobs: int = 20
    """Most log-probabilities a request may ask for per token; -1: the vocabulary."""
    max_waiting_requests: int = 4096
    """Requests waiting before new ones are turned away; 0: no limit."""
    max_waiting_tokens: int = 0
    """Prompt tokens waiting before new requests are turned away; 0: no limit."""
    weight_format: Literal["auto", "q4", "q8", "bf16"] = "auto"
    """How matrices are kept in memory; `auto`: as precisely as the model's file has them."""
    runner: Literal["cpu", "reference"] = "cpu"
    """`cpu`: the native kernels; `reference`: NumPy, slow, for checking them."""
    threads: int | None = None
    """Threads of the CPU runner; None: one for each processor it may use."""
    isa: str | None = None
    """Instruction set of the CPU runner; None: the best this processor has."""
    seed: int | None = None
    """Seeds the requests that bring no seed of their own; None: differently on every start."""

    def __post_init__(self) -> None:
        _at_least("max_num_seqs", self.max_num_seqs, 1)
        _at_least("max_num_batched_tokens", self.max_num_batched_tokens, 1)
        _at_least("long_prefill_token_threshold", self.long_prefill_token_threshold, 0)
        _at_least("block_size", self.block_size, 1)
        _at_least("max_logprobs", self.max_logprobs, -1)
        _at_least("max_waiting_requests", self.max_waiting_requests, 0)
        _at_least("max_waiting_tokens", self.max_waiting_tokens, 0)
        if self.max_model_len is not None:
            _at_least("max_model_len", self.max_model_len, 1)
        if self.kv_cache_memory_bytes is not None:
            _at_least("kv_cache_memory_bytes", self.kv_cache_memory_bytes, 1)
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        _one_of("scheduling_policy", self.scheduling_policy, get_args(SchedulingPolicy))
        _one_of("kv_cache_dtype", self.kv_cache_dtype, ("auto", *get_args(KVDtype)))
        _one_of("weight_format", self.weight_format, ("auto", "q4", "q8", "bf16"))
        _one_of("runner", self.runner, ("cpu", "reference"))
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise InvalidRequest(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least "
                f"max_num_seqs ({self.max_num_seqs}), so that every running sequence can get "
                "its token in each step",
                param="max_num_batched_tokens",
            )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> EngineConfig:
        """The settings by name, others at their defaults.

        Raises:
            InvalidRequest: a name is unknown, or a value wrong.
        """
        known = {field.name for field in fields(cls)}
        for name in settings:
            if name not in known:
                raise InvalidRequest(
                    f"there is no engine setting {name!r}; there are {', '.join(sorted(known))}",
                    param=name,
                )
        return cls(**settings)


def _at_least(name: str, value: int, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise InvalidRequest(
            f"{name} must be an integer of at least {low}, got {value!r}", param=name
        )


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidRequest(
            f"{name} must be one of {', '.join(choices)}, got {value!r}", param=name
        )
