"""Chat messages: what is accepted, and the form in which templates see them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stoker.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")

Message = dict[str, Any]


def check_messages(messages: object, *, keep_parts: bool = False) -> list[Message]:
    """Validate `messages` and bring them into the form that templates expect.

    Content given as parts becomes their text joined by newlines, or a list of
    `{"type": "text", "text": …}` with `keep_parts`; the arguments of tool calls become objects.
    Raises `InvalidRequest` with the path of the field at fault.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise InvalidRequest("messages must be a list of messages", param="messages")
    if not messages:
        raise InvalidRequest("messages is empty: give at least one message", param="messages")
    return [
        _check_message(message, f"messages[{index}]", keep_parts)
        for index, message in enumerate(messages)
    ]


def _check_message(message: object, path: str, keep_parts: bool) -> Message:
    if not isinstance(message, Mapping):
        raise InvalidRequest(
            f"{path} is {_kind(message)}, expected an object with role and content", param=path
        )
    checked: Message = dict(message)
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{path}.role is {role!r}, expected one of {', '.join(ROLES)}", param=f"{path}.role"
        )
    content = message.get("content")
    tool_calls = message.get("tool_calls")
    if content is None:
        if role != "assistant" or not tool_calls:
            raise InvalidRequest(
                f"{path}.content is missing; only an assistant message with tool_calls may go "
                "without",
                param=f"{path}.content",
            )
        checked["content"] = ""
    elif isinstance(content, str):
        checked["content"] = content
    elif isinstance(content, Sequence) and not isinstance(content, bytes):
        texts = [_part_text(part, f"{path}.content[{index}]") for index, part in enumerate(content)]
        checked["content"] = (
            [{"type": "text", "text": text} for text in texts] if keep_parts else "\n".join(texts)
        )
    else:
        raise InvalidRequest(
            f"{path}.content is {_kind(content)}, expected a string or a list of parts",
            param=f"{path}.content",
        )
    if tool_calls is not None:
        checked["tool_calls"] = _check_tool_calls(tool_calls, f"{path}.tool_calls")
    return checked


def _part_text(part: object, path: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"{path} is {_kind(part)}, expected an object with a type", param=path)
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        raise InvalidRequest(
            f"{path}.type is {kind!r}; this model reads text only", param=f"{path}.type"
        )
    text = part.get(kind)
    if not isinstance(text, str):
        raise InvalidRequest(
            f"{path}.{kind} is {_kind(text)}, expected a string", param=f"{path}.{kind}"
        )
    return text


def _check_tool_calls(tool_calls: object, path: str) -> list[Message]:
    if not isinstance(tool_calls, Sequence) or isinstance(tool_calls, str | bytes):
        raise InvalidRequest(f"{path} is {_kind(tool_calls)}, expected a list", param=path)
    checked = []
    for index, call in enumerate(tool_calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRequest(
                f"{path}[{index}].function is missing or has no name",
                param=f"{path}[{index}].function",
            )
        arguments = _arguments(function.get("arguments", {}))
        checked.append({**call, "function": {**function, "arguments": arguments}})
    return checked


def _arguments(arguments: object) -> object:
    """Templates expect an object where the API has JSON text.

    Text that is no JSON object is kept: a model may have written it so, and the conversation
    must be able to go on.
    """
    if not isinstance(arguments, str):
        return arguments
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments


def _kind(value: object) -> str:
    return "missing" if value is None else f"of type {type(value).__name__}"
