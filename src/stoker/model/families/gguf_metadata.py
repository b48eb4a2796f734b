"""Typed access to the metadata of a GGUF model's architecture."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from stoker.errors import ModelCorrupt
from stoker.model.families.config import DIMENSION_LIMIT, NUMBER_LIMIT
from stoker.model.weights.gguf import GGUFFile


class ArchMetadata:
    """Keys under `general.architecture`'s prefix (`llama.block_count` → `block_count`).

    The getters raise `ModelCorrupt`, naming file and key, when a value is absent without a
    default, of another type or out of range.
    """

    def __init__(self, file: GGUFFile) -> None:
        self.file = file
        self.architecture = file.metadata.string("general.architecture")

    @property
    def path(self) -> Path:
        return self.file.path

    def __contains__(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.file.metadata

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        minimum: int = 1,
        limit: int = DIMENSION_LIMIT,
    ) -> int:
        """An integer from `minimum` to `limit`, or an array that repeats one."""
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= limit:
            return value
        self._wrong(key, f"an integer from {minimum} to {limit}", value)

    def number(self, key: str, default: float | None = None, *, above: float = 0) -> float:
        """A number greater than `above`, within float32."""
        value = self.file.metadata.number(f"{self.architecture}.{key}", default)
        if above < value <= NUMBER_LIMIT:
            return value
        self._wrong(key, f"a finite number above {above:g}", value)

    def string(self, key: str, default: str | None = None) -> str:
        return self.file.metadata.string(f"{self.architecture}.{key}", default)

    def count(self, key: str) -> int:
        """A count that may be absent or zero."""
        return self.file.metadata.integer(f"{self.architecture}.{key}", 0)

    def flags(self, key: str, length: int) -> tuple[bool, ...] | None:
        """An array of `length` booleans, or None if the value is absent or is no array."""
        value = self.file.metadata.get(f"{self.architecture}.{key}")
        if not isinstance(value, np.ndarray):
            return None
        if len(value) != length:
            self._wrong(key, f"an array of {length} booleans", value)
        return tuple(bool(flag) for flag in value)

    def has_tensor(self, name: str) -> bool:
        return name in self.file.tensors

    def vector(self, name: str) -> list[float] | None:
        """A tensor of positive factors, or None if the file has none of that name."""
        if name not in self.file.tensors:
            return None
        values = self.file.tensors[name].dequantize().reshape(-1)
        if not (np.isfinite(values) & (values > 0)).all():
            raise ModelCorrupt(f"{self.path}: tensor {name!r} should hold positive factors.")
        return [float(value) for value in values]

    def _wrong(self, key: str, expected: str, value: object) -> NoReturn:
        raise ModelCorrupt(
            f"{self.path}: metadata '{self.architecture}.{key}' should be {expected}, "
            f"not {value!r:.80}."
        )
