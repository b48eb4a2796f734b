"""The router's OpenAPI description, made from its operations and their types."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from stoker import __version__
from stoker.api.anthropic_errors import AnthropicErrorResponse
from stoker.api.errors import ErrorResponse
from stoker.router.batches.objects import FileForm
from stoker.router.operations import OPERATIONS, Described, Operation

_REF = "#/components/schemas/"

_ERRORS = {
    400: "A field is wrong; `param` names it.",
    401: "No API key, or an unknown one.",
    403: "The key may not do that.",
    404: "There is no such thing.",
    409: "It cannot be done in the state that it is in.",
    413: "The body is larger than this router takes in.",
    429: "Too much is waiting, or the key's limit or budget is used up; `Retry-After` says when.",
    500: "A fault of the router or the engine.",
    502: "The engine failed, or its answer is not one.",
    503: "No engine is available, or the router is shutting down.",
    504: "The engine did not answer in time.",
}
_BYTES = {"type": "string", "format": "binary"}


@cache
def document() -> bytes:
    """The description, as JSON."""
    schemas = _Schemas(OPERATIONS)
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = schemas.describe(operation)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Stoker router",
                "version": __version__,
                "description": "Many engines behind one address.",
            },
            "paths": paths,
            "components": {"schemas": schemas.components},
        }
    )


class _Schemas:
    """The schemas of every type that operations mention, and references to them."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        asked: set[type[BaseModel]] = set()
        told: set[type[BaseModel]] = {ErrorResponse, AnthropicErrorResponse}
        structs: set[type[msgspec.Struct]] = set()
        for operation in operations:
            if operation.body is not None:
                asked.add(operation.body)
            for kind in (operation.answer, operation.chunk, *(operation.also or {}).values()):
                if not isinstance(kind, type):
                    continue
                if issubclass(kind, BaseModel):
                    told.add(kind)
                else:
                    structs.add(kind)
        pairs: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = []
        pairs += [(kind, "validation") for kind in sorted(asked, key=_name)]
        pairs += [(kind, "serialization") for kind in sorted(told, key=_name)]
        references, definitions = models_json_schema(pairs, ref_template=_REF + "{model}")
        self._references: dict[tuple[object, str], Any] = {
            (kind, mode): reference for (kind, mode), reference in references.items()
        }
        self.components: dict[str, Any] = definitions.get("$defs", {})
        ordered = sorted(structs, key=_name)
        # The two libraries' types may have the same names.
        template = f"{_REF}Stored{{name}}"
        found, components = msgspec.json.schema_components(ordered, ref_template=template)
        self._adapt(operations)
        self._references |= {
            (kind, "serialization"): schema for kind, schema in zip(ordered, found, strict=True)
        }
        self.components |= {f"Stored{name}": schema for name, schema in components.items()}

    def _adapt(self, operations: Iterable[Operation]) -> None:
        """What the types do not say: a file's bytes; and that the router adds the model's name
        where it serves one model."""
        form = self.components[FileForm.__name__]
        form["properties"]["file"] = _BYTES
        form["required"].append("file")
        for operation in operations:
            if operation.body is None:
                continue
            schema = self.components[operation.body.__name__]
            if "model" in schema.get("required", ()):
                schema["required"].remove("model")
                name = schema["properties"]["model"]
                schema["properties"]["model"] = {"anyOf": [name, {"type": "null"}]}

    def describe(self, operation: Operation) -> dict[str, Any]:
        """An operation's entry under its path."""
        described: dict[str, Any] = {
            "summary": operation.summary,
            "operationId": f"{operation.method} {operation.path}",
            "responses": {"200": self._success(operation)},
        }
        for status in operation.errors:
            schemas = [self._told(ErrorResponse)]
            if operation.error is not ErrorResponse:
                schemas.append(self._told(operation.error))  # the engine's own
            described["responses"][str(status)] = {
                "description": _ERRORS[status],
                "content": {"application/json": {"schema": {"anyOf": schemas}}},
            }
        for status, kind in (operation.also or {}).items():
            described["responses"][str(status)] = {
                "description": "Not so.",
                "content": {"application/json": {"schema": self._told(kind)}},
            }
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _placeholders(operation.path)
        ]
        for name, schema in (operation.query or {}).items():
            parameters.append({"name": name, "in": "query", "schema": schema})
        if parameters:
            described["parameters"] = parameters
        if operation.body is not None:
            described["requestBody"] = self._body(operation.body)
        return described

    def _body(self, kind: type[BaseModel]) -> dict[str, Any]:
        schema = self._references[kind, "validation"]
        media = "multipart/form-data" if kind is FileForm else "application/json"
        return {"required": True, "content": {media: {"schema": schema}}}

    def _success(self, operation: Operation) -> dict[str, Any]:
        content: dict[str, Any] = {}
        if operation.chunk is not None:
            chunk = self._told(operation.chunk)
            error = self._told(operation.error)
            data = {
                "anyOf": [
                    {"const": "[DONE]"},
                    {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": {"anyOf": [chunk, error]},
                    },
                ]
            }
            event = {"type": "object", "required": ["data"], "properties": {"data": data}}
            content["text/event-stream"] = {"schema": event}
        if not isinstance(operation.answer, str):
            content["application/json"] = {"schema": self._told(operation.answer)}
        elif operation.answer not in content:
            content[operation.answer] = {"schema": _BYTES}
        return {"description": "The answer.", "content": content}

    def _told(self, kind: Described) -> Any:
        return self._references[kind, "serialization"]


def _name(kind: type) -> str:
    return kind.__name__


def _placeholders(path: str) -> list[str]:
    return [part.strip("{}") for part in path.split("/") if part.startswith("{")]
