"""The joined stream equals the text, and no piece of it ends in half a character."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.model.detokenizer import IncrementalDetokenizer
from stoker.model.tokenizer import Tokenizer
from tests.model.text_data import bytelevel, default_model, sentencepiece

each_tokenizer = pytest.mark.parametrize(
    "tokenizer",
    [
        pytest.param(bytelevel(), id="byte-level"),
        pytest.param(sentencepiece(), id="sentencepiece"),
        pytest.param(sentencepiece(space_prefix=False), id="sentencepiece without its space"),
    ],
)


def stream(
    tokenizer: Tokenizer, groups: list[list[int]], prompt: list[int], *, skip: bool
) -> list[str]:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return [*(detokenizer.append(ids) for ids in groups), detokenizer.finish()]


def groups_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[list[int]]]:
    """Steps of a generation: ids of the vocabulary, a few beyond it."""
    token = st.integers(0, tokenizer.vocab_size + 2)
    # Tokens that are a part of a character are few; drawn more often, they meet.
    whole = tokenizer.vocabulary.token_text
    parts = [i for i in range(tokenizer.vocab_size) if whole(i) is None]
    return st.lists(st.lists(token | st.sampled_from(parts), max_size=4), max_size=30)


def check_stream(tokenizer: Tokenizer, data: st.DataObject) -> None:
    groups = data.draw(groups_of(tokenizer))
    skip = data.draw(st.booleans())
    ids = [i for group in groups for i in group]
    pieces = stream(tokenizer, groups, [], skip=skip)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=skip)


@each_tokenizer
@given(data=st.data())
@settings(deadline=None)
def test_random_tokens(tokenizer: Tokenizer, data: st.DataObject) -> None:
    check_stream(tokenizer, data)


@pytest.mark.model
def test_random_tokens_of_the_default_model() -> None:
    tokenizer = Tokenizer.load(default_model())

    @given(data=st.data())
    @settings(deadline=None, database=None)
    def check(data: st.DataObject) -> None:
        check_stream(tokenizer, data)

    check()


@each_tokenizer
@given(data=st.data())
@settings(deadline=None)
def test_random_tokens_after_a_prompt(tokenizer: Tokenizer, data: st.DataObject) -> None:
    groups = data.draw(groups_of(tokenizer))
    ids = [i for group in groups for i in group]
    prompt = tokenizer.encode("the fire")
    assert "".join(stream(tokenizer, groups, prompt, skip=True)) == tokenizer.decode(
        ids, continuation=True
    )


@each_tokenizer
@given(text=st.text())
@settings(deadline=None)
def test_any_text_token_by_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(tokenizer, [[i] for i in ids], [], skip=False)
    assert "".join(pieces) == text
    assert pieces[-1] == ""


def test_half_characters_wait() -> None:
    tokenizer = bytelevel()
    detokenizer = IncrementalDetokenizer(tokenizer)
    ids = [_byte(tokenizer, byte) for byte in "😀".encode()]
    assert [detokenizer.append([i]) for i in ids] == ["", "", "", "😀"]
    assert detokenizer.append(ids[:2]) == ""
    assert detokenizer.append([_byte(tokenizer, ord("a"))]) == "\ufffda"
    assert detokenizer.append(ids[:3]) == ""
    assert detokenizer.finish() == "\ufffd"
    assert detokenizer.finish() == ""


def test_a_special_token_between_halves_is_skipped_or_breaks_them() -> None:
    tokenizer = bytelevel()
    first, second = (_byte(tokenizer, byte) for byte in "é".encode())
    assert stream(tokenizer, [[first, 3, second]], [], skip=True) == ["é", ""]
    assert stream(tokenizer, [[first, 3, second]], [], skip=False) == [
        "\ufffd<|im_end|>\ufffd",
        "",
    ]


def test_a_character_begun_by_the_prompt_is_completed() -> None:
    tokenizer = bytelevel()
    begun = [_byte(tokenizer, byte) for byte in "a😀".encode()]
    assert stream(tokenizer, [begun[3:]], begun[:3], skip=True) == ["😀", ""]
    assert stream(tokenizer, [begun[:1]], begun, skip=True) == ["a", ""]


def test_the_leading_space_is_the_encoders_only_at_the_start() -> None:
    tokenizer = sentencepiece()
    ids = tokenizer.encode("the fire", add_special_tokens=False)
    assert stream(tokenizer, [[i] for i in ids], [], skip=True)[0][0] == "t"
    assert "".join(stream(tokenizer, [ids], [1], skip=True)) == " the fire"
    space = tokenizer.token_to_id("▁")
    assert space is not None
    assert stream(tokenizer, [[space], [space], ids], [], skip=True)[:2] == ["", " "]


def _byte(tokenizer: Tokenizer, byte: int) -> int:
    """The token that is one byte."""
    return next(i for i in range(300) if tokenizer.token_bytes(i) == bytes([byte]))
