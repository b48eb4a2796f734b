"""Requests of the router's own, through the same exchanges as clients' and awaited."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from stoker.api.errors import ApiError
from stoker.router.dispatcher import Dispatcher
from stoker.router.request import Request
from stoker.router.wire import Headers


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, an engine's or the router's own."""

    status: int
    headers: Headers
    body: bytes


async def ask(dispatcher: Dispatcher, request: Request) -> Answer:
    """Submit a request that does not stream and wait for its answer. Cancelling the wait
    cancels the request."""
    collector = _Collector()
    exchange = dispatcher.submit(request, collector)
    try:
        return await collector.answer
    finally:
        if exchange is not None:
            exchange.cancel()


class _Collector:
    """Gathers an answer into a future."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._head: tuple[int, Headers] = (0, ())
        self._chunks: list[bytes] = []

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(status, headers, body))

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self._head = (status, headers)

    def write(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> None:
        self.respond(*self._head, b"".join(self._chunks))

    def broken(self, message: str, *, event_stream: bool) -> None:
        error = ApiError(502, message, kind="server_error", code="engine_failed")
        self.respond(error.status, self._head[1], error.body())
