from typing import Any

import pytest

from stoker.errors import InvalidRequest
from stoker.model.messages import check_messages

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ("hello", "messages"),
        (None, "messages"),
        ({"role": "user"}, "messages"),
        (["hello"], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "robot", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": "x"}, {"role": "user"}], "messages[1].content"),
        ([{"role": "assistant", "content": None}], "messages[0].content"),
        ([{"role": "assistant", "tool_calls": []}], "messages[0].content"),
        ([{"role": "tool", "content": None, "tool_calls": [CALL]}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        (
            [{"role": "user", "content": ["a", {"type": "image_url", "image_url": {}}]}],
            "messages[0].content[1].type",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "assistant", "tool_calls": "x"}], "messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function"),
    ],
)
def test_what_is_wrong_is_named(messages: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_messages(messages)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_parts_are_joined_or_kept() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "refusal", "refusal": "c"}]
    messages = [{"role": "user", "content": parts, "name": "n"}]
    assert check_messages(messages) == [{"role": "user", "content": "a\nb\nc", "name": "n"}]
    kept = check_messages(messages, keep_parts=True)
    assert kept[0]["content"] == [{"type": "text", "text": text} for text in "abc"]


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ('{"a": 1}', {"a": 1}),
        ({"a": 1}, {"a": 1}),
        ("[1]", "[1]"),
        ('{"a": ', '{"a": '),
        ("", ""),
    ],
)
def test_arguments_of_tool_calls_become_objects(arguments: object, seen: object) -> None:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    message = check_messages([{"role": "assistant", "content": None, "tool_calls": [call]}])[0]
    assert message["content"] == ""
    assert message["tool_calls"] == [{**call, "function": {"name": "f", "arguments": seen}}]


def test_the_callers_messages_are_left_alone() -> None:
    messages = [{"role": "assistant", "content": ["a"], "tool_calls": [CALL]}]
    check_messages(messages)
    assert messages == [{"role": "assistant", "content": ["a"], "tool_calls": [CALL]}]
    assert CALL["function"]["arguments"] == '{"a": 1}'  # type: ignore[index]
