"""The OpenAPI description: what each route takes, answers, and may fail with.

Routes read their bodies themselves (`parse.py`), so the request types are put into the
description here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import compile_path

from stoker.api.errors import ErrorResponse

_REF = "#/components/schemas/{model}"

_MODELS: dict[str, type[BaseModel]] = {}
"""Every type that only `describe` mentions: of bodies, and of chunks."""

_ERRORS = {
    400: "A field is wrong; `param` names it.",
    401: "No API key, or an unknown one.",
    404: "No such model.",
    413: "The body is larger than this server reads.",
    429: "Too much is waiting; `Retry-After` says when to try again.",
    500: "A fault of the server.",
    503: "Loading, shutting down or stopped.",
    504: "Not finished within the server's time limit.",
}


def describe(
    request: type[BaseModel],
    response: type[BaseModel],
    *,
    chunk: type[BaseModel] | None = None,
    error: type[BaseModel] = ErrorResponse,
) -> dict[str, Any]:
    """Arguments for a route decorator: types of the body and of every answer.

    `chunk` is what each event of a stream holds, for a route that can stream; `error` the body
    of every error.
    """
    _MODELS[request.__name__] = request
    return {
        "responses": {200: success(response, chunk, error), **errors(*_ERRORS, model=error)},
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": _REF.format(model=request.__name__)}}
                },
            },
        },
    }


def success(
    response: type[BaseModel],
    chunk: type[BaseModel] | None = None,
    error: type[BaseModel] = ErrorResponse,
) -> dict[str, Any]:
    """The `responses` entry for 200: the answer whole, and with `chunk` also as a stream."""
    entry: dict[str, Any] = {"model": response, "description": "The answer."}
    if chunk is not None:
        _MODELS[chunk.__name__] = chunk
        chunk_or_error = [
            {"$ref": _REF.format(model=name)} for name in (chunk.__name__, error.__name__)
        ]
        json_data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": chunk_or_error},
        }
        data = {"anyOf": [{"const": "[DONE]"}, json_data]}
        event = {"type": "object", "required": ["data"], "properties": {"data": data}}
        entry["content"] = {"text/event-stream": {"schema": event}}
    return entry


def allowed_methods(app: FastAPI, path: str) -> str:
    """The methods that `path` has, as an `Allow` header lists them; empty for none described."""
    paths = app.openapi()["paths"]
    template = path if path in paths else next(filter(_matches(path), paths), None)
    return ", ".join(sorted(method.upper() for method in paths.get(template, ())))


def _matches(path: str) -> Callable[[str], bool]:
    """Whether a template such as `/v1/models/{name}` stands for `path`."""
    return lambda template: compile_path(template)[0].match(path) is not None


def errors(
    *statuses: int, model: type[BaseModel] = ErrorResponse
) -> dict[int | str, dict[str, Any]]:
    """The `responses` entries for error statuses."""
    return {status: {"model": model, "description": _ERRORS[status]} for status in statuses}


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """The description of `app`, made once."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    _, definitions = models_json_schema(
        [(_MODELS[name], "validation") for name in sorted(_MODELS)], ref_template=_REF
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions.get("$defs", {})
    # FastAPI's own answer to a wrong parameter; here it is a 400 like any other.
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    app.openapi_schema = document
    return document
