"""Errors as Anthropic's clients read them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from stoker.api.errors import ApiError

AnthropicErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "overloaded_error",
    "api_error",
]

_TYPES: dict[int, AnthropicErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class AnthropicErrorInfo(BaseModel):
    type: AnthropicErrorType
    message: str


class AnthropicErrorResponse(BaseModel):
    """The body of every response that is not a success."""

    type: Literal["error"] = "error"
    error: AnthropicErrorInfo
    request_id: str


def anthropic_error(error: ApiError, request_id: str) -> str:
    """The JSON body for an error; also what an error event holds."""
    kind = _TYPES.get(error.status)
    if kind is None:
        kind = "invalid_request_error" if error.status < 500 else "api_error"
    info = AnthropicErrorInfo(type=kind, message=error.info.message)
    return AnthropicErrorResponse(error=info, request_id=request_id).model_dump_json()
