"""OpenAI's chat completions, completions and models: what is asked and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from stoker.api.fields import MAX_LOGPROBS, WireModel
from stoker.api.generation import GenerationFields
from stoker.api.structured import MAX_TOOLS, Tool, ToolChoice
from stoker.errors import InvalidRequest

DEFAULT_COMPLETION_TOKENS = 16
"""What OpenAI's completions generate when `max_tokens` is left out."""

FinishReason = Literal["stop", "length", "tool_calls"]
Role = Literal["system", "developer", "user", "assistant", "tool"]

# Older names and other modalities: answers would be wrong if these were ignored.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "logits_processors": ([],),
    "use_beam_search": (False,),
    "truncate_prompt_tokens": (),
    "prompt_embeds": (),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
}


class ContentPart(WireModel):
    """A piece of a message; which kinds a model reads, its chat template says."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(WireModel):
    name: str
    arguments: str = ""


class ToolCall(WireModel):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(WireModel):
    """One message of a conversation, as a client sends it."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def for_template(self) -> dict[str, Any]:
        """The message as a chat template's caller expects it."""
        return self.model_dump(exclude_none=True)


class ChatFields(GenerationFields):
    """What a chat request has beside its messages."""

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = _UNSUPPORTED | {
        "functions": ([],),
        "function_call": ("auto", "none"),
        "modalities": ([], ["text"]),
        "audio": (),
        "web_search_options": (),
        "echo": (False,),
    }

    model: str
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    """`auto` where there are tools, if left out."""
    parallel_tool_calls: bool | None = None
    """False: one call per answer at most."""

    @model_validator(mode="after")
    def _check_chat(self) -> ChatFields:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs"
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "'continue_final_message' and 'add_generation_prompt' exclude each other.",
                param="continue_final_message",
            )
        return self

    @property
    def token_limit(self) -> int | None:
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens
        return self.max_tokens

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to report for each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class ChatCompletionRequest(ChatFields):
    """A conversation to be answered."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_last(self) -> ChatCompletionRequest:
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise InvalidRequest(
                "'continue_final_message' needs a last message of role 'assistant'.",
                param="continue_final_message",
            )
        return self


TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
Prompt = (
    str
    | TokenIds
    | Annotated[list[str], Field(min_length=1)]
    | Annotated[list[TokenIds], Field(min_length=1)]
)


class CompletionRequest(GenerationFields):
    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = _UNSUPPORTED | {
        "suffix": ("",),
        "best_of": (1,),
    }

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """0 is allowed with `echo`: the prompt's own log-probabilities and nothing more."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    add_special_tokens: bool | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise InvalidRequest(
                "'max_tokens' must be at least 1 unless 'echo' is true.", param="max_tokens"
            )
        return self

    @property
    def token_limit(self) -> int:
        return DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return cast("list[str | list[int]]", self.prompt)


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class RankedLogprob(BaseModel):
    logprob: float
    rank: int | None
    decoded_token: str | None


PromptLogprobs = list[dict[int, RankedLogprob] | None]
"""vLLM's form: per prompt token, token id → its log-probability; none for the first."""


class ChatLogprobs(BaseModel):
    content: list[TokenLogprob]


class AnswerFunction(BaseModel):
    name: str
    arguments: str
    """JSON text; cut off where the answer was."""


class AnswerToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: AnswerFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    annotations: list[None] = []
    """Always empty: this server cites nothing."""
    reasoning_content: str | None = None
    """What the model wrote before its answer; llama.cpp's name."""
    reasoning: str | None = None
    """The same under vLLM's name."""
    tool_calls: list[AnswerToolCall] | None = None

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_there(
        self, serialize: SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        fields: dict[str, Any] = serialize(self)
        for name in ("reasoning_content", "reasoning", "tool_calls"):
            if fields[name] is None:
                del fields[name]
        return fields


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    stop_reason: int | str | None = None
    """The stop string or token that ended the answer; null for the model's own end."""


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: PromptLogprobs | None = None


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str


class ToolCallDelta(BaseModel):
    """A call begins (with `id`, `type` and the function's name), or more of its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class ChatDelta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(BaseModel):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(BaseModel):
    """Columns, one entry per token; the first token of an echoed prompt has no probability."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None
    stop_reason: int | str | None = None
    prompt_logprobs: PromptLogprobs | None = None


class Completion(BaseModel):
    """An answer, or one chunk of it when streamed."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelMeta(BaseModel):
    """What a model is, under llama.cpp's names."""

    n_vocab: int
    n_ctx: int
    """Tokens of context here;"""
    n_ctx_train: int
    """and those it was made for."""
    n_embd: int
    n_layer: int
    size: int | None
    """Bytes of its weights in memory, where they were planned."""


class ModelCard(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "stoker"
    root: str
    max_model_len: int
    meta: ModelMeta


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ModelCard]
