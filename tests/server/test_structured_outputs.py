"""Answers in a form that was asked for, as openai-python sees them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel, Field

from stoker.api.generation import GenerationFields
from stoker.errors import InvalidRequest
from stoker.server.config import ServerConfig
from stoker.server.params import sampling_params
from tests.server.conftest import RunningServer

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Describe it."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 3},
    },
    "required": ["name", "size", "tags"],
    "additionalProperties": False,
}


def ask(server: RunningServer, seed: int = 1, **fields: Any) -> list[str]:
    """The texts of the choices, which must be the same streamed and whole."""
    body: dict[str, Any] = {"model": "letters", "messages": MESSAGES, "seed": seed, **fields}
    whole = server.client.chat.completions.create(**body)
    streamed = dict.fromkeys(range(fields.get("n", 1)), "")
    for chunk in server.client.chat.completions.create(**body, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    texts = [choice.message.content or "" for choice in whole.choices]
    assert list(streamed.values()) == texts
    assert {choice.finish_reason for choice in whole.choices} == {"stop"}
    return texts


def json_schema(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **fields}}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("strict", [True, False])
def test_json_schema(server: RunningServer, seed: int, strict: bool) -> None:
    texts = ask(server, seed, n=2, response_format=json_schema(SCHEMA, strict=strict))
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)


def test_json_object(server: RunningServer) -> None:
    (text,) = ask(server, response_format={"type": "json_object"})
    assert isinstance(json.loads(text), dict)


def test_llama_cpps_places_for_schema_and_grammar(server: RunningServer) -> None:
    (text,) = ask(server, response_format={"type": "json_object", "schema": SCHEMA})
    jsonschema.validate(json.loads(text), SCHEMA)
    (text,) = ask(server, extra_body={"json_schema": SCHEMA})
    jsonschema.validate(json.loads(text), SCHEMA)
    (text,) = ask(server, extra_body={"grammar": 'root ::= ("yes" | "no") "."'})
    assert text in ("yes.", "no.")


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ({"regex": r"[a-f]{3}-\d{2}"}, r"[a-f]{3}-\d{2}"),
        ({"choice": ["red", "green", "blue"]}, "red|green|blue"),
        ({"grammar": 'root ::= "<" [a-z]+ ">"'}, "<[a-z]+>"),
        ({"grammar": 'start: "(" /[a-z]{2}/ ")"'}, r"\([a-z]{2}\)"),
        ({"json": {"type": "boolean"}}, "true|false"),
        ({"json": '{"type": "boolean"}', "regex": None, "json_object": False}, "true|false"),
        ({"json_object": True}, r"\{(?s:.*)\}"),
    ],
)
def test_vllms_structured_outputs(
    server: RunningServer, wanted: dict[str, Any], pattern: str
) -> None:
    (text,) = ask(server, extra_body={"structured_outputs": wanted})
    assert re.fullmatch(pattern, text)


def test_pydantic_models_through_parse(server: RunningServer) -> None:
    class Thing(BaseModel):
        name: Annotated[str, Field(max_length=9)]
        size: Annotated[int, Field(ge=0, lt=50)] | None
        kind: Literal["x", "y"] = "x"

    parsed = server.client.chat.completions.parse(
        model="letters", messages=MESSAGES, response_format=Thing, seed=2
    )
    assert isinstance(parsed.choices[0].message.parsed, Thing)


def test_completions_too(server: RunningServer) -> None:
    answer = server.client.completions.create(
        model="letters",
        prompt="x",
        max_tokens=200,
        seed=1,
        extra_body={"response_format": json_schema(SCHEMA)},
    )
    jsonschema.validate(json.loads(answer.choices[0].text), SCHEMA)
    pieces = server.client.completions.create(
        model="letters",
        prompt=["x", "y"],
        max_tokens=200,
        stream=True,
        extra_body={"structured_outputs": {"regex": "[ab]{5}"}},
    )
    texts = {0: "", 1: ""}
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.text
    assert all(re.fullmatch("[ab]{5}", text) for text in texts.values())


def test_together_with_a_stop_string_and_a_limit(server: RunningServer) -> None:
    answer = server.client.chat.completions.create(
        model="letters",
        messages=MESSAGES,
        stop=["-"],
        extra_body={"structured_outputs": {"regex": "abc-def"}},
    )
    assert answer.choices[0].message.content == "abc"
    answer = server.client.chat.completions.create(
        model="letters",
        messages=MESSAGES,
        max_tokens=5,
        extra_body={"structured_outputs": {"regex": "abc-def"}},
    )
    assert answer.choices[0].message.content == "abc-d"
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": json_schema({"type": "text"})},
            "response_format.json_schema.schema",
        ),
        (
            {"response_format": json_schema({"not": {}}, strict=True)},
            "response_format.json_schema.schema",
        ),
        ({"response_format": json_schema([])}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_object", "schema": {"enum": []}}},
            "response_format.schema",
        ),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "["}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "root ::= x"}}, "structured_outputs.grammar"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"json_schema": {"type": "text"}}, "json_schema"),
        ({"json_schema": {}, "grammar": 'root ::= ""'}, "json_schema"),
        ({"guided_json": {}}, "guided_json"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_refused_by_name(
    server: RunningServer, fields: dict[str, Any], param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(
            model="letters", messages=MESSAGES, stream=stream, extra_body=fields
        )
    assert caught.value.param == param


def test_a_schema_that_is_not_strict_may_have_more_than_can_be_enforced(
    server: RunningServer,
) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2, "uniqueItems": True}
    (text,) = ask(server, response_format=json_schema(schema))
    assert isinstance(json.loads(text), list)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (1.0, 1.0, 0)),
        ({"sampling_mode": "precise"}, (0.3, 0.8, 20)),
        ({"sampling_mode": "creative", "temperature": 0.5}, (0.5, 0.95, 50)),
        ({"task_type": "code_generation"}, (0.3, 0.8, 20)),
        ({"task_type": "creative_writing", "urgency": "high"}, (0.0, 1.0, 1)),
        ({"urgency": "normal", "top_k": 3}, (0.7, 0.9, 3)),
    ],
)
def test_presets_fill_what_the_request_leaves_open(
    fields: dict[str, Any], expected: tuple[float, float, int]
) -> None:
    params = sampling_params(GenerationFields(**fields), max_tokens=1, logprobs=None)
    assert (params.temperature, params.top_p, params.top_k) == expected
    chosen = sampling_params(
        GenerationFields(**fields), max_tokens=1, logprobs=None, sampling_mode="creative"
    )
    assert (chosen.temperature, chosen.top_p, chosen.top_k) == (
        expected if fields else (0.9, 0.95, 50)
    )


@pytest.mark.parametrize("field", ["tool_call_parser", "reasoning_parser", "sampling_mode"])
def test_settings_are_checked_at_start(field: str) -> None:
    with pytest.raises(InvalidRequest, match="--" + field.replace("_", "-")):
        ServerConfig(**{"served_names": ("letters",), field: "unheard of"})  # type: ignore[arg-type]
