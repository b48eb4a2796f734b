"""One batch's way from validation to its output files.

Every step can be broken off at any point, by `kill -9` too, and begun again by whichever router
takes the batch next: what counts is in the database, and each step either finds its results there
or makes them anew. Lines that were under way then have no result, so they are asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from stoker.api.batch_lines import BatchLine, LineError, LineReader
from stoker.api.errors import ApiError, ErrorInfo
from stoker.errors import InvalidRequest, StorageError
from stoker.router.ask import Answer, ask
from stoker.router.batches.budget import Allowed, BatchBudget
from stoker.router.batches.files import FileStore
from stoker.router.batches.metrics import BatchMetrics
from stoker.router.batches.objects import Batch
from stoker.router.batches.output import write_outputs
from stoker.router.batches.slots import Slots
from stoker.router.batches.store import BatchStore, HoldLost, Line, Result
from stoker.router.dispatcher import Dispatcher
from stoker.router.request import Request, new_request_id
from stoker.router.usage import read_usage
from stoker.router.wire import JSON

log = logging.getLogger(__name__)

_PAGE = 100
_MAX_ERRORS = 1000
# Not the line's fault, and not the engine's either: it is asked again until it is answered.
_NOT_NOW = frozenset((408, 429, 503))
# The engine's fault, perhaps the line's: it is asked again this often in all.
_BROKEN = frozenset((500, 502, 504))
# An answer that says so will be the same next time.
_NO_RETRY = (b"x-should-retry", b"false")
_ATTEMPTS = 4
_LONGEST_PAUSE_S = 30.0
_URGENCY = (b"x-stoker-urgency", b"batch")


class BatchRun:
    """Works on one batch that its store holds."""

    def __init__(
        self,
        batch_id: str,
        dispatcher: Dispatcher,
        files: FileStore,
        store: BatchStore,
        slots: Slots,
        metrics: BatchMetrics,
    ) -> None:
        self.batch_id = batch_id
        self._dispatcher = dispatcher
        self._files = files
        self._store = store
        self._slots = slots
        self._metrics = metrics
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        """The batch may have been cancelled."""
        self._changed.set()

    async def run(self) -> None:
        """Bring the batch to its end. Raises `HoldLost` when another router has taken it, and
        `StorageError`."""
        work = asyncio.create_task(self._work())
        keeper = asyncio.create_task(self._keep())
        try:
            await asyncio.wait((work, keeper), return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else keeper)
        finally:
            for task in (work, keeper):
                task.cancel()
            await asyncio.gather(work, keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Go on holding the batch, and notice when it is cancelled."""
        hold_s = self._dispatcher.config.batches.hold
        last = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(hold_s / 6):
                    await self._changed.wait()
            self._changed.clear()
            try:
                if await self._store.renew(self.batch_id) == "cancelling":
                    self._stopped.set()
                last = time.monotonic()
            except StorageError as error:
                log.warning("batch %s: %s", self.batch_id, error)
                if time.monotonic() - last > hold_s:
                    raise HoldLost(f"batch {self.batch_id}: the database is gone") from error

    async def _work(self) -> None:
        batch = await self._store.get(self.batch_id)
        status = batch.status
        if status == "validating":
            status = await self._validate(batch)
        if status == "failed":
            return
        if status == "in_progress":
            await self._ask_until(batch)
            status = await self._store.begin_finalizing(self.batch_id)
        ended = await write_outputs(self._store, self._files, batch, status)
        self._metrics.finished[ended] += 1
        log.info("batch %s: %s", self.batch_id, ended)

    # -- validation

    async def _validate(self, batch: Batch) -> str:
        """Check every line and keep it; the batch's status after that."""
        await self._store.forget_lines(batch.id)
        reader = LineReader(
            endpoint=batch.endpoint, max_lines=self._dispatcher.config.batches.max_lines
        )
        errors: list[LineError] = []
        models: set[str] = set()
        total = 0
        try:
            async for raw in self._pages(batch.input_file_id):
                found = await asyncio.to_thread(_read, reader, raw)
                errors += [one for one in found if isinstance(one, LineError)]
                lines = [one for one in found if isinstance(one, BatchLine)]
                errors += self._unknown_models(lines)
                models.update(line.body["model"] for line in lines)
                total += len(lines)
                if errors and (reader.full or len(errors) >= _MAX_ERRORS):
                    break
                if not errors:
                    await self._store.add_lines(batch.id, [_kept(line) for line in lines])
            await self._files.get(batch.input_file_id)  # or what was read may not be all of it
        except InvalidRequest as wrong:
            errors.append(LineError(code="line_too_long", message=str(wrong)))
        except ApiError as gone:
            errors.append(LineError(code="not_found", message=str(gone), param="input_file_id"))
        empty = None if errors else reader.end()
        if empty is not None:
            errors.append(empty)
        if errors:
            errors.sort(key=lambda error: error.line or 0)
            await self._store.fail(batch.id, errors[:_MAX_ERRORS])
            self._metrics.finished["failed"] += 1
            return "failed"
        model = models.pop() if len(models) == 1 else None
        return await self._store.validated(batch.id, total, model)

    async def _pages(self, file_id: str) -> AsyncIterator[list[bytes]]:
        page: list[bytes] = []
        limit = self._dispatcher.config.router.body_limit
        async for line in self._files.lines(file_id, limit):
            page.append(line)
            if len(page) == _PAGE:
                yield page
                page = []
        if page:
            yield page

    def _unknown_models(self, lines: Sequence[BatchLine]) -> list[LineError]:
        """Lines for a model that no engine serves, as far as all have told what they serve."""
        fleet = self._dispatcher.fleet
        if any(not engine.models for engine in fleet.engines.values()):
            return []
        names = set(fleet.names())
        return [
            LineError(
                code="model_not_found",
                message=f"The model {line.body['model']!r} is not served here. Served: "
                f"{', '.join(sorted(names))}.",
                param="body.model",
                line=line.number,
            )
            for line in lines
            if line.body["model"] not in names
        ]

    # -- asking

    async def _ask_until(self, batch: Batch) -> None:
        """Ask all lines; stop when the batch expires or is cancelled."""
        asking = asyncio.create_task(self._ask_all(batch))
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait(
                (asking, stopped),
                timeout=max(0.0, batch.expires_at - time.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if asking.done():
                await asking
        finally:
            for task in (asking, stopped):
                task.cancel()
            await asyncio.gather(asking, stopped, return_exceptions=True)

    async def _ask_all(self, batch: Batch) -> None:
        owner = await self._store.owner(batch.id)
        endpoint = batch.endpoint.encode()
        asked = _Asked(
            endpoint, owner, BatchBudget(self._dispatcher, endpoint, owner, batch.expires_at)
        )
        after = 0
        try:
            async with asyncio.TaskGroup() as group:
                while page := await self._store.waiting_lines(self.batch_id, after, _PAGE):
                    for line in page:
                        await asked.budget.wait_for(line)
                        await self._slots.take(line.model)
                        group.create_task(self._ask_one(line, asked))
                        await asyncio.sleep(0)  # it is counted at its engine before the next
                    after = page[-1].number
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _ask_one(self, line: Line, asked: _Asked) -> None:
        """Ask until there is an answer to keep, and keep it. Holds a place but while the key's
        budget does not allow the line."""
        while True:
            async with self._slots.given():
                answer, request_id = await self._answer_to(line, asked)
                quota = _code(answer) == "insufficient_quota"
                if not quota or asked.budget.allows(line) is Allowed.NEVER:
                    await self._keep_result(_result(self.batch_id, line, answer, request_id))
                    return
            self._metrics.lines["repeated"] += 1
            await asked.budget.wait_for(line)
            await self._slots.take(line.model)

    async def _answer_to(self, line: Line, asked: _Asked) -> tuple[Answer, bytes]:
        """An answer that asking again would not better, and the request's id."""
        failures = 0
        pause = 0.5
        while True:
            request = Request(b"POST", asked.endpoint, [JSON, _URGENCY], line.body)
            request.id = new_request_id()
            request.on_behalf_of = asked.owner or None
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
                new = await self._store.record(self.batch_id, [result])
                break
            except StorageError as error:  # until `_keep` gives the batch up
                log.warning("batch %s, line %d: %s", self.batch_id, result.number, error)
                await asyncio.sleep(1.0)
        self._metrics.lines["completed" if result.good else "failed"] += new


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all lines of a batch have in common."""

    endpoint: bytes
    owner: str
    budget: BatchBudget


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


def _read(reader: LineReader, lines: Sequence[bytes]) -> list[BatchLine | LineError | None]:
    return [reader.read(line) for line in lines]


def _kept(line: BatchLine) -> Line:
    body = msgspec.json.encode(line.body)
    return Line(line.number, line.custom_id, line.body["model"], body)


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
