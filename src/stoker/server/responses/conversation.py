"""From the items of a response's input to a chat request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from stoker.api.errors import from_validation
from stoker.api.generation import GenerationFields
from stoker.api.openai import ChatCompletionRequest, ChatMessage, FunctionCall, ToolCall
from stoker.api.openai import ContentPart as ChatPart
from stoker.api.response_items import (
    Content,
    FunctionCallItem,
    FunctionCallOutputItem,
    InputItem,
    MessageItem,
    OutputItem,
    ReasoningItem,
    RefusalPart,
    TextPart,
)
from stoker.api.responses import NamedTool, ResponsesRequest
from stoker.server.generation import new_id

FIELDS = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "tools": "tools",
}
"""Fields of a chat request and those of a response that they come from."""

_ID_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "reasoning": "rs_",
}
_InputItem: TypeAdapter[InputItem] = TypeAdapter(InputItem)


def input_items(given: str | Sequence[InputItem]) -> list[InputItem]:
    """The input as items in full: with ids, and content as parts."""
    if isinstance(given, str):
        given = [MessageItem(role="user", content=given)]
    return [_in_full(item) for item in given]


def _in_full(item: InputItem) -> InputItem:
    changes: dict[str, Any] = {"status": item.status or "completed"}
    if item.id is None:
        changes["id"] = new_id(_ID_PREFIXES[item.type])
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        changes["content"] = [
            TextPart(
                type="output_text" if item.role == "assistant" else "input_text",
                text=item.content,
            )
        ]
    return item.model_copy(update=changes)


def as_input(output: Iterable[OutputItem]) -> list[InputItem]:
    """What a response brought, as the input of the one that follows it."""
    return [_InputItem.validate_python(item.model_dump()) for item in output]


def chat_request(request: ResponsesRequest, items: Sequence[InputItem]) -> ChatCompletionRequest:
    """The chat request that asks the same, for `items` as the conversation.

    Raises:
        ApiError: chat completions cannot do what is asked; `param` is a field of theirs.
    """
    messages = chat_messages(items)
    if request.instructions is not None:
        messages.insert(0, ChatMessage(role="system", content=request.instructions))
    fields: dict[str, Any] = {
        name: getattr(request, name)
        for name in GenerationFields.model_fields
        if name != "stream_options"
    }
    fields |= {
        "messages": messages,
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": request.num_logprobs is not None,
        "top_logprobs": request.num_logprobs,
        "parallel_tool_calls": request.parallel_tool_calls,
    }
    if request.tools:
        fields["tools"] = [tool.for_chat() for tool in request.tools]
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = choice
    if request.text is not None:
        fields["response_format"] = request.text.format.for_chat()
    variables = dict(request.chat_template_kwargs or {})
    if request.reasoning is not None and request.reasoning.effort is not None:
        variables.setdefault("reasoning_effort", request.reasoning.effort)
    fields["chat_template_kwargs"] = variables or None
    try:
        return ChatCompletionRequest.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False), fields) from None


def chat_messages(items: Iterable[InputItem]) -> list[ChatMessage]:
    """Items as messages: what belongs to one turn of the model becomes one message."""
    conversation = _Conversation()
    for item in items:
        match item:
            case MessageItem(role="assistant"):
                conversation.answer(_chat_content(item.content))
            case ReasoningItem():
                conversation.reason("".join(part.text for part in item.content or ()))
            case FunctionCallItem():
                function = FunctionCall(name=item.name, arguments=item.arguments)
                conversation.call(ToolCall(id=item.call_id, function=function))
            case MessageItem():
                content = _chat_content(item.content)
                conversation.add(ChatMessage(role=item.role, content=content))
            case FunctionCallOutputItem():
                content = _chat_content(item.output)
                conversation.add(
                    ChatMessage(role="tool", content=content, tool_call_id=item.call_id)
                )
    return conversation.messages()


class _Conversation:
    """Messages, and the model's turn at the end as far as it is known."""

    def __init__(self) -> None:
        self._messages: list[ChatMessage] = []
        self._reasoning = ""
        self._content: str | list[ChatPart] | None = None
        self._calls: list[ToolCall] = []

    def reason(self, text: str) -> None:
        if self._answered:
            self._end_turn()
        self._reasoning += text

    def answer(self, content: str | list[ChatPart]) -> None:
        if self._answered:
            self._end_turn()
        self._content = content

    def call(self, call: ToolCall) -> None:
        self._calls.append(call)

    def add(self, message: ChatMessage) -> None:
        self._end_turn()
        self._messages.append(message)

    def messages(self) -> list[ChatMessage]:
        self._end_turn()
        return self._messages

    @property
    def _answered(self) -> bool:
        return self._content is not None or bool(self._calls)

    def _end_turn(self) -> None:
        if self._answered:
            turn: dict[str, Any] = {"role": "assistant", "content": self._content}
            if self._calls:
                turn["tool_calls"] = self._calls
            if self._reasoning:
                turn["reasoning_content"] = self._reasoning
            self._messages.append(ChatMessage.model_validate(turn))
        self._reasoning, self._content, self._calls = "", None, []


def _chat_content(content: Content) -> str | list[ChatPart]:
    if isinstance(content, str):
        return content
    texts = [part.refusal if isinstance(part, RefusalPart) else part.text for part in content]
    if len(texts) == 1:
        return texts[0]
    return [ChatPart(type="text", text=text) for text in texts]
