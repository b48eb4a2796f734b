"""Checking a batch's file before anything is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec

from stoker.api.batch_lines import BatchLine, LineError, LineReader
from stoker.api.errors import ApiError
from stoker.errors import InvalidRequest
from stoker.router.batches.files import FileStore
from stoker.router.batches.objects import Batch
from stoker.router.batches.store import BatchStore, Line
from stoker.router.dispatcher import Dispatcher

_PAGE = 100
_MAX_ERRORS = 1000


class Validation:
    """Checks every line of a batch, and keeps the lines if all are right."""

    def __init__(self, dispatcher: Dispatcher, files: FileStore, store: BatchStore) -> None:
        self._dispatcher = dispatcher
        self._files = files
        self._store = store

    async def run(self, batch: Batch) -> str:
        """The batch's status after that."""
        await self._store.forget_lines(batch.id)
        reader = LineReader(
            endpoint=batch.endpoint, max_lines=self._dispatcher.config.batches.max_lines
        )
        models: set[str] = set()
        errors, total = await self._read(batch, reader, models)
        empty = None if errors else reader.end()
        if empty is not None:
            errors.append(empty)
        if errors:
            errors.sort(key=lambda error: error.line or 0)
            await self._store.fail(batch.id, errors[:_MAX_ERRORS])
            return "failed"
        model = models.pop() if len(models) == 1 else None
        return await self._store.validated(batch.id, total, model)

    async def _read(
        self, batch: Batch, reader: LineReader, models: set[str]
    ) -> tuple[list[LineError], int]:
        """Read the file, keep its lines until one is wrong, and note their `models`: what is wrong,
        and how many lines are right."""
        errors: list[LineError] = []
        total = 0
        try:
            async for raw in self._pages(batch.input_file_id):
                found = await asyncio.to_thread(_checked, reader, raw)
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
        return errors, total

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


def _checked(reader: LineReader, lines: Sequence[bytes]) -> list[BatchLine | LineError | None]:
    return [reader.read(line) for line in lines]


def _kept(line: BatchLine) -> Line:
    body = msgspec.json.encode(line.body)
    return Line(line.number, line.custom_id, line.body["model"], body)
