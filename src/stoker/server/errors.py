"""Errors in the form that the clients of a route read."""

from __future__ import annotations

from starlette.types import Scope

from stoker.api.anthropic_errors import anthropic_error
from stoker.api.errors import ApiError


def is_anthropic(path: str) -> bool:
    """Whether Anthropic's clients ask this path."""
    return path.startswith("/v1/messages")


def error_body(error: ApiError, scope: Scope) -> bytes:
    """The JSON body for an error of the request that `scope` describes."""
    if is_anthropic(scope["path"]):
        return anthropic_error(error, scope["state"]["request_id"]).encode()
    return error.body()
