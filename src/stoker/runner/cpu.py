"""The CPU runner: a whole engine step in one native call."""

from __future__ import annotations

from typing import Literal

from stoker import _kernels
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import Batch, CacheConfig, StepResult, TopLogprobs

BLOCK_SIZE = 16
"""Tokens in a block of the cache; the kernels' layout is made for it."""

WeightFormat = Literal["q4", "q8", "bf16"]


class CPURunner:
    """A `ModelRunner` on packed weights, a paged native cache and a pool of threads."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        cache: CacheConfig,
        *,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        threads: int | None = None,
        isa: str | None = None,
        weight_format: WeightFormat | None = None,
    ) -> None:
        if cache.block_size != BLOCK_SIZE:
            raise ValueError(
                f"the CPU runner's cache has blocks of {BLOCK_SIZE} tokens, not {cache.block_size}"
            )
        self.spec = spec
        self.cache = cache
        self.measure = False
        """Whether a step's `timings` are measured, at some microseconds each."""
        model = _kernels.Model(
            spec,
            num_blocks=cache.num_blocks,
            kv_dtype=cache.dtype,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            threads=threads or _kernels.available_cpus(),
            isa=isa or _kernels.available_isas()[-1],
        )
        for name, shape in weight_shapes(spec).items():
            tensor = weights[name]
            if len(shape) == 2 and name != "positions.weight":
                model.load_matrix(name, tensor.data, tensor.type, shape[1], weight_format)
            else:
                model.load_vector(name, tensor.dequantize().reshape(-1))
        model.finish_loading()
        self._model: _kernels.Model | None = model

    def run(self, batch: Batch) -> StepResult:
        """Compute one step; see `ModelRunner.run`. Raises `ValueError` for a malformed batch."""
        if self._model is None:
            raise RuntimeError("the runner is closed")
        tokens, samples, scores, embeddings, seconds = self._model.run(batch, self.measure)
        return StepResult(
            token_ids=tokens,
            logprobs=None if samples is None else TopLogprobs(*samples),
            scores=None if scores is None else TopLogprobs(*scores),
            embeddings=None if batch.embed_rows is None else embeddings,
            timings=seconds if self.measure else {},
        )

    def close(self) -> None:
        """Free the weights and the cache, and end the threads."""
        self._model = None
