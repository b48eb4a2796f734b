"""From the fields that say what form an answer must have to the engine's parameters."""

from __future__ import annotations

import json
from typing import Any

from stoker.api.generation import GenerationFields
from stoker.api.reasoning import ReasoningMarks
from stoker.api.structured import ResponseFormat, StructuredOutputs
from stoker.engine.sampling_params import ReasoningSpan, StructuredOutputsParams
from stoker.engine.structured.source import SourceError, schema_text
from stoker.errors import InvalidRequest
from stoker.model.tokenizer import Tokenizer
from stoker.server.tool_grammar import tool_grammar
from stoker.server.tools import ToolUse


def constraint(
    request: GenerationFields,
    tokenizer: Tokenizer,
    *,
    tools: ToolUse | None = None,
    marks: ReasoningMarks | None = None,
    prompt: str = "",
) -> StructuredOutputsParams | None:
    """What the answer to `request` must match: the form it asks for, and valid calls of `tools`.

    `marks` and `prompt`: of a model that reasons in the open, so that it may do so first.

    Raises:
        InvalidRequest: the constraint, or the schema of a tool, is wrong.
    """
    form = requested_form(request)
    if tools is not None:
        form = _with_tools(form, tools, tokenizer)
    if form is not None and marks is not None and not marks.closed_by(prompt):
        begin = None if marks.opened_by(prompt) else marks.begin
        form.reasoning = ReasoningSpan(marks.end, begin)
    return form


def _with_tools(
    form: StructuredOutputsParams | None, tools: ToolUse, tokenizer: Tokenizer
) -> StructuredOutputsParams:
    otherwise = None
    if form is not None and not tools.required:
        schema = {"type": "object"} if form.json_object else form.json
        if schema is None:
            raise InvalidRequest(
                "Beside tools that may be called, only JSON can be asked for; use "
                "'response_format', or 'tool_choice': 'none'.",
                param=form.param or "structured_outputs",
            )
        try:
            otherwise = json.loads(schema_text(schema, strict=form.strict))
        except SourceError as error:
            raise form.refused(str(error)) from None
    grammar = tool_grammar(
        tools.format,
        tools.functions,
        tokenizer,
        required=tools.required,
        parallel=tools.parallel,
        otherwise=otherwise,
    )
    return StructuredOutputsParams(grammar=grammar, param="tools")


def requested_form(request: GenerationFields) -> StructuredOutputsParams | None:
    """The form a request asks for its text; None: any.

    Raises:
        InvalidRequest: a constraint that names none or several kinds.
    """
    if request.structured_outputs is not None:
        return _structured_outputs(request.structured_outputs)
    if request.grammar is not None:
        return StructuredOutputsParams(grammar=request.grammar, param="grammar")
    if request.json_schema is not None:
        return StructuredOutputsParams(json=request.json_schema, strict=False, param="json_schema")
    if request.response_format is not None:
        return _response_format(request.response_format)
    return None


def _structured_outputs(wanted: StructuredOutputs) -> StructuredOutputsParams:
    kinds: dict[str, Any] = {
        "json": wanted.json_,
        "regex": wanted.regex,
        "choice": wanted.choice,
        "grammar": wanted.grammar,
        # vLLM's clients send false for "not this one".
        "json_object": wanted.json_object or None,
    }
    return StructuredOutputsParams(**kinds)


def _response_format(wanted: ResponseFormat) -> StructuredOutputsParams | None:
    if wanted.type == "text":
        return None
    if wanted.schema_ is not None:
        return StructuredOutputsParams(
            json=wanted.schema_, strict=False, param="response_format.schema"
        )
    if wanted.json_schema is not None and wanted.type == "json_schema":
        return StructuredOutputsParams(
            json=wanted.json_schema.schema_,
            strict=bool(wanted.json_schema.strict),
            param="response_format.json_schema.schema",
        )
    return StructuredOutputsParams(json_object=True, param="response_format")
