"""The lines of OpenAI's batch files: what is asked, what is wrong with it, what was answered.

One line of an input file is a request: `{"custom_id", "method", "url", "body"}`. `read_lines`
checks each by itself and against those before it; what it finds wrong carries the line's number,
in the words of the Batches API's `errors`. What only an engine can judge (a model's name, the
messages) becomes an answer with that request's own status.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

from stoker.api.errors import ErrorInfo

BatchEndpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"
]
ENDPOINTS: tuple[str, ...] = get_args(BatchEndpoint)
MAX_LINES = 50_000
MAX_CUSTOM_ID = 512
_FIELDS = ("custom_id", "method", "url", "body")


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of an input file that is well formed."""

    number: int
    """The line it stands on, from 1."""
    custom_id: str
    url: str
    body: dict[str, Any]


class LineError(BaseModel):
    """What is wrong with a line, as in a batch's `errors.data`."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None
    """From 1; None for a fault of the whole file."""


class LineResponse(BaseModel):
    """An engine's answer to one line, whatever its status."""

    status_code: int
    request_id: str
    body: dict[str, Any]


class OutputLine(BaseModel):
    """One line of an output or error file: either `response` or `error` is there."""

    id: str
    custom_id: str
    response: LineResponse | None = None
    error: ErrorInfo | None = None
    """Why there is no response: the batch was cancelled, had expired, or nobody answered."""


def read_lines(
    lines: Iterable[bytes], *, endpoint: str | None = None, max_lines: int = MAX_LINES
) -> Iterator[BatchLine | LineError]:
    """Each line's request or what is wrong with it, in order; empty lines are passed over.

    `endpoint`: the only `url` allowed; None allows any in `ENDPOINTS`. A file without a request
    and one with more than `max_lines` end with an error of the whole file.
    """
    reader = LineReader(endpoint=endpoint, max_lines=max_lines)
    for raw in lines:
        found = reader.read(raw)
        if found is not None:
            yield found
        if reader.full:
            return
    problem = reader.end()
    if problem is not None:
        yield problem


class LineReader:
    """`read_lines` for those who have the lines of a file one by one."""

    def __init__(self, *, endpoint: str | None = None, max_lines: int = MAX_LINES) -> None:
        self._endpoint = endpoint
        self._max_lines = max_lines
        self._seen: dict[str, int] = {}
        self._number = 0
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether there were too many requests, so that reading on is no use."""
        return self._count > self._max_lines

    def read(self, raw: bytes) -> BatchLine | LineError | None:
        """The next line's request or what is wrong with it; None if it is empty."""
        self._number += 1
        if not raw.strip():
            return None
        self._count += 1
        if self.full:
            return LineError(
                code="too_many_tasks",
                message=f"A batch may have {self._max_lines} requests; this file has more. "
                "Split it.",
            )
        try:
            line = _read_line(self._number, raw, self._endpoint)
        except _Wrong as wrong:
            return wrong.error
        first = self._seen.setdefault(line.custom_id, self._number)
        if first != self._number:
            return LineError(
                code="duplicate_custom_id",
                message=f"The custom_id {line.custom_id!r} was used on line "
                f"{first} already; each must be unique in its file.",
                param="custom_id",
                line=self._number,
            )
        return line

    def end(self) -> LineError | None:
        """What is wrong with the file once its last line is read."""
        if self._count:
            return None
        return LineError(code="empty_file", message="The file has no requests: one JSON a line.")


class _Wrong(Exception):
    def __init__(self, line: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = LineError(code=code, message=message, param=param, line=line)


def _read_line(number: int, raw: bytes, endpoint: str | None) -> BatchLine:
    value = _parse(number, raw)
    for field in _FIELDS:
        if field not in value:
            raise _Wrong(
                number, "missing_required_parameter", f"The field {field!r} is required.", field
            )
    custom_id, method, url, body = (value[field] for field in _FIELDS)
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID:
        raise _Wrong(
            number,
            "invalid_custom_id",
            f"'custom_id' must be a string of 1 to {MAX_CUSTOM_ID} characters.",
            "custom_id",
        )
    if method != "POST":
        raise _Wrong(
            number, "invalid_method", f"'method' must be \"POST\", not {_shown(method)}.", "method"
        )
    if endpoint is not None and url != endpoint:
        raise _Wrong(
            number,
            "mismatched_url",
            f"'url' must be {endpoint!r}, the batch's endpoint, not {_shown(url)}.",
            "url",
        )
    if url not in ENDPOINTS:
        raise _Wrong(
            number,
            "invalid_url",
            f"'url' must be one of {', '.join(ENDPOINTS)}, not {_shown(url)}.",
            "url",
        )
    if not isinstance(body, dict):
        raise _Wrong(
            number, "invalid_body", f"'body' must be a JSON object, not {_shown(body)}.", "body"
        )
    if not isinstance(body.get("model"), str):
        raise _Wrong(
            number,
            "missing_required_parameter",
            "'body' must name its model: a string under 'model'.",
            "body.model",
        )
    if body.get("stream"):
        raise _Wrong(
            number,
            "invalid_body",
            "A batch cannot be streamed; leave 'stream' out of the body.",
            "body.stream",
        )
    return BatchLine(number, custom_id, url, body)


def _parse(number: int, raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8").removeprefix("\ufeff"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:  # also for bytes that are not UTF-8
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _Wrong(
            number, "invalid_json_line", f"This line is not valid JSON: {reason}."
        ) from None
    if not isinstance(value, dict):
        raise _Wrong(
            number,
            "invalid_json_line",
            f"A line must be a JSON object with {', '.join(_FIELDS)}, not {_shown(value)}.",
        )
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _shown(value: object) -> str:
    """A client's value in a message: as JSON, and not all of a long one."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"
