"""Transforms of encoded tensors, against the same done to their values."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray

from stoker.model.weights.base import Tensor, TensorType
from stoker.model.weights.transforms import NeoxOrder, PlusOne, Rows, Transposed

QUANTIZED = (TensorType.F32, TensorType.BF16, TensorType.Q8_0, TensorType.Q4_1)


def tensor(values: NDArray[np.float32], type_: TensorType = TensorType.F32) -> Tensor:
    matrix = values.reshape(-1, values.shape[-1])
    data = quants.quantize(matrix, GGMLQuantizationType[type_]).view(np.uint8)
    return Tensor(type_, values.shape, data)


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("type_", QUANTIZED)
def test_rows_of_a_matrix(type_: TensorType) -> None:
    whole = tensor(random(10, 64), type_)
    part = Rows(2, 6, 10)(whole)
    assert part.shape == (4, 64)
    assert part.type is type_
    np.testing.assert_array_equal(part.dequantize(), whole.dequantize()[2:6])
    assert Rows(2, 6, 10).input_shape((4, 64)) == (10, 64)


def test_rows_of_a_vector() -> None:
    part = Rows(2, 6, 10)(tensor(random(10)))
    assert part.shape == (4,)
    assert part.data.shape == (1, 16)
    np.testing.assert_array_equal(part.dequantize(), random(10)[2:6])
    assert Rows(2, 6, 10).input_shape((4,)) == (10,)


@pytest.mark.parametrize("type_", [TensorType.F32, TensorType.BF16])
def test_transposed(type_: TensorType) -> None:
    original = tensor(random(3, 64), type_)
    result = Transposed()(original)
    assert result.shape == (64, 3)
    np.testing.assert_array_equal(result.dequantize(), original.dequantize().T)
    assert Transposed().input_shape((64, 3)) == (3, 64)


def test_blocks_cannot_be_transposed() -> None:
    with pytest.raises(ValueError, match="Q8_0 is encoded in blocks"):
        Transposed()(tensor(random(3, 64), TensorType.Q8_0))


@pytest.mark.parametrize("type_", QUANTIZED)
def test_neox_order_of_a_matrix(type_: TensorType) -> None:
    """Row 2i of each head goes to i, row 2i + 1 to i + dim / 2."""
    interleaved = tensor(random(12, 64), type_)
    result = NeoxOrder(num_heads=2)(interleaved)
    order = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert result.shape == (12, 64)
    np.testing.assert_array_equal(result.dequantize(), interleaved.dequantize()[order])


def test_neox_order_of_a_vector() -> None:
    result = NeoxOrder(num_heads=1)(tensor(np.arange(6, dtype=np.float32)))
    assert result.dequantize().tolist() == [0, 2, 4, 1, 3, 5]


def test_plus_one_of_bfloat16_is_not_rounded() -> None:
    value = np.array([0.00390625], np.float32)  # 2⁻⁸: a bfloat16, but 1 + 2⁻⁸ is none
    result = PlusOne()(tensor(value, TensorType.BF16))
    assert result.type is TensorType.F32
    assert result.dequantize().tolist() == [1.00390625]
