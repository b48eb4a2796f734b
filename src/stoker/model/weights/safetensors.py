"""Safetensors checkpoints, single or sharded: tensors as views of the mapped files.

The format (https://huggingface.co/docs/safetensors) is a length, a JSON header and the data.
Parsed here and not with the `safetensors` package, whose NumPy side has no bfloat16 and copies.

Headers are untrusted: offsets and shapes are checked against the file before they are used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from stoker.errors import ModelCorrupt, ModelNotFound, UnsupportedModel
from stoker.model.weights.base import Tensor, TensorType
from stoker.model.weights.files import map_file, read_json

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_TYPES = {"F32": TensorType.F32, "F16": TensorType.F16, "BF16": TensorType.BF16}
_HEADER_LIMIT = 100_000_000
"""Bytes; the reference implementation's own limit."""


@dataclass(frozen=True, slots=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsFile(Mapping[str, Tensor]):
    """One file: name → tensor, each made when asked for.

    Raises `ModelNotFound` or `ModelCorrupt` when opened, `UnsupportedModel` when a tensor with
    an element type that is not read is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes = np.frombuffer(map_file(path), np.uint8)
        if len(self._bytes) < 8:
            self._fail("it is shorter than its 8-byte header length; the file is truncated")
        length = int.from_bytes(self._bytes[:8].tobytes(), "little")
        if length > min(_HEADER_LIMIT, len(self._bytes) - 8):
            self._fail(
                f"a header of {length} bytes cannot fit in a file of {len(self._bytes)}; "
                "it is truncated or not safetensors"
            )
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
        except (ValueError, RecursionError) as error:
            self._fail(f"its header is not JSON: {error}")
        if not isinstance(header, dict):
            self._fail("its header is not a JSON object")
        header.pop("__metadata__", None)
        self._data = self._bytes[8 + length :]
        self._entries = {name: self._entry(name, fields) for name, fields in header.items()}

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        if entry.dtype not in _TYPES:
            raise UnsupportedModel(
                f"{self.path}: tensor {name!r} has type {entry.dtype}; types that are read: "
                f"{', '.join(_TYPES)}."
            )
        type_ = _TYPES[entry.dtype]
        data: NDArray[np.uint8] = self._data[entry.start : entry.stop]
        rows = math.prod(entry.shape[:-1])
        return Tensor(type_, entry.shape, data.reshape(rows, len(data) // rows if rows else 0))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _entry(self, name: str, fields: object) -> _Entry:
        match fields:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]}:
                pass
            case _:
                self._fail(f"tensor {name!r} is not described by dtype, shape and data_offsets")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            self._fail(f"tensor {name!r} has the impossible shape {shape}")
        if not 0 <= start <= stop <= len(self._data):
            self._fail(
                f"tensor {name!r} lies at bytes {start} to {stop} of {len(self._data)}; the file "
                "is truncated, fetch it again"
            )
        if dtype in _TYPES and math.prod(shape) * _TYPES[dtype].block_bytes != stop - start:
            self._fail(f"tensor {name!r} of shape {shape} and {dtype} takes {stop - start} bytes")
        return _Entry(dtype, tuple(shape), start, stop)

    def _fail(self, what: str) -> NoReturn:
        raise ModelCorrupt(f"{self.path}: {what}.")


class ShardedSafetensors(Mapping[str, Tensor]):
    """Several files under one index, each opened when a tensor of it is first asked for."""

    def __init__(self, index: Path) -> None:
        """Read the index; raises `ModelCorrupt`, or `ModelNotFound` if a shard is missing."""
        self.path = index
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelCorrupt(f"{index}: it has no 'weight_map' object.")
        self._shard_of: dict[str, str] = {}
        for name, shard in weight_map.items():
            # A shard's name comes from the file: it must not lead out of the directory.
            if not isinstance(shard, str) or not shard or Path(shard).name != shard:
                raise ModelCorrupt(f"{index}: tensor {name!r} is said to be in {shard!r:.80}.")
            self._shard_of[name] = shard
        for shard in sorted(set(self._shard_of.values())):
            if not (index.parent / shard).is_file():
                raise ModelNotFound(
                    f"{index.parent / shard}: this shard is missing; fetch the model again."
                )
        self._shards: dict[str, SafetensorsFile] = {}

    def __getitem__(self, name: str) -> Tensor:
        shard = self._shard_of[name]
        if shard not in self._shards:
            self._shards[shard] = SafetensorsFile(self.path.parent / shard)
        if name not in self._shards[shard]:
            raise ModelCorrupt(f"{self.path}: tensor {name!r} is not in {shard}, as it says.")
        return self._shards[shard][name]

    def __contains__(self, name: object) -> bool:
        return name in self._shard_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def __len__(self) -> int:
        return len(self._shard_of)


def open_safetensors(directory: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint directory, by the names its files use.

    Raises `ModelNotFound` if it holds no safetensors, `ModelCorrupt` if they are damaged.
    """
    if (directory / INDEX_FILE).is_file():
        return ShardedSafetensors(directory / INDEX_FILE)
    if (directory / SINGLE_FILE).is_file():
        return SafetensorsFile(directory / SINGLE_FILE)
    raise ModelNotFound(
        f"{directory}: neither {SINGLE_FILE} nor {INDEX_FILE} is there. Weights in other forms "
        "(pytorch_model.bin) are not read; convert them to safetensors."
    )
