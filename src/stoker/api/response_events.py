"""The events of a streamed response, each with its place in the sequence."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, RootModel

from stoker.api.openai import TokenLogprob
from stoker.api.response_items import OutputItem, OutputPart
from stoker.api.responses import ResponseResource


class NumberedEvent(BaseModel):
    sequence_number: int


class ResponseEvent(NumberedEvent):
    """The response as a whole: at its beginning, and at its end."""

    type: Literal[
        "response.queued",
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseResource


class ItemEvent(NumberedEvent):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class WithinItem(NumberedEvent):
    item_id: str
    output_index: int


class PartEvent(WithinItem):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: OutputPart


class TextDelta(WithinItem):
    type: Literal["response.output_text.delta"] = "response.output_text.delta"
    content_index: int
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(WithinItem):
    type: Literal["response.output_text.done"] = "response.output_text.done"
    content_index: int
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(WithinItem):
    """Under OpenAI's name; Open Responses says `response.reasoning.delta`."""

    type: Literal["response.reasoning_text.delta"] = "response.reasoning_text.delta"
    content_index: int
    delta: str


class ReasoningDone(WithinItem):
    type: Literal["response.reasoning_text.done"] = "response.reasoning_text.done"
    content_index: int
    text: str


class ArgumentsDelta(WithinItem):
    type: Literal["response.function_call_arguments.delta"] = (
        "response.function_call_arguments.delta"
    )
    delta: str


class ArgumentsDone(WithinItem):
    type: Literal["response.function_call_arguments.done"] = "response.function_call_arguments.done"
    name: str
    arguments: str


class ErrorPayload(BaseModel):
    type: str
    code: str | None
    message: str
    param: str | None


class ErrorEvent(NumberedEvent):
    """Why a response failed: OpenAI's fields on top, Open Responses' in `error`.

    openai-python raises on an event that has `error`.
    """

    type: Literal["error"] = "error"
    code: str | None
    message: str
    param: str | None
    error: ErrorPayload


Event = (
    ResponseEvent
    | ItemEvent
    | PartEvent
    | TextDelta
    | TextDone
    | ReasoningDelta
    | ReasoningDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent
)


class ResponseStreamEvent(RootModel[Event]):
    """What an event of a streamed response holds."""
