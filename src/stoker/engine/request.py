"""A request: a prompt, what is asked of it, and the sequences that answer it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stoker.engine.outputs import PromptLogprobs, RequestMetrics
from stoker.engine.sampling_params import RequestOutputKind, SamplingParams
from stoker.engine.sequence import Sequence
from stoker.engine.structured import Grammar

if TYPE_CHECKING:
    from stoker.engine.beam_search import BeamSearch

_MASK64 = 2**64 - 1


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the engine; made by `admission.Admission`."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    """The engine's own copy. Of a beam search, those that continue each beam."""
    max_tokens: int
    """Tokens per answer at most: what was asked for, or what there is room for."""
    seed: int
    priority: int
    order: int
    """Requests are numbered as they arrive."""
    cache_salt: bytes
    eos_token_ids: frozenset[int]
    stop_token_ids: frozenset[int]
    """Tokens that end an answer, the model's own included unless ignored."""
    num_logprobs: int
    """Most likely tokens reported beside the chosen one; -1: no log-probabilities at all."""
    num_prompt_logprobs: int
    metrics: RequestMetrics
    banned_until_min_tokens: NDArray[np.int32] | None = None
    """The stop tokens, which may not be chosen before `min_tokens`."""
    bad_words: list[list[int]] = field(default_factory=list)
    allowed_mask: NDArray[np.uint32] | None = None
    grammar: Grammar | None = None
    """Of structured output; each sequence has a matcher of its own."""
    bias_ids: NDArray[np.int32] | None = None
    bias_values: NDArray[np.float32] | None = None
    beams: BeamSearch | None = None

    output_kind: RequestOutputKind = field(init=False)
    sequences: list[Sequence] = field(default_factory=list)
    """In order of their index, finished ones included; of a beam search, the live beams."""
    num_unfinished: int = 0
    """Answers still in the making."""
    num_generated: int = 0
    """Tokens of all answers."""
    num_cached_tokens: int = 0
    prompt_logprobs: PromptLogprobs | None = None
    prompt_logprobs_sent: bool = False

    def __post_init__(self) -> None:
        self.output_kind = self.params.output_kind

    @property
    def has_extras(self) -> bool:
        """Whether its rows need more of the sampler than the slot table's columns."""
        params = self.params
        return bool(
            params.repetition_penalty != 1.0
            or params.presence_penalty
            or params.frequency_penalty
            or self.bias_ids is not None
            or self.allowed_mask is not None
            or self.grammar is not None
            or self.bad_words
            or self.banned_until_min_tokens is not None
        )

    def sequence_seed(self, index: int) -> int:
        """The seed of answer `index`: a function of the request's seed and the index alone.

        SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
        """
        z = (self.seed + (index + 1) * 0x9E3779B97F4A7C15) & _MASK64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
        return z ^ (z >> 31)
