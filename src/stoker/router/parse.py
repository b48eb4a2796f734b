"""A body that the router itself answers as a checked type, or a 400 that names the field."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from stoker.api.errors import bad_request, from_validation

ModelT = TypeVar("ModelT", bound=BaseModel)


def parse_body(body: bytes, kind: type[ModelT]) -> ModelT:
    """Check JSON against `kind`. Raises `ApiError`."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise bad_request(f"The body is not valid JSON: {error}.") from None
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise from_validation(error.errors(), data) from None
