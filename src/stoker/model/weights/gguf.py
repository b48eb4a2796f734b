"""GGUF files, versions 2 and 3: the header parsed here, the tensors as views of the mapped file.

The format is specified in the ggml repository (docs/gguf.md). Ours instead of the `gguf`
package's reader, which makes a Python object of every vocabulary entry and takes seconds where
this takes milliseconds: string arrays are only stepped over, and decoded when asked for.

A file is untrusted: every count, length and offset is checked against the file's size before it
is used, and what is wrong is raised as `ModelCorrupt`.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.weights.base import Tensor, TensorType
from stoker.model.weights.files import map_file

NumericArray: TypeAlias = NDArray[np.integer | np.floating | np.bool]
MetadataValue: TypeAlias = bool | int | float | str | list[str] | NumericArray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

# Value types of metadata, by their number in the file.
_BOOL, _STRING, _ARRAY = 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_SCALAR_STRUCTS = {number: struct.Struct("<" + code) for number, code in _SCALARS.items()}

# Tensor types, by their number in the file.
_TENSOR_TYPES = {
    0: TensorType.F32,
    1: TensorType.F16,
    2: TensorType.Q4_0,
    3: TensorType.Q4_1,
    6: TensorType.Q5_0,
    7: TensorType.Q5_1,
    8: TensorType.Q8_0,
    12: TensorType.Q4_K,
    13: TensorType.Q5_K,
    14: TensorType.Q6_K,
    30: TensorType.BF16,
}

# The fewest bytes that one entry of each table can take; bounds the counts in the header.
_MIN_KEY_VALUE_BYTES = 8 + 4 + 1
_MIN_TENSOR_INFO_BYTES = 8 + 4 + 8 + 4 + 8
_MAX_DIMENSIONS = 4

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class GGUFMetadata(Mapping[str, MetadataValue]):
    """The key-value pairs of a GGUF file.

    Scalars are Python values, numeric arrays read-only NumPy arrays, string arrays lists that
    are decoded when first asked for. The typed getters raise `ModelCorrupt` for a key that is
    missing (unless a default is given) or of another type.
    """

    def __init__(
        self, path: Path, values: dict[str, MetadataValue | Callable[[], list[str]]]
    ) -> None:
        self._path = path
        self._values = values

    def __getitem__(self, key: str) -> MetadataValue:
        value = self._values[key]
        if callable(value):
            value = self._values[key] = value()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def string(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._lookup(key, default)
        return value if isinstance(value, str) else self._wrong_type(key, "a string", value)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        """A boolean."""
        value = self._lookup(key, default)
        return value if isinstance(value, bool) else self._wrong_type(key, "a boolean", value)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer."""
        value = self._lookup(key, default)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        self._wrong_type(key, "an integer", value)

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number, integer or not."""
        value = self._lookup(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
        self._wrong_type(key, "a finite number", value)

    def strings(self, key: str, default: list[str] | None = None) -> list[str]:
        """An array of strings."""
        value = self._lookup(key, default)
        return value if isinstance(value, list) else self._wrong_type(key, "strings", value)

    def array(self, key: str, default: NumericArray | None = None) -> NumericArray:
        """An array of numbers or booleans."""
        value = self._lookup(key, default)
        if isinstance(value, np.ndarray):
            return value
        self._wrong_type(key, "an array of numbers", value)

    def _lookup(self, key: str, default: MetadataValue | None) -> MetadataValue:
        if key in self._values:
            return self[key]
        if default is None:
            raise ModelCorrupt(f"{self._path}: the metadata has no {key!r}, which is required.")
        return default

    def _wrong_type(self, key: str, expected: str, value: object) -> NoReturn:
        raise ModelCorrupt(
            f"{self._path}: metadata {key!r} should be {expected}, not {_describe(value)}."
        )


class GGUFFile:
    """A GGUF file opened for reading.

    The file stays mapped for as long as any tensor of it is in use.
    """

    path: Path
    version: int
    metadata: GGUFMetadata
    tensors: Mapping[str, Tensor]
    """Tensor name, as the file has it → tensor; shapes are `[rows, columns]`, NumPy's order."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Map and parse `path`.

        Raises `ModelNotFound` (no such file), `ModelCorrupt` (truncated or inconsistent) or
        `UnsupportedModel` (a version, byte order or tensor type that is not read).
        """
        self.path = Path(path)
        parser = _Parser(self.path, map_file(self.path))
        try:
            self.version, values, tensors = parser.parse()
        except (struct.error, IndexError, OverflowError):
            parser.fail("it ends in the middle of its header; the file is truncated")
        self.metadata = GGUFMetadata(self.path, values)
        self.tensors = MappingProxyType(tensors)


class _Parser:
    """Walks the header once, from `self.at` onwards."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.path = path
        self.buffer = buffer
        self.size = len(buffer)
        self.at = 0

    def parse(
        self,
    ) -> tuple[int, dict[str, MetadataValue | Callable[[], list[str]]], dict[str, Tensor]]:
        if self.buffer[:4] != MAGIC:
            self.fail(f"it begins with {self.buffer[:4]!r}, not with {MAGIC!r}: not a GGUF file")
        self.at = 4
        version = self.u32()
        if version & 0xFFFF == 0 and version:
            raise UnsupportedModel(
                f"{self.path}: a big-endian GGUF file; convert it to little-endian "
                "(gguf-convert-endian)."
            )
        if version not in VERSIONS:
            raise UnsupportedModel(
                f"{self.path}: GGUF version {version}; versions 2 and 3 are read. "
                "Convert the model anew."
            )
        num_tensors = self.count("tensors", _MIN_TENSOR_INFO_BYTES)
        num_pairs = self.count("metadata entries", _MIN_KEY_VALUE_BYTES)
        values: dict[str, MetadataValue | Callable[[], list[str]]] = {}
        for _ in range(num_pairs):
            key = self.string()
            if key in values:
                self.fail(f"metadata {key!r} occurs twice")
            values[key] = self.value(key)
        return version, values, self.tensor_table(num_tensors, self.alignment(values))

    def alignment(self, values: Mapping[str, object]) -> int:
        alignment = values.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {_describe(alignment)}, not a power of two")
        return alignment

    def value(self, key: str) -> MetadataValue | Callable[[], list[str]]:
        kind = self.u32()
        if kind == _ARRAY:
            return self.array(key)
        if kind == _STRING:
            return self.string()
        if kind == _BOOL:
            self.at += 1
            return bool(self.buffer[self.at - 1])
        if kind not in _SCALAR_STRUCTS:
            self.fail(f"metadata {key!r} has the unknown value type {kind}")
        reader = _SCALAR_STRUCTS[kind]
        number: int | float = reader.unpack_from(self.buffer, self.at)[0]
        self.at += reader.size
        return number

    def array(self, key: str) -> MetadataValue | Callable[[], list[str]]:
        kind = self.u32()
        what = f"elements of metadata {key!r}"
        if kind == _STRING:
            return self.string_array(key, self.count(what, 8))
        if kind == _BOOL:
            count = self.count(what, 1)
            flags: NumericArray = np.frombuffer(self.buffer, np.uint8, count, self.at) != 0
            self.at += count
            return flags
        if kind not in _SCALARS:
            self.fail(f"metadata {key!r} is an array of the unreadable value type {kind}")
        dtype = np.dtype(_SCALARS[kind]).newbyteorder("<")
        count = self.count(what, dtype.itemsize)
        numbers: NumericArray = np.frombuffer(self.buffer, dtype, count, self.at)
        self.at += numbers.nbytes
        return numbers

    def string_array(self, key: str, count: int) -> Callable[[], list[str]]:
        """Steps over an array of strings and returns what will decode it."""
        buffer, start, at = self.buffer, self.at, self.at
        unpack = _U64.unpack_from
        for _ in range(count):
            at += 8 + unpack(buffer, at)[0]
        if at > self.size:
            self.fail(f"metadata {key!r} reaches past the end; the file is truncated")
        self.at = at

        def decode() -> list[str]:
            strings = []
            at = start
            try:
                for _ in range(count):
                    end = at + 8 + unpack(buffer, at)[0]
                    strings.append(buffer[at + 8 : end].decode())
                    at = end
            except UnicodeDecodeError as error:
                self.fail(f"metadata {key!r}, element {len(strings)}: {error}")
            return strings

        return decode

    def tensor_table(self, count: int, alignment: int) -> dict[str, Tensor]:
        infos: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = self.string()
            if name in infos:
                self.fail(f"tensor {name!r} occurs twice")
            infos[name] = self.tensor_info(name, alignment)
        data_start = (self.at + alignment - 1) // alignment * alignment
        return {name: self.tensor(name, *info, data_start) for name, info in infos.items()}

    def tensor_info(self, name: str, alignment: int) -> tuple[TensorType, tuple[int, ...], int]:
        num_dimensions = self.u32()
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            self.fail(f"tensor {name!r} has {num_dimensions} dimensions, not 1 to 4")
        # The file lists the fastest dimension first.
        shape = tuple(self.u64() for _ in range(num_dimensions))[::-1]
        if 0 in shape:
            self.fail(f"tensor {name!r} is empty: its shape is {shape}")
        number = self.u32()
        offset = self.u64()
        if number not in _TENSOR_TYPES:
            raise UnsupportedModel(
                f"{self.path}: tensor {name!r} has type {_type_name(number)}; types that are "
                f"read: {', '.join(TensorType)}. Quantize the model to one of them."
            )
        if offset % alignment:
            self.fail(f"tensor {name!r} starts at {offset}, not a multiple of {alignment}")
        return _TENSOR_TYPES[number], shape, offset

    def tensor(
        self, name: str, type_: TensorType, shape: tuple[int, ...], offset: int, data_start: int
    ) -> Tensor:
        columns = shape[-1]
        if columns % type_.block_size:
            self.fail(
                f"tensor {name!r} has rows of {columns} elements, not a multiple of "
                f"{type_}'s block of {type_.block_size}"
            )
        rows = math.prod(shape[:-1])
        row_bytes = columns // type_.block_size * type_.block_bytes
        end = data_start + offset + rows * row_bytes
        if end > self.size:
            self.fail(
                f"tensor {name!r} ends at byte {end} of {self.size}; the file is truncated, "
                "fetch it again"
            )
        data = np.frombuffer(self.buffer, np.uint8, rows * row_bytes, data_start + offset)
        return Tensor(type_, shape, data.reshape(rows, row_bytes))

    def u32(self) -> int:
        (value,) = _U32.unpack_from(self.buffer, self.at)
        self.at += 4
        return int(value)

    def u64(self) -> int:
        (value,) = _U64.unpack_from(self.buffer, self.at)
        self.at += 8
        return int(value)

    def count(self, what: str, min_bytes: int) -> int:
        """A count of entries that take at least `min_bytes` each in the rest of the file."""
        count = self.u64()
        if count * min_bytes > self.size - self.at:
            self.fail(f"{count} {what} cannot fit in a file of {self.size} bytes")
        return count

    def string(self) -> str:
        length = self.u64()
        end = self.at + length
        if end > self.size:
            self.fail(f"a string of {length} bytes reaches past the end; the file is truncated")
        try:
            text = self.buffer[self.at : end].decode()
        except UnicodeDecodeError as error:
            self.fail(f"the string at byte {self.at} is not UTF-8: {error}")
        self.at = end
        return text

    def fail(self, what: str) -> NoReturn:
        raise ModelCorrupt(f"{self.path}: {what}.")


def _type_name(number: int) -> str:
    from gguf.constants import GGMLQuantizationType

    try:
        return str(GGMLQuantizationType(number).name)
    except ValueError:
        return f"number {number}, which is unknown"


def _describe(value: object) -> str:
    if isinstance(value, list):
        return f"an array of {len(value)} strings"
    if isinstance(value, np.ndarray):
        return f"an array of {len(value)} numbers"
    return f"{value!r:.80}"
