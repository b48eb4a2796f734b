"""The CPU runner: a whole engine step in one native call."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from stoker import _kernels
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.model.weights.files import release_pages
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import Batch, CacheConfig, Int32Array, StepResult, TopLogprobs

WeightFormat = Literal["q4", "q8", "bf16"]

BLOCK_SIZE = 16
"""Tokens in a block of the cache; the kernels' layout is made for it."""


_NOT_MEASURED: Mapping[str, float] = MappingProxyType({})


class CPURunner:
    """A `ModelRunner` on packed weights, a paged native cache and a pool of threads.

    `threads` is by default the number of processors this process may use, `isa` the best
    instruction set here. `weight_format` packs all matrices alike; by default each keeps what
    its file has, as nearly as it can (4-bit, 8-bit or bfloat16).

    Raises `ValueError` for a model that cannot run, or weights that are not the model's.
    """

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
            threads=threads or default_threads(),
            isa=isa or _kernels.available_isas()[-1],
        )
        for name, shape in weight_shapes(spec).items():
            tensor = weights[name]
            if is_matrix(name, shape):
                model.load_matrix(name, tensor.data, tensor.type, shape[1], weight_format)
                # Packed, it is there twice: the file's copy would count until all are loaded.
                release_pages(tensor.data)
            else:
                model.load_vector(name, tensor.dequantize().reshape(-1))
        model.finish_loading()
        self._model: _kernels.Model | None = model
        self._batch: _kernels.BoundBatch | None = None

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return self._open_model().weight_bytes

    @property
    def workspace_bytes(self) -> int:
        """Bytes that steps work in."""
        return self._open_model().workspace_bytes

    def run(self, batch: Batch) -> StepResult:
        """Compute one step; see `ModelRunner.run`. Raises `ValueError` for a malformed batch."""
        self._batch = _kernels.BoundBatch(batch)
        return self._run(self._batch)

    def run_next(self, block_tables: Int32Array | None) -> StepResult:
        """Compute the step after the last; see `ModelRunner.run_next`."""
        batch = self._batch
        if batch is None:
            raise ValueError("no step was computed that another could follow")
        batch.advance(block_tables)
        return self._run(batch)

    def _run(self, batch: _kernels.BoundBatch) -> StepResult:
        tokens, samples, scores, embeddings, seconds = self._open_model().run(batch, self.measure)
        return StepResult(
            tokens,
            None if samples is None else TopLogprobs(*samples),
            None if scores is None else TopLogprobs(*scores),
            embeddings,
            _NOT_MEASURED if seconds is None else seconds,
        )

    def close(self) -> None:
        """Free the weights and the cache, and end the threads."""
        self._model = None
        self._batch = None

    def _open_model(self) -> _kernels.Model:
        if self._model is None:
            raise RuntimeError("the runner is closed")
        return self._model


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a weight is multiplied with, and so packed; the others are kept in float32."""
    return len(shape) == 2 and name != "positions.weight"


def default_threads() -> int:
    """Processors this process may use: its affinity, cut by its container's limit."""
    return _kernels.available_cpus()
