"""Weights by canonical name, whatever file they came from.

Names (`{i}` is the layer; biases replace `.weight` by `.bias`)::

    embed.weight                    [vocab, hidden]
    positions.weight                [max_position, hidden]        learned_positions
    layers.{i}.attn_norm.weight     [hidden]
    layers.{i}.q.weight             [num_heads * head_dim, hidden]
    layers.{i}.k.weight             [num_kv_heads * head_dim, hidden]
    layers.{i}.v.weight             [num_kv_heads * head_dim, hidden]
    layers.{i}.q_norm.weight        [head_dim]                    head_norm
    layers.{i}.k_norm.weight        [head_dim]                    head_norm
    layers.{i}.o.weight             [hidden, num_heads * head_dim]
    layers.{i}.post_attn_norm.weight [hidden]                     post_norms
    layers.{i}.mlp_norm.weight      [hidden]
    layers.{i}.gate.weight          [intermediate, hidden]        gated
    layers.{i}.up.weight            [intermediate, hidden]
    layers.{i}.down.weight          [hidden, intermediate]
    layers.{i}.post_mlp_norm.weight [hidden]                      post_norms
    norm.weight                     [hidden]
    lm_head.weight                  [vocab, hidden]               unless tied_embeddings

Every matrix is stored output-major: row r holds the weights that make output r. What a format
stores differently (fused projections, transposed or interleaved rows, norms stored as w - 1) is
put right by its loader, so a runner meets one convention.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TensorType(StrEnum):
    """How the elements of a tensor are encoded. Block formats are GGUF's."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"

    @property
    def block_size(self) -> int:
        """Elements per encoded block; a row is a whole number of blocks."""
        return _BLOCKS[self][0]

    @property
    def block_bytes(self) -> int:
        """Bytes per encoded block."""
        return _BLOCKS[self][1]


_BLOCKS = {
    TensorType.F32: (1, 4),
    TensorType.F16: (1, 2),
    TensorType.BF16: (1, 2),
    TensorType.Q8_0: (32, 34),
    TensorType.Q4_0: (32, 18),
    TensorType.Q4_1: (32, 20),
    TensorType.Q5_0: (32, 22),
    TensorType.Q5_1: (32, 24),
    TensorType.Q4_K: (256, 144),
    TensorType.Q5_K: (256, 176),
    TensorType.Q6_K: (256, 210),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight as it lies in its file: encoded rows, usually a view of a memory-mapped file."""

    type: TensorType
    shape: tuple[int, ...]
    """Logical shape: `[rows, columns]` or `[n]`."""
    data: NDArray[np.uint8]
    """Encoded bytes, `[rows, bytes per row]` (a vector is one row), C-contiguous."""

    @property
    def nbytes(self) -> int:
        return int(self.data.nbytes)

    def dequantize(self) -> NDArray[np.float32]:
        """The tensor as float32 of `shape`."""
        from stoker.model.weights.dequantize import dequantize

        return dequantize(self)


class Weights(Protocol):
    """Canonical name → tensor, read lazily."""

    def __getitem__(self, name: str) -> Tensor: ...

    def __contains__(self, name: object) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __len__(self) -> int: ...
