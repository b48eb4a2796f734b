"""OpenAI's Responses: what is asked for and what is answered, as Open Responses defines them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, model_validator

from stoker.api.fields import MAX_LOGPROBS, WireModel
from stoker.api.generation import GenerationFields
from stoker.api.response_items import InputItem, OutputItem
from stoker.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"
"""What `include` says to have the log-probabilities of the answer's tokens."""

Status = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]


class TextFormat(WireModel):
    """Free text, any JSON object, or JSON that fits a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    def for_chat(self) -> dict[str, Any]:
        """The same as chat completions' `response_format`."""
        if self.type != "json_schema":
            return {"type": self.type}
        schema = self.model_dump(
            by_alias=True, include={"name", "description", "schema_", "strict"}, exclude_none=True
        )
        return {"type": self.type, "json_schema": schema}


class TextConfig(WireModel):
    format: TextFormat = TextFormat(type="text")
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(WireModel):
    effort: str | None = None
    summary: str | None = None


class FunctionTool(WireModel):
    """A function that the model may ask the client to call."""

    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def for_chat(self) -> dict[str, Any]:
        """The same as an entry of chat completions' `tools`."""
        return {
            "type": "function",
            "function": self.model_dump(exclude={"type"}, exclude_none=True),
        }


class NamedTool(WireModel):
    type: Literal["function"]
    name: str


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class ResponsesRequest(GenerationFields):
    """A response to make. vLLM's sampling fields are understood beside OpenAI's."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {"conversation": (), "prompt": ()}

    model: str
    input: str | list[InputItem]
    instructions: str | None = None
    """A system message before everything else; not carried over to the next response."""
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    store: bool | None = None
    """Keep the response so that it can be fetched and followed up; true by default."""
    background: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> ResponsesRequest:
        if self.truncation == "auto":
            raise InvalidRequest(
                "'truncation' must be 'disabled': this server never drops a part of the input.",
                param="truncation",
                code="unsupported_parameter",
            )
        if self.n not in (None, 1):
            raise InvalidRequest("'n' must be 1: a response holds one answer.", param="n")
        if self.prompt_logprobs is not None:
            raise InvalidRequest(
                "'prompt_logprobs' has no place in a response; ask /v1/completions for them.",
                param="prompt_logprobs",
            )
        if self.background and self.store is False:
            raise InvalidRequest(
                "'background' needs 'store': the response could not be fetched otherwise.",
                param="background",
            )
        return self

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to report for each token; None for no log-probabilities."""
        if LOGPROBS in (self.include or ()):
            return self.top_logprobs or 0
        return self.top_logprobs or None


class InputTokensDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int = 0
    """Tokens charged for being kept: none, keeping prefixes costs nothing here."""


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int = 0


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


FailureCode = Literal["server_error", "invalid_prompt"]
"""Of OpenAI's; the error event says more."""


class ResponseError(BaseModel):
    code: FailureCode
    message: str


class ResponseResource(BaseModel):
    """A response: the request's settings, how far it is, and the items it brought."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None = None
    status: Status
    error: ResponseError | None = None
    incomplete_details: IncompleteDetails | None = None
    model: str
    instructions: str | None
    previous_response_id: str | None
    output: list[OutputItem] = []
    usage: ResponseUsage | None = None
    max_output_tokens: int | None
    max_tool_calls: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    parallel_tool_calls: bool
    tools: list[FunctionTool]
    tool_choice: ToolChoice
    text: dict[str, Any]
    """`format`, and `verbosity` where it was given."""
    reasoning: Reasoning
    truncation: Literal["disabled"] = "disabled"
    store: bool
    background: bool
    service_tier: Literal["default"] = "default"
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItemList(BaseModel):
    object: Literal["list"] = "list"
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


class InputTokens(BaseModel):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
