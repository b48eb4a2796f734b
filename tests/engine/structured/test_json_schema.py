"""Random answers under a JSON schema, judged by the jsonschema package."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.structured.drivers import accepts, byte_backend, compiled, random_text

BACKEND = byte_backend()

Schema = dict[str, Any]


def _object(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


SCHEMAS: list[Schema] = [
    {},
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "integer", "minimum": -3, "maximum": 12},
    {"type": "integer", "exclusiveMinimum": 0, "multipleOf": 7},
    {"type": "number"},
    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    {"type": "string"},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{2}-\\d+$"},
    {"type": "string", "pattern": "b"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"type": ["string", "null"], "maxLength": 4},
    {"const": {"a": [1, "two", None]}},
    {"enum": ["red", "green", 3, None, [1]]},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "null"}], "items": False},
    {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}, "maxItems": 3},
    {"type": "object"},
    _object(a={"type": "integer"}),
    {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    {
        "type": "object",
        "patternProperties": {"^x_": {"type": "null"}},
        "additionalProperties": False,
    },
    {"type": "object", "minProperties": 1, "additionalProperties": {"type": "null"}},
    _object(a=_object(b=_object(c={"enum": [1, 2]}))),
    _object(
        name={"type": "string", "maxLength": 9}, tags={"type": "array", "items": {"const": "t"}}
    ),
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]},
    {"oneOf": [_object(kind={"const": "a"}, x={"type": "null"}), _object(kind={"const": "b"})]},
    {"allOf": [_object(a={"type": "integer"}), _object(b={"type": "boolean"})]},
    {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}},
    {
        "definitions": {
            "tree": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "children": {"type": "array", "items": {"$ref": "#/definitions/tree"}},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/definitions/tree",
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_random_answers_are_valid(schema: Schema) -> None:
    grammar = compiled(BACKEND, json=schema)
    answers = [random_text(grammar, seed) for seed in range(12)]
    finished = [answer for answer in answers if answer is not None]
    assert finished
    for answer in finished:
        jsonschema.validate(json.loads(answer), schema)


def _schemas() -> st.SearchStrategy[Schema]:
    bounds = st.integers(-50, 50)
    leaf = st.one_of(
        st.sampled_from(
            [{"type": "null"}, {"type": "boolean"}, {"type": "string", "maxLength": 6}]
        ),
        st.builds(
            lambda a, b: {"type": "integer", "minimum": min(a, b), "maximum": max(a, b)},
            bounds,
            bounds,
        ),
        st.lists(st.sampled_from(["x", "yy", 1, 2.5, None, True, "é\n"]), min_size=1).map(
            lambda values: {"enum": values}
        ),
    )
    names = st.sampled_from(["a", "b", "key with space", 'quo"te', "ü"])

    def extend(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
        objects = st.builds(
            lambda properties, optional: {
                "type": "object",
                "properties": properties,
                "required": [name for name in properties if name not in optional],
                "additionalProperties": False,
            },
            st.dictionaries(names, inner, max_size=3),
            st.sets(names, max_size=2),
        )
        arrays = st.builds(
            lambda items, least, more: {
                "type": "array",
                "items": items,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.integers(0, 2),
            st.integers(0, 2),
        )
        unions = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
        return st.one_of(objects, arrays, unions)

    return st.recursive(leaf, extend, max_leaves=6)


@settings(max_examples=80, deadline=None)
@given(_schemas(), st.integers(0, 9999))
def test_random_answers_are_valid_for_any_schema(schema: Schema, seed: int) -> None:
    answer = random_text(compiled(BACKEND, json=schema), seed, limit=600)
    if answer is not None:
        jsonschema.validate(json.loads(answer), schema)


@settings(max_examples=60, deadline=None)
@given(_schemas(), st.data())
def test_every_valid_value_can_be_written(schema: Schema, data: st.DataObject) -> None:
    """Values drawn from the schema itself, in its order of properties, compact and indented."""
    value = data.draw(_values(schema))
    jsonschema.validate(value, schema)
    grammar = compiled(BACKEND, json=schema)
    for text in (
        json.dumps(value, separators=(",", ":"), ensure_ascii=False),
        json.dumps(value, ensure_ascii=False),
        json.dumps(value, indent=2, ensure_ascii=False),
    ):
        assert accepts(grammar, text), text


def _values(schema: Schema) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(_values, schema["anyOf"]))
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "string":
            return st.text("abc é☃😀", max_size=schema["maxLength"])
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "array":
            return st.lists(
                _values(schema["items"]),
                min_size=schema["minItems"],
                max_size=schema["maxItems"],
            )
        case _:
            properties = {name: _values(value) for name, value in schema["properties"].items()}
            required = {name: properties[name] for name in schema["required"]}
            optional = {name: properties[name] for name in properties if name not in required}
            return st.fixed_dictionaries(required, optional=optional).map(
                lambda drawn: {name: drawn[name] for name in properties if name in drawn}
            )


def test_white_space_is_bounded() -> None:
    grammar = compiled(BACKEND, json=_object(a={"type": "integer"}))
    assert accepts(grammar, '{\r\n\t\t"a": 1\n}')
    assert not accepts(grammar, '{\n\n"a": 1}')
    assert not accepts(grammar, '{"a":' + " " * 9 + "1}")


def test_a_schema_may_come_as_text_or_as_a_boolean() -> None:
    assert accepts(compiled(BACKEND, json='{"type": "null"}'), "null")
    assert accepts(compiled(BACKEND, json=True), "[1]")


def test_strict_refuses_what_cannot_be_enforced() -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True}
    with pytest.raises(ValueError, match="uniqueItems"):
        compiled(BACKEND, json=schema)
    assert accepts(compiled(BACKEND, json=schema, strict=False), "[1, 1]")


A = {"type": "object", "properties": {"a": {"type": "null"}}}
"""An object that lists one property."""


@pytest.mark.parametrize(
    ("schema", "inside"),
    [
        (A, "{}"),
        ({"anyOf": [A, {"type": "null"}]}, "{}"),
        ({"$defs": {"a": A}, "$ref": "#/$defs/a"}, "{}"),
        ({"type": "array", "items": A}, "[{}]"),
        ({"type": "array", "prefixItems": [A]}, "[{}]"),
        ({"type": "object", "additionalProperties": A}, '{"x": {}}'),
        ({"type": "object", "properties": {"x": A}}, '{"x": {}}'),
    ],
)
def test_an_object_has_no_properties_beside_those_it_lists(schema: Schema, inside: str) -> None:
    grammar = compiled(BACKEND, json=schema)
    assert accepts(grammar, inside.replace("{}", '{"a": null}'))
    assert not accepts(grammar, inside.replace("{}", '{"a": null, "b": null}'))


@pytest.mark.parametrize(
    "schema",
    [
        {**A, "additionalProperties": True},
        {**A, "additionalProperties": {"type": "null"}},
        {**A, "patternProperties": {"^b$": {"type": "null"}}},
        {**A, "required": ["b"]},
        {"allOf": [A, {"type": "object", "properties": {"b": {"type": "null"}}}]},
        {**A, "anyOf": [{"properties": {"b": {"type": "null"}}}]},
        {"type": "object", "required": ["b"], "anyOf": [A]},
        {"$defs": {"a": A}, "$ref": "#/$defs/a", "required": ["b"]},
    ],
)
def test_what_says_more_than_its_list_stays_open(schema: Schema) -> None:
    jsonschema.validate({"a": None, "b": None}, schema)
    assert accepts(compiled(BACKEND, json=schema, strict=False), '{"a": null, "b": null}')


def test_json_object_is_any_object() -> None:
    grammar = compiled(BACKEND, json_object=True)
    assert accepts(grammar, '{"a": [1, {"b": null}]}')
    assert not accepts(grammar, "[]")
