"""Many requests at once, for callers that each make one.

Engines batch continuously, so holding requests back to send them together gains nothing and
costs the time they are held (measured elsewhere: a third of the throughput with a 100 ms timer).
What can be gained is requests: those that arrive in the same turn of the event loop and differ
only in what they ask go to an engine as one list, and their answers come apart again here. Only
while no engine has room are they held, and so may become more: then waiting costs nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from stoker.router.ask import Answer, ask
from stoker.router.dispatcher import Dispatcher
from stoker.router.list_routes import LIST_ROUTES, ListRoute
from stoker.router.request import Request, new_request_id
from stoker.router.wire import JSON, Headers

MAX_BATCH_SIZE = 32
HOLD_S = 0.1
"""The longest that requests are held while engines are full; then they stand in the queue."""
_LOOK_S = 0.005
# Statuses that one request of a list cannot be to blame for: all of them get the same answer.
_FOR_ALL = frozenset((401, 403, 429, 502, 503, 504))
# Together they are more than a limit or budget allows; each by itself may not be.
_TOO_MUCH = (b"x-should-retry", b"false")


class _Shape(NamedTuple):
    """What requests of one list have in common."""

    path: bytes
    fields: bytes
    headers: tuple[tuple[bytes, bytes], ...]


@dataclass(slots=True)
class _Call:
    """One caller's request, and its answer to be."""

    fields: dict[str, Any]
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Gathered:
    """Calls of one shape that are not sent yet."""

    route: ListRoute
    model: str | None
    since: float
    calls: list[_Call] = field(default_factory=list)


class BatchHandler:
    """Gathers concurrent calls; `headers` of a call (key, urgency, backend) go with it."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        hold_s: float = HOLD_S,
    ) -> None:
        self._dispatcher = dispatcher
        self._max_batch_size = max_batch_size
        self._hold_s = hold_s
        self._gathered: dict[_Shape, _Gathered] = {}
        self._turn: asyncio.Handle | None = None
        """The end of the turn in which a call came."""
        self._look: asyncio.TimerHandle | None = None
        """When it is next looked whether an engine has room again."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def add_request(
        self, fields: dict[str, Any], headers: Headers = (), path: bytes = b"/v1/chat/completions"
    ) -> Answer:
        """The answer to one request; `fields` is its body. Never raises for what an engine or
        the router answers: look at the status."""
        route = LIST_ROUTES.get(path)
        if route is None or not self._may_be_listed(route, fields):
            return await self._ask(path, msgspec.json.encode(fields), headers)
        loop = self._dispatcher.loop
        shape = _Shape(path, route.shape(fields), tuple(headers))
        group = self._gathered.get(shape)
        if group is None:
            model = self._dispatcher.fleet.resolve(fields.get("model"))
            group = self._gathered[shape] = _Gathered(route, model, loop.time())
        call = _Call(fields, loop.create_future())
        group.calls.append(call)
        if self._turn is None:
            self._turn = loop.call_soon(self._turn_ended)
        return await call.answer

    def _may_be_listed(self, route: ListRoute, fields: dict[str, Any]) -> bool:
        """Whether a request fits a list, and every engine it could go to takes lists."""
        model = fields.get("model")
        if not route.takes(fields) or not (model is None or isinstance(model, str)):
            return False
        fleet = self._dispatcher.fleet
        engines = fleet.serving(fleet.resolve(model) or "")
        return bool(engines) and all(engine.kind in route.kinds for engine in engines)

    def _turn_ended(self) -> None:
        self._turn = None
        self._send_gathered()

    def _look_again(self) -> None:
        self._look = None
        self._send_gathered()

    def _send_gathered(self) -> None:
        """Send what has been gathered, but for what engines have no room for yet."""
        loop = self._dispatcher.loop
        now = loop.time()
        held: dict[_Shape, _Gathered] = {}
        for shape, group in self._gathered.items():
            ready = self._ready(group.model, now)
            full = len(group.calls) >= self._max_batch_size
            if not ready and not full and now < group.since + self._hold_s:
                held[shape] = group
                continue
            calls = [call for call in group.calls if not call.answer.done()]
            for part in self._split(calls, ready):
                self._start(part, group.route, shape)
        self._gathered = held
        if held and self._look is None:
            self._look = loop.call_later(_LOOK_S, self._look_again)

    def _ready(self, model: str | None, now: float) -> int:
        """How many engines of a model have room."""
        fleet = self._dispatcher.fleet
        return sum(engine.ready(now) for engine in fleet.serving(model)) if model else 0

    def _split(self, calls: Sequence[_Call], ready: int) -> list[Sequence[_Call]]:
        """Into lists of about equal length: as many as engines have room, or more where one
        would be too long."""
        parts = max(ready, 1, math.ceil(len(calls) / self._max_batch_size))
        size = max(1, math.ceil(len(calls) / parts))
        return [calls[start : start + size] for start in range(0, len(calls), size)]

    def _start(self, calls: Sequence[_Call], route: ListRoute, shape: _Shape) -> None:
        """Send a list; it is cancelled when all its callers have left."""
        task = self._dispatcher.loop.create_task(self._send(calls, route, shape))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def left(_: asyncio.Future[Answer]) -> None:
            if all(call.answer.cancelled() for call in calls):
                task.cancel()

        for call in calls:
            call.answer.add_done_callback(left)

    async def _send(self, calls: Sequence[_Call], route: ListRoute, shape: _Shape) -> None:
        if len(calls) == 1:
            await self._send_alone(calls[0], shape)
            return
        body = route.join([call.fields for call in calls])
        answer = await self._ask(route.path, body, shape.headers)
        answers: list[Answer] | None = None
        if answer.status == 200:
            answers = route.take_apart(answer, len(calls))
        elif answer.status in _FOR_ALL and _TOO_MUCH not in answer.headers:
            answers = [answer] * len(calls)
        if answers is None:
            # One of them may be at fault: let each have its own answer.
            await asyncio.gather(*(self._send_alone(call, shape) for call in calls))
            return
        for call, own in zip(calls, answers, strict=True):
            if not call.answer.done():
                call.answer.set_result(own)

    async def _send_alone(self, call: _Call, shape: _Shape) -> None:
        if call.answer.done():
            return  # its caller has left
        answer = await self._ask(shape.path, msgspec.json.encode(call.fields), shape.headers)
        if not call.answer.done():
            call.answer.set_result(answer)

    async def _ask(self, path: bytes, body: bytes, headers: Headers) -> Answer:
        request = Request(b"POST", path, [JSON, *headers], body)
        request.id = new_request_id()
        return await ask(self._dispatcher, request)
