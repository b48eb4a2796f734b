"""Reasoning and answer, however the text is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.api.reasoning import MARKS, ReasoningParser, marks_of_template
from stoker.api.tool_calls import Content, Reasoning

THINK = MARKS["think"]


def parse(pieces: list[str], *, is_open: bool = False) -> tuple[str, str]:
    parser = ReasoningParser(THINK, is_open=is_open)
    reasoning = content = ""
    for delta in [*(d for piece in pieces for d in parser.feed(piece)), *parser.finish()]:
        match delta:
            case Reasoning(text):
                assert text
                assert not content
                reasoning += text
            case Content(text):
                assert text
                content += text
    return reasoning, content


@pytest.mark.parametrize(
    ("text", "is_open", "expected"),
    [
        ("", False, ("", "")),
        ("answer", False, ("", "answer")),
        ("<think>why</think>answer", False, ("why", "answer")),
        ("\n<think>\nwhy\n\n</think>\n\nan answer\n", False, ("why", "an answer\n")),
        ("why\nso</think>answer", True, ("why\nso", "answer")),
        ("\n\n</think>\n\nanswer", True, ("", "answer")),
        ("never ending ", True, ("never ending", "")),
        ("<think>never", False, ("never", "")),
        ("<thin", False, ("", "<thin")),
        (" <b>answer", False, ("", " <b>answer")),
        ("answer <think>x</think>", False, ("", "answer <think>x</think>")),
        ("a </thin b</think>c</think>d", True, ("a </thin b", "c</think>d")),
        ("  two  lines ", False, ("", "  two  lines ")),
    ],
)
def test_splits(text: str, is_open: bool, expected: tuple[str, str]) -> None:
    assert parse([text], is_open=is_open) == expected
    assert parse(list(text), is_open=is_open) == expected


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<th", "nk>", " ", "\n", "a", "é"]), max_size=8
    ),
    st.booleans(),
    st.sets(st.integers(1, 60)),
)
def test_cuts_make_no_difference(parts: list[str], is_open: bool, where: set[int]) -> None:
    text = "".join(parts)
    ends = [0, *sorted(place for place in where if place < len(text)), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
    assert parse(pieces, is_open=is_open) == parse([text], is_open=is_open)


def test_nothing_is_held_back_without_need() -> None:
    parser = ReasoningParser(THINK)
    assert parser.feed("<think>\n") == []
    assert parser.is_reasoning
    assert parser.feed("I wonder") == [Reasoning("I wonder")]
    assert parser.feed(". </") == [Reasoning(".")]
    assert parser.feed("b>") == [Reasoning(" </b>")]
    assert parser.feed("\n</think>") == []
    assert not parser.is_reasoning
    assert parser.feed("\n\n") == []
    assert parser.feed("Yes ") == [Content("Yes ")]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n", False),
        ("assistant\n<think>\n\n</think>\n\n", False),
        ("user: what is <think>?\nassistant:", False),
    ],
)
def test_the_prompt_may_open_the_reasoning(prompt: str, is_open: bool) -> None:
    assert THINK.opened_by(prompt) == is_open


def test_the_template_tells_the_marks() -> None:
    assert marks_of_template("{% if '</think>' in content %}") is MARKS["think"]
    assert marks_of_template("[THINK]{{ x }}[/THINK]") is MARKS["think_brackets"]
    assert marks_of_template("{{ messages }}") is None
    assert marks_of_template(None) is None
