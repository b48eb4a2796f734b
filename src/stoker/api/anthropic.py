"""Anthropic's Messages: what is asked for and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from stoker.api.fields import WireModel
from stoker.api.structured import MAX_TOOLS, JsonSchema

# ── what a client sends ─────────────────────────────────────────────────────────────────────


class TextBlock(WireModel):
    type: Literal["text"]
    text: str


class ThinkingBlock(WireModel):
    """What the model wrote before its answer."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(WireModel):
    """Reasoning that only its maker can read; left out."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(WireModel):
    """A call that the model asked for."""

    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    input: dict[str, Any]


class ToolResultBlock(WireModel):
    """What the client's tool returned."""

    type: Literal["tool_result"]
    tool_use_id: Annotated[str, Field(min_length=1)]
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None


def _kind(block: object) -> str | None:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return kind if isinstance(kind, str) else None


Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinkingBlock, Tag("redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ToolResultBlock, Tag("tool_result")],
    Discriminator(
        _kind,
        custom_error_type="unknown_block",
        custom_error_message="this model reads text only: send blocks of type 'text', "
        "'thinking', 'tool_use' or 'tool_result'",
    ),
]


class InputMessage(WireModel):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class ClientTool(WireModel):
    """A tool that the client runs; tools that a server would run are refused."""

    type: Literal["custom"] | None = None
    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    input_schema: JsonSchema
    strict: bool | None = None


class MessagesToolChoice(WireModel):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    """Of the tool to use, for `tool`."""
    disable_parallel_tool_use: bool | None = None


class Thinking(WireModel):
    """Whether a model that reasons in the open is to do so, where its chat template can say it."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputFormat(WireModel):
    type: Literal["json_schema"]
    schema_: Annotated[JsonSchema, Field(alias="schema")]


class OutputConfig(WireModel):
    format: OutputFormat | None = None
    effort: str | None = None


class CountTokensRequest(WireModel):
    """A conversation, to be counted."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {"mcp_servers": ([],), "container": ()}

    model: str
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ClientTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(CountTokensRequest):
    """A conversation, to be answered."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    """An answer that fills the context before ends there, and says so."""
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=64)] | None
    ) = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


# ── what the server answers ─────────────────────────────────────────────────────────────────

StopReason = Literal[
    "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"
]


class AnswerText(BaseModel):
    type: Literal["text"] = "text"
    text: str
    citations: None = None


class AnswerThinking(BaseModel):
    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""
    """Empty: this server takes back any reasoning."""


class DirectCaller(BaseModel):
    type: Literal["direct"] = "direct"


class AnswerToolUse(BaseModel):
    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: dict[str, Any]
    caller: DirectCaller = DirectCaller()


AnswerBlock = AnswerText | AnswerThinking | AnswerToolUse


class MessagesUsage(BaseModel):
    input_tokens: int
    """Without those from the prefix cache."""
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0
    """Tokens charged for being kept: none, keeping prefixes costs nothing here."""
    cache_creation: None = None
    inference_geo: None = None
    output_tokens_details: None = None
    server_tool_use: None = None
    service_tier: Literal["standard"] = "standard"


class AnthropicMessage(BaseModel):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: list[AnswerBlock]
    model: str
    stop_reason: StopReason | None
    stop_sequence: str | None
    stop_details: None = None
    container: None = None
    usage: MessagesUsage


class TokenCount(BaseModel):
    input_tokens: int
