"""A checkpoint's tensors under canonical names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import ModelCorrupt
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Tensor
from stoker.model.weights.names import weight_shapes
from stoker.model.weights.transforms import Transform


@dataclass(frozen=True, slots=True)
class Source:
    """Where a canonical tensor comes from: a tensor of the file, and what is done to it."""

    name: str
    transforms: tuple[Transform, ...] = ()

    def file_shape(self, canonical: tuple[int, ...]) -> tuple[int, ...]:
        """The shape the file's tensor must have for the result to have shape `canonical`."""
        for transform in reversed(self.transforms):
            canonical = transform.input_shape(canonical)
        return canonical


class CanonicalWeights:
    """The `Weights` of a checkpoint; each tensor is transformed when asked for."""

    def __init__(
        self, path: Path, tensors: Mapping[str, Tensor], sources: Mapping[str, Source]
    ) -> None:
        self._path = path
        self._tensors = tensors
        self._sources = sources

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        tensor = self._tensors[source.name]
        for transform in source.transforms:
            tensor = transform(tensor)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)

    def check(self, spec: ModelSpec) -> None:
        """Raise `ModelCorrupt` unless every weight that `spec` implies is there, in its shape.

        Reads headers only.
        """
        for name, shape in weight_shapes(spec).items():
            source = self._sources[name]
            if source.name not in self._tensors:
                raise ModelCorrupt(
                    f"{self._path}: tensor {source.name!r} is missing; a {spec.architecture} "
                    f"model of {spec.num_layers} layers needs it (as {name!r})."
                )
            found, expected = self._tensors[source.name].shape, source.file_shape(shape)
            if found != expected:
                raise ModelCorrupt(
                    f"{self._path}: tensor {source.name!r} has shape {list(found)}; the "
                    f"configuration implies {list(expected)}."
                )
