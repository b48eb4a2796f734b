"""A streamed answer, written straight to the connection: one write per engine step.

Starlette's `StreamingResponse` would put an async generator and two tasks between the engine and
the socket. Here the engine's output becomes bytes and is written where it arrives, without waking
a task, as long as the client reads; a task sends what came while it did not, and a second one
watches for the client's leaving and keeps a silent connection alive.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stoker.api.errors import ApiError, from_exception, internal_error, timed_out
from stoker.api.sse import DONE, KEEP_ALIVE, event
from stoker.engine.async_engine import RequestStream
from stoker.engine.outputs import RequestOutput
from stoker.errors import StokerError
from stoker.server.connection import ClientDisconnected, first_of
from stoker.server.protocol import BodyWriter, body_writer

log = logging.getLogger(__name__)

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Encoder(ABC):
    """Turns the engine's outputs into the events of one API."""

    keep_alive: ClassVar[bytes] = KEEP_ALIVE
    """What a silent stream carries."""

    def begin(self) -> bytes:
        """The events that come before the first output."""
        return b""

    @abstractmethod
    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        """The events for one output of the request's `prompt_index`-th prompt; may be none."""

    @abstractmethod
    def end(self) -> bytes:
        """What follows the last output, the mark of the end included."""

    def fail(self, error: ApiError) -> bytes:
        """What ends the stream in place of the rest of the answer."""
        return event(error.body()) + DONE


class LiveStream(Response, ABC):
    """Server-sent events for as long as the client listens."""

    def __init__(self, *, keep_alive: bytes, keep_alive_interval: float) -> None:
        super().__init__(media_type="text/event-stream")
        self._keep_alive = keep_alive
        self._interval = keep_alive_interval
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            send = scope["state"]["send"]
            self._last_sent = asyncio.get_running_loop().time()
            last = await first_of(self._run(scope, send), self._watch(receive, send))
            await send({"type": "http.response.body", "body": last, "more_body": False})
        except ClientDisconnected:
            log.debug("client left its stream")
        finally:
            await self._close()

    @abstractmethod
    async def _run(self, scope: Scope, send: Send) -> bytes:
        """Send all events but the last, which are returned."""

    async def _close(self) -> None:
        """Whatever happened, nothing more is sent."""

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client has gone; comment on a stream that is silent for long."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                async with asyncio.timeout(self._interval):
                    if (await receive())["type"] == "http.disconnect":
                        return
            except TimeoutError:
                if clock() - self._last_sent >= self._interval:
                    await send(
                        {"type": "http.response.body", "body": self._keep_alive, "more_body": True}
                    )


class ListenerStream(LiveStream):
    """Events that are made elsewhere; they go on when this client leaves."""

    def __init__(self, events: AsyncIterator[bytes], *, keep_alive_interval: float) -> None:
        super().__init__(keep_alive=KEEP_ALIVE, keep_alive_interval=keep_alive_interval)
        self._events = events

    async def _run(self, scope: Scope, send: Send) -> bytes:
        async for data in self._events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._last_sent = asyncio.get_running_loop().time()
        return DONE


class EventStream(LiveStream):
    """Server-sent events from the streams of one request, which end with it."""

    def __init__(
        self,
        streams: Sequence[RequestStream],
        encoder: Encoder,
        *,
        keep_alive_interval: float,
        timeout: float | None,
    ) -> None:
        super().__init__(keep_alive=encoder.keep_alive, keep_alive_interval=keep_alive_interval)
        self._streams = streams
        self._encoder = encoder
        self._timeout = timeout

    async def _run(self, scope: Scope, send: Send) -> bytes:
        try:
            if data := self._encoder.begin():
                await send({"type": "http.response.body", "body": data, "more_body": True})
            async with asyncio.timeout(self._timeout):
                await self._pump_all(send, body_writer(scope))
            return self._encoder.end()
        except TimeoutError:
            failure = timed_out(self._timeout or 0.0)
        except StokerError as error:
            failure = from_exception(error)
        except Exception:
            request_id = scope["state"]["request_id"]
            log.exception("request %s failed in the middle of its stream", request_id)
            failure = internal_error(request_id)
        return self._encoder.fail(failure)

    async def _close(self) -> None:
        for stream in self._streams:
            await stream.aclose()

    async def _pump_all(self, send: Send, writer: BodyWriter | None) -> None:
        if len(self._streams) == 1:
            await self._pump(0, send, writer)
            return
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(self._streams)):
                    group.create_task(self._pump(index, send, writer))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _pump(self, prompt_index: int, send: Send, writer: BodyWriter | None) -> None:
        encode = self._encoder.encode
        clock = asyncio.get_running_loop().time
        stream = self._streams[prompt_index]
        sending = False
        if writer is not None:
            is_ready, write = writer.is_ready, writer.write

            def write_now(output: RequestOutput) -> bool:
                # What the task below is about to send comes first.
                if sending or not is_ready():
                    return False
                if data := encode(prompt_index, output):
                    write(data)
                    self._last_sent = clock()
                return True

            stream.offer_to(write_now)
        async for output in stream:
            if data := encode(prompt_index, output):
                sending = True
                await send({"type": "http.response.body", "body": data, "more_body": True})
                sending = False
                self._last_sent = clock()
