"""The CPU runner: a whole engine step in one native call."""

from __future__ import annotations

from typing import Literal

from stoker import _kernels
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import Batch, CacheConfig, StepResult, TopLogprobs

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
        self.spec = spec
        self.cache = cache
        self.measure = False
        self._model = _kernels.Model(
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
                self._model.load_matrix(name, tensor.data, tensor.type, shape[1], weight_format)
            else:
                self._model.load_vector(name, tensor.dequantize().reshape(-1))
        self._model.finish_loading()

    def run(self, batch: Batch) -> StepResult:
        """Compute one step; see `ModelRunner.run`. Raises `ValueError` for a malformed batch."""
        tokens, samples, scores, embeddings, seconds = self._model.run(batch, self.measure)
        return StepResult(
            token_ids=tokens,
            logprobs=None if samples is None else TopLogprobs(*samples),
            scores=None if scores is None else TopLogprobs(*scores),
            embeddings=None if batch.embed_rows is None else embeddings,
            timings=seconds if self.measure else {},
        )
