"""`POST /batch`: a list of requests, answered as a list."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from stoker.api.errors import bad_request
from stoker.router.ask import Answer
from stoker.router.batch_handler import BatchHandler
from stoker.router.parse import parse_body
from stoker.router.request import Request
from stoker.router.responder import Responder
from stoker.router.wire import JSON, Headers, own_headers

PATH = b"/batch"
_NOT_PASSED_ON = (b"content-type", b"content-length", b"host", b"x-request-id", b"connection")


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
        fields = self._request.headers
        headers = tuple(field for field in fields if field[0] not in _NOT_PASSED_ON)
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
