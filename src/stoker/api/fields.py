"""What every request that generates text has in common: strict JSON, and sampling fields."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stoker.errors import InvalidRequest

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 64


class WireModel(BaseModel):
    """A JSON object from a client: no coercion, no non-finite number, unknown fields allowed.

    Clients of OpenAI send many fields that change nothing here (`user`, `store`, `metadata`),
    so an unknown field is no error. Those that would change the answer and are not implemented
    are listed in `unsupported` and refused.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    unsupported: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Field → the values that ask for nothing; null always does."""

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> WireModel:
        for name, value in (self.model_extra or {}).items():
            if name in self.unsupported and value is not None:
                if value in self.unsupported[name]:
                    continue
                raise InvalidRequest(
                    f"'{name}' is not supported by this server; leave it out.",
                    param=name,
                    code="unsupported_parameter",
                )
        return self


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(max_length=MAX_STOPS),
]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenIdText = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]


class StreamOptions(WireModel):
    include_usage: bool | None = None
    """Send one more chunk at the end with the request's token counts and no choices."""
    continuous_usage_stats: bool | None = None
    """Put the counts so far into every chunk."""


class SamplingFields(WireModel):
    """OpenAI's sampling fields and vLLM's extras; null means the default."""

    model: str | None = None
    """A served name; left out, the one model that is served."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopStrings | None = None
    stop_token_ids: list[TokenId] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    logit_bias: dict[TokenIdText, Bias] | None = None
    allowed_token_ids: list[TokenId] | None = None
    bad_words: list[Annotated[str, Field(min_length=1)]] | None = None
    skip_special_tokens: bool | None = None
    priority: Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None = None
    """Lower goes first; 0 by default."""
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _check_stream(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "'stream_options' is only allowed when 'stream' is true.", param="stream_options"
            )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest(
                "'prompt_logprobs' cannot be streamed; leave 'stream' out.", param="prompt_logprobs"
            )
        return self

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.include_usage and self.stream_options.continuous_usage_stats)  # type: ignore[union-attr]
