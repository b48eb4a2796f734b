"""The fields of every request that generates text: sampling, its presets, and the text's form."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from stoker.api.fields import SamplingFields
from stoker.api.sampling_presets import SamplingMode, Urgency
from stoker.api.structured import ResponseFormat, StructuredOutputs
from stoker.errors import InvalidRequest


class GenerationFields(SamplingFields):
    """Sampling, presets, and constraints on the text."""

    sampling_mode: SamplingMode | None = None
    """Temperature, top_p and top_k by name, where the request does not give them."""
    task_type: Annotated[str, Field(max_length=64)] | None = None
    """Chooses a sampling mode by what the text is for: `code_generation`, `creative_writing` …"""
    urgency: Urgency | None = None
    """`high` chooses the deterministic mode."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    grammar: str | None = None
    """llama.cpp's place for a GBNF grammar."""
    json_schema: dict[str, Any] | None = None
    """llama.cpp's place for a JSON schema."""

    @model_validator(mode="after")
    def _check_one_form(self) -> GenerationFields:
        given = [
            name
            for name in ("response_format", "structured_outputs", "grammar", "json_schema")
            if (value := getattr(self, name)) is not None
            and not (isinstance(value, ResponseFormat) and value.type == "text")
        ]
        if len(given) > 1:
            raise InvalidRequest(
                f"'{given[0]}' and '{given[1]}' exclude each other.", param=given[1]
            )
        return self
