"""The scanner against Python's own JSON parser."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.api.tool_calls.json_scanner import JsonScanner

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)  # fmt: skip


def is_json(text: str) -> bool:
    """By Python's parser, which lets NaN and Infinity pass."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(VALUES, st.sampled_from([None, 0, 2]), st.booleans())
def test_takes_every_json_value_to_its_end(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    scanner = JsonScanner()
    assert scanner.take(text) == len(text)
    assert scanner.is_whole
    assert scanner.is_closed == (not isinstance(value, int | float) or isinstance(value, bool))
    assert scanner.take(", and more") == 0


@given(st.text('{}[]",:\\u0019-+.eEtrufalsn \n\x1f', max_size=12))
def test_agrees_with_pythons_parser(text: str) -> None:
    scanner = JsonScanner()
    whole = scanner.take(text) == len(text) and scanner.is_whole
    assert whole == is_json(text) or text != text.rstrip()


@given(VALUES, st.data())
def test_a_prefix_is_taken_whole(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = data.draw(st.integers(0, len(text)))
    scanner = JsonScanner()
    assert scanner.take(text[:cut]) == cut
    assert scanner.take(text[cut:]) == len(text) - cut


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("{]", 1),
        ('{"a" 1}', 5),
        ('{"a":1,}', 7),
        ("[1,]", 3),
        ("01", 1),
        ("-x", 1),
        ("1.x", 2),
        ("1e+}", 3),
        ("[1.}", 3),
        ("trux", 3),
        ('"\\x"', 2),
        ('"\\u12g"', 5),
        ('"\n"', 1),
        ("]", 0),
    ],
)
def test_stops_at_the_first_character_that_cannot_be(text: str, taken: int) -> None:
    scanner = JsonScanner()
    assert scanner.take(text) == taken
    assert not scanner.is_closed


def test_depth_costs_no_stack() -> None:
    scanner = JsonScanner()
    assert scanner.take("[" * 100_000 + "]" * 100_000) == 200_000
    assert scanner.is_closed
