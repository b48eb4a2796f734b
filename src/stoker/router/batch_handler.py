"""Many requests at once, for callers that each make one.

Engines batch continuously, so holding requests back to send them together gains nothing and
costs the time they are held (measured elsewhere: a third of the throughput with a 100 ms timer).
What can be gained is requests: those that arrive in the same turn of the event loop and differ
only in their prompt go to an engine as one list, and their answers come apart again here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.router.ask import Answer, ask
from stoker.router.dispatcher import Dispatcher
from stoker.router.request import Request, new_request_id
from stoker.router.wire import JSON, Headers

MAX_BATCH_SIZE = 32
_COMPLETIONS = b"/v1/completions"


@dataclass(slots=True)
class _Call:
    """One caller's request, waiting for the end of the turn."""

    fields: dict[str, Any]
    answer: asyncio.Future[Answer]


class BatchHandler:
    """Gathers concurrent calls; `headers` of a call (key, urgency, backend) go with it."""

    def __init__(self, dispatcher: Dispatcher, *, max_batch_size: int = MAX_BATCH_SIZE) -> None:
        self._dispatcher = dispatcher
        self._max_batch_size = max_batch_size
        self._gathered: dict[tuple[bytes, Headers], list[_Call]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add_request(
        self, fields: dict[str, Any], headers: Headers = (), path: bytes = b"/v1/chat/completions"
    ) -> Answer:
        """The answer to one request; `fields` is its body. Never raises for what an engine or
        the router answers: look at the status."""
        if path != _COMPLETIONS or not _can_be_listed(fields):
            return await self._ask(path, fields, headers)
        loop = self._dispatcher.loop
        if not self._gathered:
            loop.call_soon(self._send_gathered)
        shape = msgspec.json.encode(fields | {"prompt": None}, order="sorted")
        call = _Call(fields, loop.create_future())
        self._gathered.setdefault((shape, tuple(headers)), []).append(call)
        return await call.answer

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        for (_, headers), calls in gathered.items():
            for part in self._split(calls):
                task = self._dispatcher.loop.create_task(self._send(part, headers))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _split(self, calls: Sequence[_Call]) -> list[Sequence[_Call]]:
        """Into lists of about equal length: as many as engines have room, or more where one
        would be too long."""
        now = self._dispatcher.loop.time()
        ready = sum(engine.ready(now) for engine in self._dispatcher.fleet.engines.values())
        parts = max(ready, 1, math.ceil(len(calls) / self._max_batch_size))
        size = math.ceil(len(calls) / parts)
        return [calls[start : start + size] for start in range(0, len(calls), size)]

    async def _send(self, calls: Sequence[_Call], headers: Headers) -> None:
        if len(calls) == 1:
            await self._send_alone(calls[0], headers)
            return
        prompts = [call.fields["prompt"] for call in calls]
        answer = await self._ask(_COMPLETIONS, calls[0].fields | {"prompt": prompts}, headers)
        answers = _take_apart(answer, len(calls)) if answer.status == 200 else None
        if answers is None:
            # One of them may be at fault: let each have its own answer.
            await asyncio.gather(*(self._send_alone(call, headers) for call in calls))
            return
        for call, own in zip(calls, answers, strict=True):
            if not call.answer.done():
                call.answer.set_result(own)

    async def _send_alone(self, call: _Call, headers: Headers) -> None:
        if call.answer.done():
            return  # its caller has left
        answer = await self._ask(_COMPLETIONS, call.fields, headers)
        if not call.answer.done():
            call.answer.set_result(answer)

    async def _ask(self, path: bytes, fields: dict[str, Any], headers: Headers) -> Answer:
        request = Request(b"POST", path, [JSON, *headers], msgspec.json.encode(fields))
        request.id = new_request_id()
        return await ask(self._dispatcher, request)


def _can_be_listed(fields: dict[str, Any]) -> bool:
    """One prompt of text, one answer to it, whole."""
    return (
        isinstance(fields.get("prompt"), str)
        and not fields.get("stream")
        and fields.get("n") in (None, 1)
        and fields.get("best_of") in (None, 1)
    )


def _take_apart(answer: Answer, count: int) -> list[Answer] | None:
    """The answers to each prompt of a list; None if they are not all there.

    An engine counts the tokens of the list as a whole, so the parts have no `usage`.
    """
    try:
        body = msgspec.json.decode(answer.body)
        choices = sorted(body["choices"], key=lambda choice: int(choice["index"]))
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
        return None
    if [choice["index"] for choice in choices] != list(range(count)):
        return None
    parts = []
    for choice in choices:
        own = body | {"choices": [choice | {"index": 0}], "usage": None}
        parts.append(Answer(200, answer.headers, msgspec.json.encode(own)))
    return parts
