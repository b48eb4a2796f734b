"""Each named rule cuts text where its model's own tokenizer does."""

import pytest

from stoker.model.tokenizer.pretokenizers import PRE_TOKENIZERS, pre_tokenizer
from stoker.model.tokenizer.vocabulary import byte_alphabet

BYTES = byte_alphabet()
TEXT = "I'LL don't  say12345 x,y!\n\n  Été"


def words(name: str, text: str) -> list[str]:
    pieces = pre_tokenizer(name).build().pre_tokenize_str(text)
    return [bytes(BYTES[char] for char in piece).decode() for piece, _ in pieces]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", "I|'|LL| don|'t| | say|12345| x|,|y|!|\n\n | Été"),
        ("smollm", "I|'|LL| don|'t| | say|1|2|3|4|5| x|,|y|!|\n\n | Été"),
        ("llama-bpe", "I|'LL| don|'t| | say|123|45| x|,y|!\n\n| | Été"),
        ("dbrx", "I|'LL| don|'t| | say|123|45| x|,y|!\n\n| | Été"),
        ("qwen2", "I|'LL| don|'t| | say|1|2|3|4|5| x|,y|!\n\n| | Été"),
        ("tekken", "I|'LL| don|'t| | say|1|2|3|4|5| x|,y|!\n\n| | Été"),
        ("gpt-4o", "I'LL| don't| | say|123|45| x|,y|!\n\n| | Été"),
    ],
)
def test_words(name: str, expected: str) -> None:
    assert words(name, TEXT) == expected.split("|")


def test_case_changes_cut_words_in_tekken_only() -> None:
    assert words("tekken", "HelloWorldABC") == ["Hello", "World", "ABC"]
    assert words("llama-bpe", "HelloWorldABC") == ["HelloWorldABC"]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_nothing_is_lost(name: str) -> None:
    text = "".join(map(chr, [*range(1, 0x250), 0x661, 0x4E00, 0x1F600, 0x301, 0x3000])) * 2
    assert "".join(words(name, text)) == text
