"""How a request says what form its answer must have, and which tools it may call."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stoker.api.fields import WireModel
from stoker.errors import InvalidRequest

MAX_TOOLS = 512

JsonSchema = dict[str, Any]


class NamedSchema(WireModel):
    """OpenAI's `json_schema` of a response format."""

    name: str | None = None
    description: str | None = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    strict: bool | None = None
    """True refuses a schema with keywords that cannot be enforced; else they are ignored."""


class ResponseFormat(WireModel):
    """The form of the whole answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    schema_: Annotated[JsonSchema | None, Field(alias="schema")] = None
    """llama.cpp's place for the schema, beside `json_object`."""

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.schema_ is None:
            if self.json_schema is None:
                raise InvalidRequest(
                    "'response_format' of type 'json_schema' needs the field 'json_schema'.",
                    param="response_format.json_schema",
                )
            if self.json_schema.schema_ is None:
                raise InvalidRequest(
                    "'response_format.json_schema' needs the field 'schema'.",
                    param="response_format.json_schema.schema",
                )
        return self


class StructuredOutputs(WireModel):
    """vLLM's form: one of these fields says what the answer must match."""

    json_: Annotated[JsonSchema | str | bool | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Annotated[list[str], Field(min_length=1)] | None = None
    grammar: str | None = None
    """GBNF as llama.cpp reads it, or Lark as llguidance does."""
    json_object: bool | None = None


class Function(WireModel):
    """A tool that the model may call."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    description: str | None = None
    parameters: JsonSchema | None = None
    """JSON schema of the arguments; left out, there are none."""
    strict: bool | None = None


class Tool(WireModel):
    type: Literal["function"]
    function: Function


class FunctionName(WireModel):
    name: str


class NamedToolChoice(WireModel):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice
