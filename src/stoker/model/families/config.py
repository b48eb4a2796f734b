"""Typed access to a Hugging Face `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn, TypeGuard

from stoker.errors import ModelCorrupt
from stoker.model.weights.files import read_json

CONFIG_FILE = "config.json"
DIMENSION_LIMIT = 2**24
"""No size in a real configuration comes near; it bounds what a hostile one makes us allocate."""
LAYER_LIMIT = 2048
HEAD_DIM_LIMIT = 4096
NUMBER_LIMIT = 1e38


class HFConfig:
    """A JSON object of a configuration; `null` counts as absent, as Transformers has it.

    The getters raise `ModelCorrupt`, naming file and key, when a value is absent without a
    default, of another type or out of range.
    """

    def __init__(self, path: Path, values: Mapping[str, object]) -> None:
        self.path = path
        self._values = {key: value for key, value in values.items() if value is not None}

    @classmethod
    def open(cls, directory: Path) -> HFConfig:
        """The configuration of a checkpoint directory."""
        path = directory / CONFIG_FILE
        return cls(path, read_json(path))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def raw(self, key: str) -> object:
        """The value as it stands, or None."""
        return self._values.get(key)

    def integer(
        self,
        key: str,
        default: int | None = None,
        *,
        minimum: int = 1,
        limit: int = DIMENSION_LIMIT,
    ) -> int:
        """An integer from `minimum` to `limit`."""
        value = self._lookup(key, default)
        if isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= limit:
            return value
        self._wrong(key, f"an integer from {minimum} to {limit}", value)

    def number(self, key: str, default: float | None = None, *, above: float = 0) -> float:
        """A number greater than `above`, within float32."""
        value = self._lookup(key, default)
        if _is_number(value, above):
            return float(value)
        self._wrong(key, f"a finite number above {above:g}", value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._lookup(key, default)
        return value if isinstance(value, bool) else self._wrong(key, "true or false", value)

    def string(self, key: str, default: str | None = None) -> str:
        value = self._lookup(key, default)
        return value if isinstance(value, str) else self._wrong(key, "a string", value)

    def strings(self, key: str) -> list[str]:
        value = self._lookup(key, None)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        self._wrong(key, "a list of strings", value)

    def integers(self, key: str) -> list[int]:
        value = self._lookup(key, None)
        if isinstance(value, list) and all(isinstance(item, int) for item in value):
            return value
        self._wrong(key, "a list of integers", value)

    def numbers(self, key: str) -> list[float]:
        """Finite positive numbers."""
        value = self._lookup(key, None)
        if isinstance(value, list) and all(_is_number(item, 0) for item in value):
            return [float(item) for item in value]
        self._wrong(key, "a list of finite positive numbers", value)

    def section(self, key: str) -> HFConfig:
        """A nested object; empty if absent."""
        value = self._values.get(key, {})
        if isinstance(value, dict):
            return HFConfig(self.path, value)
        self._wrong(key, "an object", value)

    def extended(self, values: Mapping[str, object]) -> HFConfig:
        """This object with `values` for the keys it lacks."""
        return HFConfig(self.path, {**values, **self._values})

    def _lookup(self, key: str, default: object) -> object:
        if key in self._values:
            return self._values[key]
        if default is None:
            raise ModelCorrupt(f"{self.path}: {key!r} is missing.")
        return default

    def _wrong(self, key: str, expected: str, value: object) -> NoReturn:
        raise ModelCorrupt(f"{self.path}: {key!r} should be {expected}, not {value!r:.80}.")


def _is_number(value: object, above: float) -> TypeGuard[int | float]:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and above < value <= NUMBER_LIMIT
    )
