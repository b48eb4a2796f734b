"""From a path to a model that can be run: its spec and its weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import ModelCorrupt, ModelNotFound, UnsupportedModel
from stoker.model.families.base import Family
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.families.registry import family_of_gguf, family_of_hf
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.model.weights.canonical import CanonicalWeights, Source
from stoker.model.weights.gguf import GGUFFile
from stoker.model.weights.safetensors import open_safetensors


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model whose headers have been read and checked; tensors are read when asked for."""

    spec: ModelSpec
    weights: Weights
    source: GGUFFile | Path
    """The GGUF file (its metadata hold the tokenizer too), or the checkpoint's directory."""


def open_model(path: str | os.PathLike[str], max_model_len: int | None = None) -> LoadedModel:
    """Open a `.gguf` file, or a directory with `config.json` and safetensors.

    `max_model_len` is the longest context that will be used (None: the model's own); LongRoPE
    models have other frequencies for short contexts.

    Raises `ModelNotFound`, `ModelCorrupt` (naming the file, and the key or tensor at fault) or
    `UnsupportedModel` (an architecture or feature that cannot be run).
    """
    path = Path(path)
    if path.is_dir():
        return _open_directory(path, max_model_len)
    if not path.exists():
        raise ModelNotFound(f"{path}: no such file or directory.")
    return _open_gguf(path, max_model_len)


def _open_gguf(path: Path, max_model_len: int | None) -> LoadedModel:
    file = GGUFFile(path)
    metadata = ArchMetadata(file)
    family = family_of_gguf(metadata.architecture, path)
    if file.metadata.integer("split.count", 1) > 1:
        raise UnsupportedModel(
            f"{path}: one part of a split GGUF; join the parts (llama-gguf-split --merge)."
        )
    spec = family.gguf_spec(metadata, max_model_len)
    check_spec(spec, path)
    weights = CanonicalWeights(path, file.tensors, family.gguf_sources(spec, metadata))
    weights.check(spec)
    return LoadedModel(spec, weights, file)


def _open_directory(directory: Path, max_model_len: int | None) -> LoadedModel:
    config = HFConfig.open(directory)
    architectures = config.strings("architectures")
    if not architectures:
        raise ModelCorrupt(f"{config.path}: 'architectures' is empty.")
    family = family_of_hf(architectures[0], config.path)
    quantization = config.section("quantization_config")
    if "quant_method" in quantization:
        raise UnsupportedModel(
            f"{config.path}: weights quantized with {quantization.string('quant_method')!r} are "
            "not read; use the original checkpoint or a GGUF file."
        )
    spec = family.hf_spec(config, max_model_len)
    check_spec(spec, config.path)
    tensors = open_safetensors(directory)
    sources = _with_prefix(family, family.hf_sources(spec), tensors)
    weights = CanonicalWeights(directory, tensors, sources)
    weights.check(spec)
    return LoadedModel(spec, weights, directory)


def _with_prefix(
    family: Family, sources: dict[str, Source], tensors: Iterable[str]
) -> dict[str, Source]:
    """Names as this checkpoint writes them: some leave out the outer module's name."""
    names = set(tensors)
    fitting = [p for p in family.hf_prefixes if f"{p}{family.hf_embedding}" in names]
    prefix = fitting[0] if fitting else family.hf_prefixes[0]
    return {
        name: source
        if name == "lm_head.weight"
        else Source(f"{prefix}{source.name}", source.transforms)
        for name, source in sources.items()
    }


def check_spec(spec: ModelSpec, path: Path) -> None:
    """Raise `ModelCorrupt` for numbers that contradict each other."""
    contradictions = {
        f"{spec.num_heads} query heads cannot share {spec.num_kv_heads} key-value heads evenly": (
            spec.num_heads % spec.num_kv_heads != 0
        ),
        f"a context of {spec.max_position} tokens": spec.max_position >= 2**31,
        f"{spec.num_heads} heads do not divide a hidden size of {spec.hidden_size}": (
            spec.architecture == "gpt2" and spec.q_size != spec.hidden_size
        ),
    }
    for rope in spec.ropes:
        wrong = not 2 <= rope.dim <= spec.head_dim or rope.dim % 2 != 0
        contradictions[f"a rotation of {rope.dim} of {spec.head_dim} elements"] = wrong
        unusable = not all(0 < frequency <= 2 * math.pi for frequency in rope.inv_freq)
        contradictions["rotary frequencies outside (0, 2π] radians per position"] = unusable
    for what, wrong in contradictions.items():
        if wrong:
            raise ModelCorrupt(f"{path}: {what}.")
