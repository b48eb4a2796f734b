"""Items as chat messages."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from stoker.api.response_items import InputItem
from stoker.server.responses.conversation import chat_messages, input_items

ITEMS: TypeAdapter[list[InputItem]] = TypeAdapter(list[InputItem])


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    return [message.for_template() for message in chat_messages(ITEMS.validate_python(items))]


def test_one_turn_of_the_model_is_one_message() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    thought = {"type": "reasoning_text", "text": "Hm."}
    found = messages(
        {"role": "user", "content": "Go."},
        {"type": "reasoning", "summary": [], "content": [thought]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {"role": "assistant", "content": "Done."},
    )
    function = {"name": "f", "arguments": "{}"}
    assert found == [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "Wait.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "content": "1", "tool_call_id": "c1"},
        {"role": "tool", "content": "2", "tool_call_id": "c2"},
        {"role": "assistant", "content": "Done."},
    ]


def test_messages_of_the_model_stay_apart() -> None:
    found = messages(
        {"role": "assistant", "content": "One.", "phase": "commentary"},
        {"role": "assistant", "content": "Two.", "phase": "final_answer"},
    )
    assert [message["content"] for message in found] == ["One.", "Two."]


@pytest.mark.parametrize("role", ["system", "developer", "user"])
def test_roles_are_kept(role: str) -> None:
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    (message,) = messages({"role": role, "content": parts})
    assert message["role"] == role
    assert [part["text"] for part in message["content"]] == ["a", "b"]


def test_a_refusal_is_text() -> None:
    (message,) = messages({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]})
    assert message == {"role": "assistant", "content": "No."}


def test_items_get_ids_and_parts() -> None:
    (text,) = input_items("Hello")
    assert text.type == "message"
    assert text.id is not None
    assert text.id.startswith("msg_")
    (kept,) = input_items(ITEMS.validate_python([{"id": "x", "role": "user", "content": "Hello"}]))
    assert kept.id == "x"
    for item in (text, kept):
        assert item.model_dump()["content"] == [{"type": "input_text", "text": "Hello"}]
