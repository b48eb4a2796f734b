"""Asking the lines of a batch, each until it has an answer to keep."""

from __future__ import annotations

import asyncio
import logging
import random

import msgspec

from stoker.api.errors import ErrorInfo
from stoker.errors import StorageError
from stoker.router.ask import Answer, ask
from stoker.router.batches.budget import Allowed, BatchBudget
from stoker.router.batches.metrics import BatchMetrics
from stoker.router.batches.objects import Batch
from stoker.router.batches.slots import Slots
from stoker.router.batches.store import BatchStore, Line, Result
from stoker.router.dispatcher import Dispatcher
from stoker.router.request import Request, new_request_id
from stoker.router.usage import read_usage
from stoker.router.wire import JSON

log = logging.getLogger(__name__)

_PAGE = 100
# Not the line's fault, and not the engine's either: it is asked again until it is answered.
_NOT_NOW = frozenset((408, 429, 503))
# The engine's fault, perhaps the line's: it is asked again this often in all.
_BROKEN = frozenset((500, 502, 504))
# An answer that says so will be the same next time.
_NO_RETRY = (b"x-should-retry", b"false")
_ATTEMPTS = 4
_LONGEST_PAUSE_S = 30.0
_URGENCY = (b"x-stoker-urgency", b"batch")


class Asking:
    """Asks the lines of one batch, which is `owner`'s, as places and the key's budget allow."""

    def __init__(
        self,
        batch: Batch,
        owner: str,
        dispatcher: Dispatcher,
        store: BatchStore,
        slots: Slots,
        metrics: BatchMetrics,
    ) -> None:
        self._batch_id = batch.id
        self._owner = owner
        self._endpoint = batch.endpoint.encode()
        self._budget = BatchBudget(dispatcher, self._endpoint, owner, batch.expires_at)
        self._dispatcher = dispatcher
        self._store = store
        self._slots = slots
        self._metrics = metrics

    async def run(self) -> None:
        """Until every line has a result."""
        after = 0
        try:
            async with asyncio.TaskGroup() as group:
                while page := await self._store.waiting_lines(self._batch_id, after, _PAGE):
                    for line in page:
                        await self._budget.wait_for(line)
                        await self._slots.take(line.model)
                        group.create_task(self._ask(line))
                        await asyncio.sleep(0)  # it is counted at its engine before the next
                    after = page[-1].number
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _ask(self, line: Line) -> None:
        """Ask until there is an answer to keep, and keep it. Holds a place but while the key's
        budget does not allow the line."""
        while True:
            async with self._slots.given():
                answer, request_id = await self._answer_to(line)
                quota = _code(answer) == "insufficient_quota"
                if not quota or self._budget.allows(line) is Allowed.NEVER:
                    await self._keep_result(_result(self._batch_id, line, answer, request_id))
                    return
            self._metrics.lines["repeated"] += 1
            await self._budget.wait_for(line)
            await self._slots.take(line.model)

    async def _answer_to(self, line: Line) -> tuple[Answer, bytes]:
        """An answer that asking again would not better, and the request's id."""
        failures = 0
        pause = 0.5
        while True:
            request = Request(b"POST", self._endpoint, [JSON, _URGENCY], line.body)
            request.id = new_request_id()
            request.on_behalf_of = self._owner or None
            answer = await ask(self._dispatcher, request)
            failures += answer.status in _BROKEN
            final = answer.status not in _NOT_NOW or _NO_RETRY in answer.headers
            if final and not (answer.status in _BROKEN and failures < _ATTEMPTS):
                return answer, request.id
            self._metrics.lines["repeated"] += 1
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _keep_result(self, result: Result) -> None:
        while True:
            try:
                new = await self._store.record(self._batch_id, [result])
                break
            except StorageError as error:  # until the hold on the batch is lost
                log.warning("batch %s, line %d: %s", self._batch_id, result.number, error)
                await asyncio.sleep(1.0)
        self._metrics.lines["completed" if result.good else "failed"] += new


class _Error(msgspec.Struct):
    code: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error


def _code(answer: Answer) -> str | None:
    """The code of an error; None of any other answer."""
    if answer.status < 400:
        return None
    try:
        return msgspec.json.decode(answer.body, type=_ErrorBody).error.code
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _result(batch_id: str, line: Line, answer: Answer, request_id: bytes) -> Result:
    """An answer as a line of an output file: one line, whatever the engine sent."""
    head = {"id": line_id(batch_id, line.number), "custom_id": line.custom_id}
    try:
        body = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    if not isinstance(body, dict):
        error = ErrorInfo(
            message=f"The engine's answer (status {answer.status}) is not a JSON object.",
            type="server_error",
            code="engine_failed",
        )
        text = msgspec.json.encode(head | {"response": None, "error": error.model_dump()})
        return Result(line.number, False, text)
    response = {"status_code": answer.status, "request_id": request_id.decode(), "body": body}
    text = msgspec.json.encode(head | {"response": response, "error": None})
    good = 200 <= answer.status < 300
    return Result(line.number, good, text, read_usage(answer.body) if good else None)


def line_id(batch_id: str, number: int) -> str:
    """The id of a line in an output file."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"
