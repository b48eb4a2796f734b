"""Errors as OpenAI clients read them: one body, one mapping from exceptions, for server and router.

openai-python chooses its exception class by status and reads `error.message`, `error.type`,
`error.param` and `error.code` from the body. It retries 408, 409, 429 and every 5xx unless
`x-should-retry: false`, after the seconds that `retry-after` names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from stoker.errors import (
    EngineOverloaded,
    EngineStopped,
    InvalidRequest,
    ModelNotFound,
    StokerError,
)

INVALID_REQUEST = "invalid_request_error"
RETRY_WHEN_LOADING = 2.0
"""Seconds a client should wait for an engine that is loading or draining."""


class ErrorInfo(BaseModel):
    """What went wrong, in OpenAI's four fields."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every response that is not a success."""

    error: ErrorInfo


class ApiError(StokerError):
    """An error that already knows how it looks over HTTP."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.info = ErrorInfo(message=message, type=kind, param=param, code=code)
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The JSON body; also the payload of an error event in the middle of a stream."""
        return ErrorResponse(error=self.info).model_dump_json().encode()


_BELOW_V1 = frozenset(
    ("/chat/completions", "/completions", "/embeddings", "/models", "/responses", "/messages")
)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def unauthorized() -> ApiError:
    return ApiError(
        401,
        "A valid API key is required. Send it as 'Authorization: Bearer KEY'.",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def model_not_found(name: str, served: Sequence[str]) -> ApiError:
    return ApiError(
        404,
        f"The model {name!r} is not served here. Served: {', '.join(served)}.",
        param="model",
        code="model_not_found",
    )


def route_not_found(method: str, path: str) -> ApiError:
    hint = ""
    if path in _BELOW_V1:
        hint = f" Did you mean /v1{path}? An OpenAI client's base URL ends with /v1."
    return ApiError(404, f"No such route: {method} {path}.{hint}", code="unknown_url")


def method_not_allowed(method: str, path: str, allow: str | None) -> ApiError:
    hint = f" Allowed: {allow}." if allow else ""
    return ApiError(
        405,
        f"{method} is not allowed on {path}.{hint}",
        code="method_not_allowed",
        headers={"allow": allow} if allow else None,
    )


def body_too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The request body is larger than {limit} bytes, the limit of this server "
        "(--max-body-bytes).",
        code="request_too_large",
        headers={"connection": "close"},
    )


def unavailable(message: str, *, code: str, retry_after: float = RETRY_WHEN_LOADING) -> ApiError:
    """503: loading, draining or not answering."""
    return ApiError(
        503, message, kind="service_unavailable", code=code, headers=_retry_after(retry_after)
    )


def timed_out(seconds: float) -> ApiError:
    return ApiError(
        504,
        f"The request was not finished within {seconds:g} s, the time limit of this server.",
        kind="timeout_error",
        code="request_timeout",
        headers={"x-should-retry": "false"},
    )


def internal_error(request_id: str) -> ApiError:
    """500 for a fault of ours. The cause is in the log, not in the answer."""
    return ApiError(
        500,
        f"The server failed on this request; its log names the cause under {request_id}.",
        kind="server_error",
        code="internal_error",
        headers={"x-should-retry": "false"},
    )


def from_exception(error: StokerError) -> ApiError:
    """How an error of Stoker's tree looks over HTTP."""
    match error:
        case ApiError():
            return error
        case InvalidRequest():
            return bad_request(str(error), param=error.param, code=error.code)
        case EngineOverloaded():
            return ApiError(
                429,
                str(error),
                kind="rate_limit_error",
                code="engine_overloaded",
                headers=_retry_after(error.retry_after),
            )
        case EngineStopped():
            return unavailable(str(error), code="engine_stopped")
        case ModelNotFound():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case _:
            return ApiError(
                500, str(error), kind="server_error", headers={"x-should-retry": "false"}
            )


def from_validation(errors: Iterable[Mapping[str, Any]], body: object) -> ApiError:
    """One error for what pydantic found wrong with `body`, the parsed JSON it was given.

    Each entry of `errors` is as `pydantic.ValidationError.errors()` gives it. A value that fits
    no branch of a union has an entry per branch; the one that got furthest into the body says
    most about what the caller meant.
    """
    found = [(_path(entry, body), entry) for entry in errors]
    first = found[0][0][:1]
    path, entry = max(
        (pair for pair in found if pair[0][:1] == first), key=lambda pair: len(pair[0])
    )
    cause = entry.get("ctx", {}).get("error")
    if isinstance(cause, InvalidRequest):
        return from_exception(cause)
    param = _dotted(path)
    message = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "missing":
        message = "this field is required"
    where = f"'{param}': " if param else ""
    return bad_request(f"{where}{message}", param=param or None)


def _path(entry: Mapping[str, Any], body: object) -> tuple[str | int, ...]:
    """Where in `body` an entry points: without the names of models and union branches that
    pydantic puts into a location."""
    location: Sequence[str | int] = entry["loc"]
    if location[:1] in (("query",), ("path",)):  # FastAPI's names for where a parameter stood
        return tuple(location[1:])
    path: list[str | int] = []
    for part in location:
        inside = (isinstance(body, dict) and part in body) or (
            isinstance(body, list) and isinstance(part, int) and part < len(body)
        )
        if inside:
            body = body[part]  # type: ignore[index]
        elif part != location[-1] or entry["type"] != "missing":
            continue
        path.append(part)
    return tuple(path)


def _dotted(path: Sequence[str | int]) -> str:
    """`messages[0].role`, the way OpenAI writes a field's place."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _retry_after(seconds: float) -> dict[str, str]:
    whole = max(1, math.ceil(seconds))
    return {"retry-after": str(whole), "retry-after-ms": str(math.ceil(seconds * 1000))}
