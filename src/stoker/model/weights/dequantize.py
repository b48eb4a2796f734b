"""Encoded tensors → float32, for the reference runner and for tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stoker.model.weights.base import Tensor, TensorType


def dequantize(tensor: Tensor) -> NDArray[np.float32]:
    """`tensor` as a new float32 array of its shape; exact for every type."""
    data = np.ascontiguousarray(tensor.data)
    if tensor.type is TensorType.F32:
        values = data.view("<f4").astype(np.float32)
    elif tensor.type is TensorType.F16:
        values = data.view("<f2").astype(np.float32)
    elif tensor.type is TensorType.BF16:
        # A bfloat16 is the upper half of a float32.
        values = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        # Imported here: start-up reads the encoded bytes and needs none of this.
        from gguf import quants
        from gguf.constants import GGMLQuantizationType

        values = quants.dequantize(data, GGMLQuantizationType[tensor.type])
    return values.reshape(tensor.shape)
