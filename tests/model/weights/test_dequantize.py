"""Every tensor type, written to a GGUF file and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from numpy.typing import NDArray

from stoker.model.weights.base import TensorType
from stoker.model.weights.gguf import GGUFFile

ROWS, COLUMNS = 3, 512
K_QUANTS = (TensorType.Q4_K, TensorType.Q5_K, TensorType.Q6_K)


def encode(type_: TensorType, values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Encoded rows; K-quants, for which there is no encoder in Python, get random bytes."""
    if type_ not in K_QUANTS:
        encoded: NDArray[np.uint8] = quants.quantize(values, GGMLQuantizationType[type_])
        return encoded.view(np.uint8)
    random = np.random.default_rng(1)
    blocks = random.integers(0, 256, (ROWS, COLUMNS // 256, type_.block_bytes), np.uint8)
    scale = np.array([0.01], np.float16).view(np.uint8)
    if type_ is TensorType.Q6_K:
        blocks[:, :, -2:] = scale
    else:
        blocks[:, :, 0:2] = blocks[:, :, 2:4] = scale
    return blocks.reshape(ROWS, -1)


def write(path: Path, type_: TensorType, data: NDArray[np.uint8]) -> GGUFFile:
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("t", data, raw_dtype=GGMLQuantizationType[type_])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return GGUFFile(path)


# The largest error of a value, in units of the largest magnitude in its row.
PRECISION = {
    TensorType.F32: 0.0,
    TensorType.F16: 2**-11,
    TensorType.BF16: 2**-8,
    TensorType.Q8_0: 1 / 127,
    TensorType.Q4_0: 1 / 7,
    TensorType.Q4_1: 1 / 7,
    TensorType.Q5_0: 1 / 15,
    TensorType.Q5_1: 1 / 15,
}


@pytest.mark.parametrize("type_", TensorType)
def test_a_tensor_comes_back_from_a_file(tmp_path: Path, type_: TensorType) -> None:
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    data = encode(type_, values)
    tensor = write(tmp_path / "m.gguf", type_, data).tensors["t"]

    assert tensor.type is type_
    assert tensor.shape == (ROWS, COLUMNS)
    assert tensor.data.shape == (ROWS, COLUMNS // type_.block_size * type_.block_bytes)
    np.testing.assert_array_equal(tensor.data, data)
    result = tensor.dequantize()
    assert result.dtype == np.float32
    assert result.shape == (ROWS, COLUMNS)
    if type_ in K_QUANTS:
        np.testing.assert_array_equal(result, quants.dequantize(data, GGMLQuantizationType[type_]))
        assert len(np.unique(result)) > 10
    else:
        largest = np.abs(values).max(axis=1, keepdims=True)
        assert (np.abs(result - values) <= PRECISION[type_] * largest).all()


def test_q6_k_by_hand(tmp_path: Path) -> None:
    """One block with d = 0.5, all scales 2 and every code 32 + 3: values are 0.5 · 2 · 3."""
    low = np.full(128, 0x33, np.uint8)  # 35 = 0b100011: low nibble 3, high bits 2
    high = np.full(64, 0b10101010, np.uint8)
    scales = np.full(16, 2, np.uint8)
    block = np.concatenate((low, high, scales, np.array([0.5], np.float16).view(np.uint8)))
    tensor = write(tmp_path / "m.gguf", TensorType.Q6_K, block.reshape(1, -1)).tensors["t"]
    np.testing.assert_array_equal(tensor.dequantize(), np.full((1, 256), 3, np.float32))


def test_block_table_agrees_with_the_gguf_package() -> None:
    from gguf.constants import GGML_QUANT_SIZES

    for type_ in TensorType:
        sizes = GGML_QUANT_SIZES[GGMLQuantizationType[type_]]
        assert (type_.block_size, type_.block_bytes) == sizes
