"""The one interface between an engine and the arithmetic: a `Batch` in, a `StepResult` out.

A runner knows no request, no queue and no text. It holds the weights and the paged key-value
cache, and its one rule is that **a row's result never depends on the other rows of the batch**,
nor on how a prompt was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stoker.model.spec import ModelSpec

Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]

KVDtype = Literal["bfloat16", "float32", "int8"]


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """The shape of the paged key-value cache."""

    num_blocks: int
    block_size: int = 16
    """Tokens per block."""
    dtype: KVDtype = "bfloat16"

    @property
    def num_slots(self) -> int:
        """Token positions the cache can hold."""
        return self.num_blocks * self.block_size


@dataclass(slots=True)
class SampleExtras:
    """What only some rows ask of the sampler; most rows have none."""

    prompt_ids: Int32Array | None = None
    """The prompt's tokens, for the repetition penalty."""
    output_ids: Int32Array | None = None
    """The tokens generated so far, for all three penalties."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias_ids: Int32Array | None = None
    """Token ids whose logits are shifted by `bias_values` (logit_bias)."""
    bias_values: Float32Array | None = None
    banned_ids: Int32Array | None = None
    """Token ids that may not be chosen (bad_words, min_tokens' stop tokens)."""
    allowed_mask: NDArray[np.uint32] | None = None
    """One bit per token id, least significant first, `[ceil(vocab / 32)]`; 0 bits are banned
    (allowed_token_ids, structured output)."""

    @property
    def has_penalties(self) -> bool:
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(slots=True)
class SampleRows:
    """The tokens to be sampled in a step, as columns: one entry per token wanted.

    Several entries may name the same row of the batch (n > 1 draws from one prompt's logits).
    """

    rows: Int32Array
    """`[samples]` index into the batch's tokens: the token whose logits are sampled."""
    temperature: Float32Array
    """`[samples]`; 0 is greedy (ties go to the lowest token id)."""
    top_k: Int32Array
    """`[samples]`; 0 keeps the whole vocabulary."""
    top_p: Float32Array
    min_p: Float32Array
    seeds: NDArray[np.uint64]
    """`[samples]` the sequence's seed."""
    steps: Int32Array
    """`[samples]` how many tokens the sequence has generated: the counter of the
    counter-based random numbers, so that a draw is a function of (seed, step) alone."""
    num_logprobs: Int32Array
    """`[samples]` -1: none; 0: of the chosen token; k: of the k most likely too."""
    extras: Sequence[SampleExtras | None] = ()
    """Empty, or one entry per sample."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(slots=True)
class ScoreRows:
    """Log-probabilities wanted of tokens that are already known (prompt_logprobs, echo)."""

    rows: Int32Array
    """`[scores]` index into the batch's tokens."""
    targets: Int32Array
    """`[scores]` the token that follows each of them."""
    num_logprobs: Int32Array
    """`[scores]` how many of the most likely tokens to report beside the target."""


@dataclass(slots=True)
class Batch:
    """One engine step: the new tokens of every scheduled sequence, back to back.

    Sequence s contributes tokens `query_starts[s]:query_starts[s + 1]`; they take positions
    `context_lens[s], context_lens[s] + 1, …`. Their keys and values are written to the cache at
    `block_tables[s, position // block_size]`, slot `position % block_size`, before any is read.
    """

    token_ids: Int32Array
    """`[tokens]`"""
    query_starts: Int32Array
    """`[sequences + 1]`"""
    context_lens: Int32Array
    """`[sequences]` tokens of the sequence that the cache already holds."""
    block_tables: Int32Array
    """`[sequences, max blocks]` block numbers, in order; entries past the end are ignored."""
    sample: SampleRows
    score: ScoreRows | None = None
    block_copies: Int32Array | None = None
    """`[copies, 2]` (from, to): whole blocks copied before anything else (copy-on-write)."""
    embed_rows: Int32Array | None = None
    """`[n]` tokens whose final hidden state (after the last norm) is wanted."""
    before_sampling: Callable[[], None] | None = None
    """Called when the logits of the first samples are computed, and before any `allowed_mask` is
    read: the masks are filled while the model runs, and this waits for the last of them."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        return len(self.context_lens)

    def next(self, sampled: Int32Array, block_tables: Int32Array | None) -> Batch:
        """The step after this one, when each of its sequences had one token and one sample and goes
        on with that; see `ModelRunner.run_next`."""
        return replace(
            self,
            token_ids=sampled,
            context_lens=self.context_lens + np.int32(1),
            block_tables=self.block_tables if block_tables is None else block_tables,
            sample=replace(self.sample, steps=self.sample.steps + np.int32(1)),
            block_copies=None,
        )


@dataclass(slots=True)
class TopLogprobs:
    """Log-probabilities of chosen or given tokens, with the most likely ones beside them.

    All are of the model's own distribution: the raw logits, before temperature, penalties,
    biases and masks.
    """

    chosen: Float32Array
    """`[n]`"""
    ranks: Int32Array
    """`[n]` 1 for the most likely token."""
    ids: Int32Array
    """`[n, k]`, most likely first, k the largest number asked for in the step."""
    logprobs: Float32Array
    """`[n, k]`"""


@dataclass(slots=True)
class StepResult:
    """What a step computed."""

    token_ids: Int32Array
    """`[samples]` the sampled tokens."""
    logprobs: TopLogprobs | None = None
    """`[samples]` rows; None when no sample asked for any."""
    scores: TopLogprobs | None = None
    """`[scores]` rows."""
    embeddings: Float32Array | None = None
    """`[embed rows, hidden]`"""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent in each part of the step, when the runner measures them."""


class ModelRunner(Protocol):
    """Computes batches for one model."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def cache(self) -> CacheConfig: ...

    def run(self, batch: Batch) -> StepResult:
        """Compute one step. Blocks the calling thread; releases the interpreter lock.

        A sequence's logits must be finite: a row whose logits are not (an overflow in the model)
        gets token id -1 and the engine ends that sequence alone with an error.
        """
        ...

    def run_next(self, block_tables: Int32Array | None) -> StepResult:
        """Compute the step after the last: the same sequences, each with the token it sampled.

        What `run` does with the last batch's `next`, without building and reading it. The last
        batch had one token and one sample of each sequence, in the same order, and no extras,
        scores or embeddings. `block_tables` is None where they are as before.
        """
        ...

    def close(self) -> None:
        """Free the weights and the cache, and end the threads."""
        ...
