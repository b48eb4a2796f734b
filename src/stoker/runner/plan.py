"""What the CPU runner will take of memory, to the byte, before any of it is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass

from stoker import _kernels
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import KVDtype
from stoker.runner.cpu import WeightFormat, default_threads, is_matrix


@dataclass(frozen=True, slots=True)
class RunnerMemory:
    """Bytes of a runner's parts."""

    weights: int
    """All weights, packed."""
    block: int
    """One block of the key-value cache, all layers together."""
    workspace: int
    """What a step works in."""


def cpu_memory(
    spec: ModelSpec,
    weights: Weights,
    *,
    kv_dtype: KVDtype,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    threads: int | None = None,
    weight_format: WeightFormat | None = None,
) -> RunnerMemory:
    """What a `CPURunner` of these arguments takes; reads the types of the weights alone.

    Raises `ValueError` for a model that it cannot run.
    """
    weight_bytes, formats = 0, set()
    for name, shape in weight_shapes(spec).items():
        if is_matrix(name, shape):
            rows, cols = shape
            nbytes, packed = _kernels.packed_size(weights[name].type, rows, cols, weight_format)
            weight_bytes += nbytes
            formats.add(packed)
        else:
            weight_bytes += 4 * math.prod(shape)
    workspace = _kernels.workspace_bytes(
        spec,
        kv_dtype,
        max_num_batched_tokens,
        max_num_seqs,
        threads or default_threads(),
        int8=bool(formats - {"bf16"}),
        bf16="bf16" in formats,
    )
    return RunnerMemory(weight_bytes, _kernels.block_bytes(spec, kv_dtype), workspace)
