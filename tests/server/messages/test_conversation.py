"""Anthropic's messages as chat messages."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from stoker.api.anthropic import InputMessage, MessagesRequest
from stoker.server.messages.conversation import chat_messages, chat_request

MESSAGES: TypeAdapter[list[InputMessage]] = TypeAdapter(list[InputMessage])


def messages(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return [message.for_template() for message in chat_messages(MESSAGES.validate_python(given))]


def test_results_come_before_what_the_user_adds() -> None:
    found = messages(
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "Wait."},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "ä"}},
                {"type": "tool_use", "id": "t2", "name": "f", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "1"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "content": [{"type": "text", "text": "2"}, {"type": "text", "text": "3"}],
                },
                {"type": "text", "text": "And?"},
            ],
        },
    )
    assert found == [
        {"role": "user", "content": "Go."},
        {
            "role": "assistant",
            "content": "Wait.",
            "tool_calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": "ä"}'},
                },
                {"id": "t2", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
            "reasoning_content": "Hm.",
        },
        {"role": "tool", "content": "1", "tool_call_id": "t1"},
        {"role": "tool", "content": "2\n3", "tool_call_id": "t2"},
        {"role": "user", "content": "And?"},
    ]


def test_neighbours_of_one_role_are_one_message() -> None:
    found = messages(
        {"role": "user", "content": "One."},
        {"role": "user", "content": "Two."},
        {"role": "assistant", "content": "Three."},
    )
    assert found == [
        {"role": "user", "content": "One.\nTwo."},
        {"role": "assistant", "content": "Three."},
    ]


def test_fields_find_their_places() -> None:
    request = MessagesRequest.model_validate(
        {
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "x"}],
            "stop_sequences": ["a"],
            "temperature": 0.5,
            "top_p": 0.25,
            "top_k": 7,
            "thinking": {"type": "disabled"},
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        }
    )
    chat = chat_request(request)
    assert (chat.token_limit, chat.stop, chat.top_k) == (9, ["a"], 7)
    assert (chat.temperature, chat.top_p) == (0.5, 0.25)
    assert (chat.tool_choice, chat.parallel_tool_calls) == ("required", False)
    assert chat.chat_template_kwargs == {"enable_thinking": False}
    assert chat.tools is not None
    assert chat.tools[0].function.parameters == {"type": "object"}
