"""A request's body as a wire type, or a 400 that names the field."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from stoker.api.errors import ApiError, bad_request, from_validation

ModelT = TypeVar("ModelT", bound=BaseModel)


async def parse_body(request: Request, kind: type[ModelT]) -> ModelT:
    """Read the whole body and check it against `kind`."""
    content_type = request.headers.get("content-type", "application/json")
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise bad_request(
            f"The body must be JSON: send 'Content-Type: application/json', not {media_type!r}."
        )
    body = await request.body()
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad_request(
            f"The body is not valid UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}."
        ) from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error, body) from None


def _explain(error: ValidationError, body: bytes) -> ApiError:
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        reason = errors[0]["msg"].removeprefix("Invalid JSON: ")
        return bad_request(f"The body is not valid JSON: {reason}.")
    try:
        parsed = json.loads(body)
    except ValueError:  # an integer of thousands of digits, which pydantic reads and json does not
        parsed = None
    return from_validation(errors, parsed)
