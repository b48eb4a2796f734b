"""Objects that have the properties which a schema lists, and no others.

JSON schema allows an object more members than it describes. Nobody who lists properties wants an
answer with others, and weak models invent them, so such objects are closed before they are
compiled. What is generated then is still valid by the schema as it was written.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TOGETHER = {"allOf", "if", "not", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"}
"""Keywords by which several schemas speak of one object."""
_ALTERNATIVES = ("anyOf", "oneOf")
_SAYS_MORE = {"additionalProperties", "patternProperties", "$ref", *_ALTERNATIVES}
"""Beside `properties`: what may give an object further members."""
_SCHEMAS_BY_NAME = ("properties", "$defs", "definitions")
_INNER = ("items", "additionalProperties")


def closed(schema: Schema) -> Schema:
    """`schema` with `additionalProperties: false` wherever it lists properties and says nothing
    of others; as it is where several of its parts describe the same object."""
    if _speaks_together(schema):
        return schema
    made = _closed(schema)
    assert isinstance(made, dict)
    return made


def _speaks_together(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_speaks_together, value))
    if not isinstance(value, dict):
        return False
    beside = {"properties", "required"} & value.keys()
    if _TOGETHER & value.keys() or ("$ref" in value and beside):
        return True
    return any(map(_speaks_together, value.values()))


def _closed(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    made = dict(value)
    for keyword in _SCHEMAS_BY_NAME:
        if isinstance(members := made.get(keyword), dict):
            made[keyword] = {name: _closed(member) for name, member in members.items()}
    for keyword in _INNER:
        if keyword in made:
            made[keyword] = _closed(made[keyword])
    # An alternative beside `properties` or `required` describes only a part of the object.
    whole = not {"properties", "required"} & made.keys()
    for keyword in ("prefixItems", *(_ALTERNATIVES if whole else ())):
        if isinstance(members := made.get(keyword), list):
            made[keyword] = [_closed(member) for member in members]
    if _lists_all(made):
        made["additionalProperties"] = False
    return made


def _lists_all(schema: Schema) -> bool:
    """Whether an object may have exactly the properties that are listed."""
    properties = schema.get("properties")
    if not isinstance(properties, dict) or _SAYS_MORE & schema.keys():
        return False
    required = schema.get("required", [])
    least = schema.get("minProperties", 0)
    return (
        isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and isinstance(least, int)
        and least <= len(properties)
    )
