"""Tokenizers of real families against llama.cpp's, on vocabularies and texts that it ships.

`STOKER_LLAMA_CPP` names a checkout of llama.cpp; its `models/` holds `ggml-vocab-NAME.gguf`, texts
in `.inp` and the ids that each model's own tokenizer gives for them in `.out`.
"""

import os
from pathlib import Path

import pytest

from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer

pytestmark = pytest.mark.conformance
SEPARATOR = "\n__ggml_vocab_test__\n"


@pytest.fixture
def models() -> Path:
    checkout = os.environ.get("STOKER_LLAMA_CPP")
    if checkout is None:
        pytest.skip("STOKER_LLAMA_CPP does not name a checkout of llama.cpp")
    return Path(checkout) / "models"


@pytest.mark.parametrize("name", ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"])
def test_ids(models: Path, name: str) -> None:
    vocabulary = models / f"ggml-vocab-{name}.gguf"
    tokenizer = Tokenizer.load(vocabulary)
    # Line ends are part of the texts, so nothing may translate them.
    texts = vocabulary.with_suffix(".gguf.inp").read_bytes().decode().split(SEPARATOR)
    expected = vocabulary.with_suffix(".gguf.out").read_text().splitlines()
    for text, ids in zip(texts, expected, strict=False):
        assert tokenizer.encode(text, add_special_tokens=False) == list(map(int, ids.split()))
    assert min(len(texts), len(expected)) > 40


def test_chat_templates_compile(models: Path) -> None:
    sources = sorted((models / "templates").glob("*.jinja"))
    assert len(sources) > 50
    for source in sources:
        ChatTemplate(source.read_text())
