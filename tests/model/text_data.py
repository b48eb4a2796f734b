"""The golden tokenizers and their expected ids; see tests/golden/text/make.py."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from stoker.model.store import CATALOGUE, DEFAULT_MODEL, Store
from stoker.model.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


@cache
def bytelevel() -> Tokenizer:
    return Tokenizer.load(GOLDEN / "bytelevel")


@cache
def sentencepiece(*, space_prefix: bool = True, **changes: Any) -> Tokenizer:
    metadata = golden("sentencepiece.json")["metadata"]
    metadata["tokenizer.ggml.add_space_prefix"] = space_prefix
    return Tokenizer.from_gguf({**metadata, **changes})


def default_model() -> Path:
    """The default model's file; skips the test where it was not pulled."""
    found = Store().find(CATALOGUE[DEFAULT_MODEL])
    if found is None:
        pytest.skip("the default model is not on this machine; make model fetches it")
    return found.path


def bytelevel_metadata(
    pre: str = "gpt-2", changes: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The golden byte-level tokenizer in GGUF's terms."""
    described = json.loads((GOLDEN / "bytelevel" / "tokenizer.json").read_text())
    vocab = dict(described["model"]["vocab"])
    vocab |= {token["content"]: token["id"] for token in described["added_tokens"]}
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {t["content"]: 3 if t["special"] else 4 for t in described["added_tokens"]}
    merges = [m if isinstance(m, str) else " ".join(m) for m in described["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [special.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": vocab["<s>"],
        "tokenizer.ggml.eos_token_id": vocab["</s>"],
        **changes,
    }
