"""How one request uses tools: what its prompt says of them, and how calls are read and forced."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stoker.api.openai import ChatCompletionRequest, ChatMessage
from stoker.api.structured import Function, NamedToolChoice
from stoker.api.tool_calls import FORMATS, ToolCallParser, ToolFormat, format_of_template
from stoker.errors import InvalidRequest
from stoker.model.template import ChatTemplate

_INSTRUCTIONS = (
    "You can call functions. Each is described here as JSON:\n{tools}\n"
    "To call one, answer with nothing but a JSON object of its name and arguments, like "
    '{{"name": "…", "arguments": {{…}}}}; to call several, with a list of such objects. '
    "The results will be given to you. Where no call is needed, answer in words."
)


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a request, and how they may be used."""

    format: ToolFormat
    functions: tuple[Function, ...]
    """Those that may be called."""
    required: bool
    """The answer must be a call."""
    parallel: bool
    """It may be several."""

    def parser(self) -> ToolCallParser:
        """A parser for one answer."""
        return self.format.parser([function.name for function in self.functions])


def tool_use(request: ChatCompletionRequest, tool_format: ToolFormat) -> ToolUse | None:
    """The tools that the answer to `request` may call; None if it may call none.

    Raises:
        InvalidRequest: `tool_choice` asks for what `tools` does not have.
    """
    choice = request.tool_choice
    functions = tuple(tool.function for tool in request.tools or ())
    if choice == "none" or (choice in (None, "auto") and not functions):
        return None
    if not functions:
        raise InvalidRequest("'tool_choice' needs 'tools' to choose from.", param="tool_choice")
    names = [function.name for function in functions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequest(
                f"Two tools have the name {name!r}.", param=f"tools[{index}].function.name"
            )
    parallel = request.parallel_tool_calls is not False
    if isinstance(choice, NamedToolChoice):
        wanted = choice.function.name
        functions = tuple(function for function in functions if function.name == wanted)
        if not functions:
            raise InvalidRequest(
                f"'tool_choice' names {wanted!r}, but 'tools' has {', '.join(names)}.",
                param="tool_choice",
            )
        parallel = False
    return ToolUse(tool_format, functions, choice not in (None, "auto"), parallel)


def format_for(template: ChatTemplate, name: str | None) -> ToolFormat:
    """The form of calls by its `name`, or (None) the one the chat template teaches."""
    return format_of_template(template.text) if name is None else FORMATS[name]


def knows_tools(template: ChatTemplate) -> bool:
    """Whether the template has a place for tools and their results."""
    return "tools" in template.text


def describe_tools(request: ChatCompletionRequest) -> list[dict[str, Any]]:
    """The tools as chat templates expect them."""
    return [tool.model_dump(exclude_none=True) for tool in request.tools or ()]


def in_words(messages: Sequence[ChatMessage], tools: list[dict[str, Any]]) -> list[ChatMessage]:
    """The conversation for a template that has no place for tools.

    The tools are described in the system message, calls become text in the form that was asked
    for, and results are told by the user.
    """
    told: list[ChatMessage] = []
    names: dict[str | None, str] = {}
    for message in messages:
        if message.role == "assistant" and message.tool_calls:
            calls = []
            for call in message.tool_calls:
                names[call.id] = call.function.name
                calls.append(
                    {"name": call.function.name, "arguments": _parsed(call.function.arguments)}
                )
            text = json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
            told.append(ChatMessage(role="assistant", content=text))
        elif message.role == "tool":
            name = message.name or names.get(message.tool_call_id, "the function")
            told.append(ChatMessage(role="user", content=f"Result of {name}: {_text(message)}"))
        else:
            told.append(message)
    if tools:
        described = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
        instructions = _INSTRUCTIONS.format(tools=described)
        if told[0].role in ("system", "developer"):
            instructions = f"{_text(told[0])}\n\n{instructions}"
            del told[0]
        told.insert(0, ChatMessage(role="system", content=instructions))
    return told


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _text(message: ChatMessage) -> str:
    if isinstance(message.content, list):
        return "\n".join(part.text or "" for part in message.content)
    return message.content or ""
