"""`POST /batch`: a list of requests, answered as a list; and single requests that say
`x-stoker-gather: true`, which go to engines together with others that come in the same moment."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from stoker.api.errors import bad_request
from stoker.router.ask import Answer
from stoker.router.batch_handler import BatchHandler
from stoker.router.list_routes import LIST_ROUTES
from stoker.router.parse import parse_body
from stoker.router.request import Request
from stoker.router.responder import Responder
from stoker.router.wire import JSON, Headers, own_headers

PATH = b"/batch"
GATHER = b"x-stoker-gather"
_NOT_PASSED_ON = frozenset(
    (b"content-type", b"content-length", b"host", b"x-request-id", b"connection", GATHER)
)
# What of an answer to many is not the same for each of them.
_NOT_RETURNED = frozenset((b"content-length", b"x-request-id"))


class RequestList(BaseModel):
    """Bodies as for the `endpoint`; none may stream."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=10_000)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"] = (
        "/v1/chat/completions"
    )


class BatchWork:
    """The requests of one `POST /batch`, under way."""

    def __init__(self, request: Request, responder: Responder, handler: BatchHandler) -> None:
        """Raises `ApiError` when the body is not such a list."""
        self._request = request
        self._responder = responder
        self._handler = handler
        asked = _read(request.body)
        self._task = asyncio.ensure_future(self._run(asked))

    def cancel(self) -> None:
        self._task.cancel()

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """See `pause`."""

    async def _run(self, asked: RequestList) -> None:
        began = monotonic()
        headers = _passed_on(self._request)
        path = asked.endpoint.encode()
        answers = await asyncio.gather(
            *(self._handler.add_request(body, headers, path) for body in asked.requests)
        )
        results = [_result(number, answer) for number, answer in enumerate(answers)]
        body = {
            "object": "list",
            "data": results,
            "succeeded": sum(answer.status == 200 for answer in answers),
            "failed": sum(answer.status != 200 for answer in answers),
            "total_time": monotonic() - began,
        }
        own = own_headers(self._request.id, "each by itself")
        self._responder.respond(200, [JSON, *own], msgspec.json.encode(body))


class GatheredWork:
    """One request that goes with others, under way."""

    def __init__(
        self, request: Request, fields: dict[str, Any], responder: Responder, handler: BatchHandler
    ) -> None:
        """`fields`: the request's body."""
        self._request = request
        self._responder = responder
        self._task = asyncio.ensure_future(self._run(fields, handler))

    def cancel(self) -> None:
        self._task.cancel()

    def pause(self) -> None:
        """Nothing is written before the end."""

    def resume(self) -> None:
        """See `pause`."""

    async def _run(self, fields: dict[str, Any], handler: BatchHandler) -> None:
        request = self._request
        answer = await handler.add_request(fields, _passed_on(request), request.path)
        kept = [field for field in answer.headers if field[0] not in _NOT_RETURNED]
        headers = [*kept, (b"x-request-id", request.id)]
        self._responder.respond(answer.status, headers, answer.body)


def gatherable(request: Request) -> dict[str, Any] | None:
    """The body of a request that says `GATHER` and can go with others; None for one that goes as
    it is: it streams, say, or is wrong."""
    route = LIST_ROUTES.get(request.path)
    if route is None or request.fields[GATHER] not in (b"true", b"1"):
        return None
    try:
        fields = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(fields, dict) or not route.takes(fields):
        return None
    return fields


def _passed_on(request: Request) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(field for field in request.headers if field[0] not in _NOT_PASSED_ON)


def _result(number: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": number,
        "status": answer.status,
        "engine": _engine(answer.headers),
        "body": msgspec.Raw(answer.body or b"null"),
    }


def _engine(headers: Headers) -> str:
    return dict(headers).get(b"x-stoker-engine", b"-").decode()


def _read(body: bytes) -> RequestList:
    asked = parse_body(body, RequestList)
    for number, one in enumerate(asked.requests):
        if one.get("stream"):
            raise bad_request(
                "Requests of a batch cannot stream.", param=f"requests[{number}].stream"
            )
    return asked
