"""From Anthropic's messages to a chat request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from stoker.api.anthropic import (
    ClientTool,
    CountTokensRequest,
    InputMessage,
    MessagesRequest,
    MessagesToolChoice,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from stoker.api.errors import bad_request, from_validation
from stoker.api.openai import ChatCompletionRequest, ChatMessage, FunctionCall, Role, ToolCall

FIELDS = {
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "tools": "tools",
}
"""Fields of a chat request and those of a message's that they come from."""

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_request(request: CountTokensRequest) -> ChatCompletionRequest:
    """The chat request that asks the same.

    Raises:
        ApiError: chat completions cannot do what is asked; `param` is a field of theirs.
    """
    messages = chat_messages(request.messages)
    if request.system:
        messages.insert(0, ChatMessage(role="system", content=_text(request.system)))
    if not messages:
        raise bad_request("The messages hold no content.", param="messages")
    fields: dict[str, Any] = {"model": request.model, "messages": messages}
    if messages[-1].role == "assistant" and not messages[-1].tool_calls:
        fields |= {"continue_final_message": True, "add_generation_prompt": False}
    if isinstance(request, MessagesRequest):
        fields |= {
            "max_completion_tokens": request.max_tokens,
            "stop": request.stop_sequences or None,
            "stream": request.stream,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
        }
    if request.tools:
        fields["tools"] = [_tool(tool) for tool in request.tools]
    if request.tool_choice is not None:
        fields |= _tool_choice(request.tool_choice)
    variables: dict[str, Any] = {}
    if request.thinking is not None:
        variables["enable_thinking"] = request.thinking.type != "disabled"
    output = request.output_config
    if output is not None and output.effort is not None:
        variables["reasoning_effort"] = output.effort
    if output is not None and output.format is not None:
        fields["response_format"] = {
            "type": "json_schema",
            "json_schema": {"schema": output.format.schema_},
        }
    fields["chat_template_kwargs"] = variables or None
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), fields) from None


def chat_messages(messages: Iterable[InputMessage]) -> list[ChatMessage]:
    """The messages as chat completions have them: results of tools are messages of their own,
    and neighbours of the same role are one."""
    turns: list[_Turn] = []

    def turn(role: Role) -> _Turn:
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role))
        return turns[-1]

    for message in messages:
        content = message.content
        blocks = [TextBlock(type="text", text=content)] if isinstance(content, str) else content
        for block in blocks:
            match block:
                case TextBlock():
                    turn(message.role).texts.append(block.text)
                case ThinkingBlock():
                    turn("assistant").reasoning += block.thinking
                case ToolUseBlock():
                    arguments = json.dumps(block.input, ensure_ascii=False)
                    function = FunctionCall(name=block.name, arguments=arguments)
                    turn("assistant").calls.append(ToolCall(id=block.id, function=function))
                case ToolResultBlock():
                    result = _text(block.content or "")
                    turns.append(_Turn("tool", [result], tool_call_id=block.tool_use_id))
    return [turn.message() for turn in turns]


@dataclass(slots=True)
class _Turn:
    """A chat message in the making."""

    role: Role
    texts: list[str] = field(default_factory=list)
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: str | None = None

    def message(self) -> ChatMessage:
        fields: dict[str, Any] = {"role": self.role, "content": "\n".join(self.texts)}
        if self.calls:
            fields["tool_calls"] = self.calls
            fields["content"] = fields["content"] or None
        if self.reasoning:
            fields["reasoning_content"] = self.reasoning
        if self.tool_call_id is not None:
            fields["tool_call_id"] = self.tool_call_id
        return ChatMessage.model_validate(fields)


def _tool(tool: ClientTool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
        "strict": tool.strict,
    }
    return {"type": "function", "function": function}


def _tool_choice(choice: MessagesToolChoice) -> dict[str, Any]:
    wanted: str | dict[str, Any]
    if choice.type == "tool":
        if choice.name is None:
            raise bad_request(
                "'tool_choice' of type 'tool' needs the 'name' of a tool.", param="tool_choice.name"
            )
        wanted = {"type": "function", "function": {"name": choice.name}}
    else:
        wanted = _CHOICES[choice.type]
    return {
        "tool_choice": wanted,
        "parallel_tool_calls": False if choice.disable_parallel_tool_use else None,
    }


def _text(content: str | Sequence[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
