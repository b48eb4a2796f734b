"""What a person wants to know about a model before running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stoker.errors import UnsupportedModel
from stoker.model.loader import open_model
from stoker.model.spec import ModelSpec
from stoker.model.tokenizer import Tokenizer
from stoker.model.weights.base import Tensor
from stoker.model.weights.gguf import GGUFFile
from stoker.model.weights.safetensors import open_safetensors


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's spec, and what its files say beside it."""

    spec: ModelSpec
    parameters: int
    quantization: str
    """The tensor type that most parameters have."""
    tokenizer: str
    """How the vocabulary spells bytes."""
    vocab_size: int
    has_chat_template: bool


def describe(path: Path) -> ModelFacts:
    """Read a model's headers and its tokenizer, not its weights.

    Raises `ModelNotFound`, `ModelCorrupt` or `UnsupportedModel`.
    """
    model = open_model(path)
    if isinstance(model.source, GGUFFile):
        tensors = model.source.tensors
        tokenizer = Tokenizer.from_gguf(model.source.metadata)
    else:
        tensors = open_safetensors(model.source)
        tokenizer = Tokenizer.load(model.source)
    return ModelFacts(
        spec=model.spec,
        parameters=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        quantization=_quantization(tensors),
        tokenizer=str(tokenizer.encoding or "neither byte-level BPE nor SentencePiece"),
        vocab_size=tokenizer.vocab_size,
        has_chat_template=tokenizer.chat_template is not None,
    )


def quantization(path: Path) -> str:
    """The tensor type that most parameters of the model at `path` have."""
    return _quantization(GGUFFile(path).tensors if path.is_file() else open_safetensors(path))


def _quantization(tensors: Mapping[str, Tensor]) -> str:
    elements: Counter[str] = Counter()
    for name in tensors:
        try:
            tensor = tensors[name]
        except UnsupportedModel:
            continue  # of integers, such as the positions that some checkpoints list
        elements[tensor.type] += math.prod(tensor.shape)
    if not elements:
        raise UnsupportedModel("the model has no tensors of a type that is read")
    return str(elements.most_common(1)[0][0])
