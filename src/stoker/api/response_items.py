"""The items that a response is made from and made of."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from stoker.api.fields import WireModel
from stoker.api.openai import TokenLogprob

Phase = Literal["commentary", "final_answer"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


# ── what a client sends ─────────────────────────────────────────────────────────────────────


class TextPart(WireModel):
    type: Literal["input_text", "output_text", "text"]
    text: str


class RefusalPart(WireModel):
    type: Literal["refusal"]
    refusal: str


def _part_kind(part: object) -> str | None:
    kind = part.get("type") if isinstance(part, dict) else getattr(part, "type", None)
    if kind in ("input_text", "output_text", "text"):
        return "text"
    return kind if isinstance(kind, str) else None


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[RefusalPart, Tag("refusal")],
    Discriminator(
        _part_kind,
        custom_error_type="unknown_part",
        custom_error_message="this model reads text only: send parts of type 'input_text', "
        "'output_text' or 'refusal'",
    ),
]
Content = str | list[Part]


class MessageItem(WireModel):
    type: Literal["message"] = "message"
    id: str | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    status: str | None = None
    phase: Phase | None = None


class FunctionCallItem(WireModel):
    """A call that the model asked for."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    arguments: str
    status: str | None = None


class FunctionCallOutputItem(WireModel):
    """What the client's function returned."""

    type: Literal["function_call_output"]
    id: str | None = None
    call_id: Annotated[str, Field(min_length=1)]
    output: Content
    status: str | None = None


class ReasoningText(WireModel):
    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(WireModel):
    type: Literal["reasoning"]
    id: str | None = None
    summary: list[ReasoningText]
    content: list[ReasoningText] | None = None
    status: str | None = None


def _item_kind(item: object) -> str | None:
    if isinstance(item, dict):
        kind = item.get("type") or "message"
        return kind if isinstance(kind, str) else None
    return getattr(item, "type", None)


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(
        _item_kind,
        custom_error_type="unknown_item",
        custom_error_message="unknown kind of item: this server takes 'message', 'function_call', "
        "'function_call_output' and 'reasoning'",
    ),
]


# ── what the server answers ─────────────────────────────────────────────────────────────────


class OutputText(BaseModel):
    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = []
    logprobs: list[TokenLogprob] = []


class OutputMessage(BaseModel):
    type: Literal["message"] = "message"
    id: str
    status: ItemStatus
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class OutputReasoningText(BaseModel):
    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(BaseModel):
    """What the model wrote before its answer."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    status: ItemStatus
    summary: list[ReasoningText] = []
    content: list[OutputReasoningText]


class OutputFunctionCall(BaseModel):
    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall
OutputPart = OutputText | OutputReasoningText
