"""Tokenizers from GGUF metadata, against SentencePiece and Transformers."""

from typing import Any

import numpy as np
import pytest

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.tokenizer import Tokenizer
from stoker.model.tokenizer.gguf import merges_by_score
from stoker.model.tokenizer.vocabulary import TokenEncoding
from tests.model.text_data import (
    bytelevel,
    bytelevel_metadata,
    default_model,
    golden,
    sentencepiece,
)

SPM_CASES = [
    (case["add_space_prefix"], text, ids)
    for case in golden("sentencepiece.json")["cases"]
    for text, ids in case["ids"]
]


@pytest.mark.parametrize(("space_prefix", "text", "ids"), SPM_CASES)
def test_sentencepiece_ids_and_back(space_prefix: bool, text: str, ids: list[int]) -> None:
    tokenizer = sentencepiece(space_prefix=space_prefix)
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("case", golden("bytelevel.json"), ids=lambda case: repr(case["text"]))
def test_bytelevel_ids_and_back(case: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_gguf(bytelevel_metadata())
    assert tokenizer.encode(case["text"]) == case["ids"]
    assert tokenizer.decode(case["ids"], skip_special_tokens=False) == case["text"]


@pytest.mark.model
def test_default_model() -> None:
    tokenizer = Tokenizer.load(default_model())
    for text, ids in golden("smollm2.json"):
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert tokenizer.vocab_size == 49152
    assert tokenizer.encoding is TokenEncoding.BYTE_LEVEL
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_ids == {0, 2}
    assert tokenizer.special_ids == frozenset(range(17))
    assert tokenizer.chat_template is not None


def test_merges_are_every_cut_of_a_piece_best_piece_first() -> None:
    tokens = ["<unk>", "a", "b", "ab", "aba", "ba", "<0x61>"]
    scores = [0.0, -10.0, -11.0, -1.0, -3.0, -2.0, 0.0]
    types = [2, 1, 1, 1, 1, 1, 6]
    assert merges_by_score(tokens, scores, types) == [
        ("a", "b"),
        ("b", "a"),
        ("a", "ba"),
        ("ab", "a"),
    ]


def test_sentencepiece_puts_a_space_after_each_special_token() -> None:
    tokenizer = sentencepiece()
    end = tokenizer.token_to_id("<end_of_turn>")
    fire = tokenizer.encode("fire", add_special_tokens=False)
    assert tokenizer.encode("fire<end_of_turn>fire") == [1, *fire, end, *fire]


def test_bos_and_eos_as_the_file_says() -> None:
    ids = sentencepiece().encode("fire", add_special_tokens=False)
    assert sentencepiece().encode("fire") == [1, *ids]
    both = sentencepiece(**{"tokenizer.ggml.add_eos_token": True})
    assert both.encode("fire") == [1, *ids, 2]
    neither = sentencepiece(**{"tokenizer.ggml.add_bos_token": False})
    assert neither.encode("fire") == ids
    assert both.encode("") == [1, 2]


def test_bytelevel_adds_bos_only_where_the_rule_or_the_file_says() -> None:
    assert Tokenizer.from_gguf(bytelevel_metadata()).encode("fire")[0] != 0
    assert Tokenizer.from_gguf(bytelevel_metadata("llama-bpe")).encode("fire")[0] == 0
    asked = bytelevel_metadata(changes={"tokenizer.ggml.add_bos_token": True})
    assert Tokenizer.from_gguf(asked).encode("fire")[0] == 0


def test_tokens_that_end_an_answer() -> None:
    tokenizer = sentencepiece()
    turn = tokenizer.token_to_id("<end_of_turn>")
    assert tokenizer.eos_token_ids == {2, turn}  # named by the file; known by its name
    assert tokenizer.eos_token_id == 2
    metadata = bytelevel_metadata(changes={"tokenizer.ggml.eot_token_id": 2})
    assert Tokenizer.from_gguf(metadata).eos_token_ids == {1, 2, 3}


def test_phi3_swallows_space_after_its_marks() -> None:
    phi3 = sentencepiece(**{"general.architecture": "phi3"})
    turn = phi3.token_to_id("<end_of_turn>")
    fire = phi3.encode("fire", add_special_tokens=False)
    assert phi3.encode("<end_of_turn>\n fire", add_special_tokens=False) == [turn, *fire]
    spaced = phi3.encode("<s> fire", add_special_tokens=False)
    assert spaced == sentencepiece().encode("<s> fire", add_special_tokens=False) != [1, *fire]


def test_a_user_defined_token_is_text() -> None:
    tokenizer = Tokenizer.from_gguf(bytelevel_metadata())
    place = tokenizer.token_to_id("<fire place>")
    assert place is not None
    assert place not in tokenizer.special_ids
    assert tokenizer.decode([3, place]) == "<fire place>"


def test_qwen2_composes_characters_first() -> None:
    qwen2 = Tokenizer.from_gguf(bytelevel_metadata("qwen2"))
    assert qwen2.encode("e\u0301te") == qwen2.encode("\u00e9te")
    other = Tokenizer.from_gguf(bytelevel_metadata("gpt-2"))
    assert other.encode("e\u0301te") != other.encode("\u00e9te")


def test_a_whole_word_that_is_a_token_is_taken_whatever_the_merges() -> None:
    metadata = bytelevel_metadata("llama-bpe")
    metadata["tokenizer.ggml.tokens"] = [*metadata["tokenizer.ggml.tokens"], "zqzq"]
    metadata["tokenizer.ggml.token_type"] = [*metadata["tokenizer.ggml.token_type"], 1]
    last = len(metadata["tokenizer.ggml.tokens"]) - 1
    assert Tokenizer.from_gguf(metadata).encode("zqzq", add_special_tokens=False) == [last]
    metadata["tokenizer.ggml.pre"] = "dbrx"
    assert last not in Tokenizer.from_gguf(metadata).encode("zqzq")


def test_numpy_arrays_are_as_good_as_lists() -> None:
    metadata = golden("sentencepiece.json")["metadata"]
    for key, dtype in (("scores", np.float32), ("token_type", np.int32)):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"], dtype)
    ids = Tokenizer.from_gguf(metadata).encode("the engine's fire")
    assert ids == sentencepiece().encode("the engine's fire")


def test_chat_templates_by_name() -> None:
    templates = {"tokenizer.chat_template": "plain", "tokenizer.chat_template.tool_use": "tools"}
    tokenizer = sentencepiece(**templates)
    assert tokenizer.chat_template == "plain"
    assert tokenizer.chat_templates == {"default": "plain", "tool_use": "tools"}
    assert sentencepiece().chat_template is None


def test_same_vocabulary_as_the_directory() -> None:
    ours, theirs = Tokenizer.from_gguf(bytelevel_metadata()), bytelevel()
    assert ours.vocab_size == theirs.vocab_size
    for index in range(ours.vocab_size):
        assert ours.token_bytes(index) == theirs.token_bytes(index)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokenizer.ggml.model": "t5"}, UnsupportedModel, "'t5'.*'gpt2'"),
        ({"tokenizer.ggml.model": None}, UnsupportedModel, "None"),
        ({"tokenizer.ggml.pre": "no-such-rule"}, UnsupportedModel, "'no-such-rule'.*llama-bpe"),
        ({"tokenizer.ggml.tokens": None}, ModelCorrupt, r"no tokenizer\.ggml\.tokens"),
        ({"tokenizer.ggml.tokens": "abc"}, ModelCorrupt, "expected an array"),
        ({"tokenizer.ggml.tokens": ["a", 3]}, ModelCorrupt, r"tokens\[1\].*expected a string"),
        ({"tokenizer.ggml.token_type": [1]}, ModelCorrupt, "1 token types"),
        ({"tokenizer.ggml.merges": ["qq zz"]}, ModelCorrupt, "cannot be built"),
        ({"tokenizer.ggml.merges": ["nospace"]}, ModelCorrupt, "cannot be built"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, ModelCorrupt, "eos_token_id.*1000000"),
        ({"tokenizer.ggml.bos_token_id": "0"}, ModelCorrupt, "bos_token_id"),
    ],
)
def test_bad_metadata(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Tokenizer.from_gguf(bytelevel_metadata(changes=changes))


def test_scores_must_match_the_tokens() -> None:
    with pytest.raises(ModelCorrupt, match="2 scores"):
        sentencepiece(**{"tokenizer.ggml.scores": (0.0, 1.0)})
