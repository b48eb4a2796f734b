"""BERT-type encoders: what one is, and where its weights lie in a checkpoint.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019; pooling as
sentence-transformers describes it beside the weights (Reimers and Gurevych, EMNLP 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.families.config import HFConfig
from stoker.model.weights.files import read_json
from stoker.model.weights.safetensors import open_safetensors

ARCHITECTURES = ("BertModel", "BertForMaskedLM")
Pooling = Literal["mean", "cls"]
_LAYER_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class BertSpec:
    """An encoder with learned positions and norms after each residual."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_layers: int
    max_position: int
    norm_eps: float
    pooling: Pooling

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


@dataclass(frozen=True, slots=True)
class LoadedBert:
    """A spec and its tensors in float32, by the names they have in the checkpoint."""

    spec: BertSpec
    weights: dict[str, NDArray[np.float32]]


def is_bert(path: Path) -> bool:
    """Whether `path` is a checkpoint of a BERT-type encoder."""
    if not (path / "config.json").is_file():
        return False
    names = HFConfig.open(path).raw("architectures")
    return isinstance(names, list) and bool(names) and names[0] in ARCHITECTURES


def open_bert(directory: Path) -> LoadedBert:
    """Read a checkpoint.

    Raises `ModelCorrupt` (naming the file, and the key or tensor at fault) or `UnsupportedModel`.
    """
    config = HFConfig.open(directory)
    for key, known in (
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
    ):
        if config.string(key, known) != known:
            raise UnsupportedModel(f"{config.path}: {key!r} is {config.raw(key)!r}, not {known!r}.")
    spec = BertSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_heads=config.integer("num_attention_heads"),
        num_layers=config.integer("num_hidden_layers", limit=_LAYER_LIMIT),
        max_position=config.integer("max_position_embeddings"),
        norm_eps=config.number("layer_norm_eps", 1e-12),
        pooling=_pooling(directory),
    )
    if spec.hidden_size % spec.num_heads:
        raise ModelCorrupt(
            f"{config.path}: {spec.num_heads} heads do not divide {spec.hidden_size}."
        )
    tensors = open_safetensors(directory)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in tensors else ""
    weights = {}
    for name, shape in weight_shapes(spec).items():
        if prefix + name not in tensors:
            raise ModelCorrupt(f"{directory}: tensor {prefix + name!r} is missing.")
        tensor = tensors[prefix + name]
        if tensor.shape != shape:
            raise ModelCorrupt(
                f"{directory}: tensor {prefix + name!r} has shape {tensor.shape}, not {shape}."
            )
        weights[name] = tensor.dequantize()
    return LoadedBert(spec, weights)


def weight_shapes(spec: BertSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor and its shape; matrices are output-major."""
    hidden, middle = spec.hidden_size, spec.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (spec.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (spec.max_position, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    parts = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "attention.output.LayerNorm": (hidden,),
        "intermediate.dense": (middle, hidden),
        "output.dense": (hidden, middle),
        "output.LayerNorm": (hidden,),
    }
    for i in range(spec.num_layers):
        for part, shape in parts.items():
            shapes[f"encoder.layer.{i}.{part}.weight"] = shape
            shapes[f"encoder.layer.{i}.{part}.bias"] = shape[:1]
    return shapes


def _pooling(directory: Path) -> Pooling:
    """As sentence-transformers' files say; the mean without them."""
    path = directory / "1_Pooling" / "config.json"
    if not path.is_file():
        return "mean"
    modes = [name for name, value in read_json(path).items() if value is True]
    if "pooling_mode_mean_tokens" in modes:
        return "mean"
    if "pooling_mode_cls_token" in modes:
        return "cls"
    raise UnsupportedModel(f"{path}: the pooling must be the mean or the first token's.")
