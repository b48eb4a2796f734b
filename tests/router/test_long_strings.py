"""Long strings that are cut out of a body before it is parsed: nothing else may change by it."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import InvalidRequest
from stoker.router import long_strings, request
from stoker.router.long_strings import WORTH_BYTES, shorten
from stoker.router.request import Features, Request, read_features

LONG = "word " * (WORTH_BYTES // 5 + 1)

texts = st.text(st.sampled_from('"\\ab\n'), max_size=40) | st.just("x" * 5000)


def read(body: bytes) -> Features:
    return read_features(Request(b"POST", b"/v1/chat/completions", [], body))


def read_as_it_is(body: bytes) -> Features:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request, "WORTH_BYTES", len(body) + 1)
        return read(body)


@given(st.lists(texts, max_size=6), st.lists(st.tuples(texts, texts), max_size=3), st.booleans())
def test_what_routing_reads_is_the_same(
    contents: list[str], others: list[tuple[str, str]], stream: bool
) -> None:
    body = json.dumps(
        {
            **{f"x{key}": value for key, value in others},
            "model": "m",
            "messages": [{"role": "user", "content": content} for content in contents],
            "tools": [{"type": "function", "function": {"description": "\\" * 70 + LONG}}],
            "system": LONG,
            "stream": stream,
            "stream_options": {"include_usage": True, "x": LONG},
            "max_tokens": 7,
        }
    ).encode()
    assert msgspec.to_builtins(read(body)) == msgspec.to_builtins(read_as_it_is(body))


@given(st.lists(texts, max_size=8))
def test_a_text_put_together_again_is_the_text(strings: list[str]) -> None:
    text = json.dumps({"first": "y" * 5000, "strings": strings}).encode()
    shortened = shorten(text)
    assert shortened is not None
    assert len(shortened.text) <= len(text) - 4900
    assert shortened.whole(msgspec.Raw(shortened.text)) == text
    kept = json.loads(shortened.text)["strings"]
    assert all(own == cut or len(own) > 4000 for own, cut in zip(strings, kept, strict=True))


@pytest.mark.parametrize("model", [LONG, "m"])
@pytest.mark.parametrize("field", ["model", "user", "previous_response_id"])
def test_a_long_string_in_a_field_that_counts_is_read(model: str, field: str) -> None:
    found = read(json.dumps({"messages": LONG, "model": model, field: LONG}).encode())
    assert getattr(found, field, LONG) == LONG
    assert found.model == (LONG if field == "model" else model)
    assert found.stored == (field == "previous_response_id")


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages": "%b", "model": 7}',
        b'{"messages": "%b", "max_tokens": "many"}',
        b'{"messages": "%b", "n": ]',
        b'{"messages": "%b',
        b'["%b"]',
        b'"%b"',
        b'{"messages": "%b\\"}',
    ],
)
def test_a_mistake_is_told_as_without(body: bytes) -> None:
    body = body % LONG.encode()
    with pytest.raises(InvalidRequest) as shortened:
        read(body)
    with pytest.raises(InvalidRequest) as whole:
        read_as_it_is(body)
    assert str(shortened.value) == str(whole.value)
    assert shortened.value.param == whole.value.param


def test_a_text_that_does_not_suit_is_soon_left_to_the_parser() -> None:
    looked = 0

    class Text(bytes):
        def find(self, *where: object) -> int:
            nonlocal looked
            looked += 1
            return bytes.find(self, *where)  # type: ignore[arg-type]

    for text in (b'"a",' * 100_000, b'"' + b'\\"' * 100_000 + b'"', b'"' + b"\\" * 100_000 + b'"'):
        assert shorten(Text(text)) is None
        assert looked <= 2 * long_strings._STEPS + 1
        looked = 0
