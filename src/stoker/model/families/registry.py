"""Every family, by the names that checkpoints give it. A new reader is added to `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stoker.errors import UnsupportedModel
from stoker.model.bert import ARCHITECTURES as ENCODERS
from stoker.model.families.base import Family
from stoker.model.families.gemma3 import GEMMA3
from stoker.model.families.gpt2 import GPT2
from stoker.model.families.llama import LLAMA, MISTRAL, SMOLLM3
from stoker.model.families.phi3 import PHI3
from stoker.model.families.qwen import QWEN2, QWEN3

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA3, SMOLLM3, GPT2)

_BY_HF = {name: family for family in FAMILIES for name in family.hf_architectures}
_BY_GGUF = {name: family for family in FAMILIES for name in family.gguf_architectures}


def family_of_hf(architecture: str, path: Path) -> Family:
    """The family of a name in config.json's `architectures`; `UnsupportedModel` if none."""
    return _find(_BY_HF, architecture, path)


def family_of_gguf(architecture: str, path: Path) -> Family:
    """The family of a GGUF's `general.architecture`; `UnsupportedModel` if none."""
    return _find(_BY_GGUF, architecture, path)


def _find(families: Mapping[str, Family], architecture: str, path: Path) -> Family:
    if architecture in ENCODERS:
        raise UnsupportedModel(
            f"{path}: {architecture} is an encoder, which makes embeddings only: use stoker serve "
            "and POST to /v1/embeddings."
        )
    if architecture not in families:
        raise UnsupportedModel(
            f"{path}: architecture {architecture!r:.80} is not supported; supported are: "
            f"{', '.join(families)}."
        )
    return families[architecture]
