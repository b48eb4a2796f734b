"""Files and batches as clients see them, and what clients may ask for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from stoker.api.batch_lines import BatchEndpoint

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
OUTPUT_PURPOSE = "batch_output"

_DAY = 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": _DAY}
_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_LONGEST_WINDOW_DAYS = 30

T = TypeVar("T")


class File(msgspec.Struct, frozen=True):
    """A file's card."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    status: str = "processed"
    status_details: None = None
    object: str = "file"


class Deleted(msgspec.Struct, frozen=True):
    id: str
    deleted: bool = True
    object: str = "file"


class Counts(msgspec.Struct, frozen=True):
    """How many of a batch's requests were answered with 2xx, how many otherwise or not at all."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(msgspec.Struct, frozen=True):
    cached_tokens: int


class OutputTokensDetails(msgspec.Struct, frozen=True):
    reasoning_tokens: int = 0


class BatchUsage(msgspec.Struct, frozen=True):
    """The tokens of the requests answered so far, as the engines counted them."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(msgspec.Struct, frozen=True):
    """A batch and how far it is."""

    id: str
    status: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    request_counts: Counts
    usage: BatchUsage
    model: str | None
    metadata: dict[str, str] | None
    errors: dict[str, Any] | None
    output_file_id: str | None
    error_file_id: str | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    object: str = "batch"


class Page(msgspec.Struct, frozen=True):
    """A part of a list, as OpenAI's clients page through it."""

    data: list[Any]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: str = "list"


def page(found: list[Any], limit: int) -> Page:
    """At most `limit` of `found`, which holds one more when there are more."""
    shown = found[:limit]
    first, last = (shown[0].id, shown[-1].id) if shown else (None, None)
    return Page(shown, first, last, has_more=len(found) > limit)


class ExpiresAfter(BaseModel):
    """When a file is deleted by itself."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=30 * _DAY)]


def window_seconds(window: str) -> int:
    """`24h` in seconds. Raises `ValueError` when it is no such time."""
    found = _WINDOW.fullmatch(window)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_WINDOW_DAYS * _DAY:
        raise ValueError(
            "expected a number of seconds, minutes, hours or days such as 30m, 24h or 7d, at most "
            f"{_LONGEST_WINDOW_DAYS}d"
        )
    return seconds


def _check_window(window: str) -> str:
    window_seconds(window)
    return window


_Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Text = Annotated[str, StringConstraints(max_length=512)]


class BatchRequest(BaseModel):
    """The body of `POST /v1/batches`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: BatchEndpoint
    completion_window: Annotated[str, AfterValidator(_check_window)] = "24h"
    metadata: Annotated[dict[_Key, _Text], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


class FileForm(BaseModel):
    """The fields of `POST /v1/files` beside the file."""

    model_config = ConfigDict(extra="forbid")

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class ListQuery(BaseModel):
    """The query of a list."""

    model_config = ConfigDict(extra="forbid")

    after: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class FilesQuery(ListQuery):
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Annotated[str, Field(max_length=64)] | None = None
