"""What turns a file's tensor into a canonical one, on the encoded bytes where they allow it.

A transform also says what shape the file's tensor must have, so that a checkpoint can be
validated without touching its data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stoker.model.weights.base import Tensor, TensorType


class Transform(Protocol):
    """One step from a file's tensor to a canonical one."""

    def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the tensor must have for the result to have shape `output`."""
        ...

    def __call__(self, tensor: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows (or elements of a vector) `start` to `stop` of `total`: a part of a fused tensor."""

    start: int
    stop: int
    total: int

    def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
        return (self.total, *output[1:])

    def __call__(self, tensor: Tensor) -> Tensor:
        shape = (self.stop - self.start, *tensor.shape[1:])
        if len(shape) == 1:
            vector = tensor.dequantize()[self.start : self.stop]
            return _float_tensor(vector)
        return Tensor(tensor.type, shape, tensor.data[self.start : self.stop])


@dataclass(frozen=True, slots=True)
class Transposed:
    """Input-major to output-major (GPT-2's Conv1D); only for types without blocks."""

    def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
        return output[::-1]

    def __call__(self, tensor: Tensor) -> Tensor:
        if tensor.type.block_size != 1:
            raise ValueError(f"{tensor.type} is encoded in blocks along rows: no transposition")
        rows, columns = tensor.shape
        elements = tensor.data.view(f"u{tensor.type.block_bytes}").T
        data = np.ascontiguousarray(elements).view(np.uint8)
        return Tensor(tensor.type, (columns, rows), data)


@dataclass(frozen=True, slots=True)
class NeoxOrder:
    """Rows of each head from the interleaved rotary order (2i, 2i + 1) to NeoX (i, i + dim / 2).

    Undoes what llama.cpp's converter does to the query and key projections of Llama models.
    """

    num_heads: int

    def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
        return output

    def __call__(self, tensor: Tensor) -> Tensor:
        rows = tensor.shape[0]
        order = np.arange(rows).reshape(self.num_heads, -1, 2).swapaxes(1, 2).reshape(rows)
        if len(tensor.shape) == 1:
            return _float_tensor(tensor.dequantize()[order])
        return Tensor(tensor.type, tensor.shape, tensor.data[order])


@dataclass(frozen=True, slots=True)
class PlusOne:
    """Norm weights that a checkpoint stores as w - 1 (Gemma)."""

    def input_shape(self, output: tuple[int, ...]) -> tuple[int, ...]:
        return output

    def __call__(self, tensor: Tensor) -> Tensor:
        return _float_tensor(tensor.dequantize() + np.float32(1))


def _float_tensor(vector: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Tensor:
    data = np.ascontiguousarray(vector).reshape(1, -1).view(np.uint8)
    return Tensor(TensorType.F32, vector.shape, data)
