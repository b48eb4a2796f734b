"""What clients see: `/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec
from pydantic import BaseModel, ValidationError

from stoker.api.errors import (
    ApiError,
    from_exception,
    from_validation,
    internal_error,
    method_not_allowed,
    route_not_found,
    unavailable,
)
from stoker.errors import StokerError, StorageError
from stoker.router.batches.files import FileStore, StorageLimits
from stoker.router.batches.holder import holder_name
from stoker.router.batches.objects import BatchRequest, Deleted, FilesQuery, ListQuery, page
from stoker.router.batches.runner import BatchRunner
from stoker.router.batches.store import BatchStore
from stoker.router.batches.upload import Upload
from stoker.router.dispatcher import Dispatcher
from stoker.router.parse import parse_body
from stoker.router.request import Request
from stoker.router.responder import Responder
from stoker.router.storage import Database
from stoker.router.wire import JSON, Headers, error_headers, own_headers

log = logging.getLogger(__name__)

UPLOAD_PATH = b"/v1/files"
_BATCHES_PATH = b"/v1/batches"
_OCTETS = (b"content-type", b"application/octet-stream")

Model = TypeVar("Model", bound=BaseModel)


def is_about_files(path: bytes) -> bool:
    """Whether a request is for files or batches."""
    return path.startswith((UPLOAD_PATH, _BATCHES_PATH)) and (
        path in (UPLOAD_PATH, _BATCHES_PATH)
        or path.startswith((UPLOAD_PATH + b"/", _BATCHES_PATH + b"/"))
    )


class FilesAndBatches:
    """The Files and Batches API of one router, and its work in the background."""

    def __init__(self, database: Database, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._metrics = dispatcher.metrics.batches
        self._files = FileStore(database)
        self._store = BatchStore(database, holder_name(), hold_s=dispatcher.config.batches.hold)
        self._runner = BatchRunner(database, dispatcher, self._files, self._store, self._metrics)

    def start(self) -> None:
        """Go on with batches that are not finished."""
        self._runner.start()

    async def stop(self) -> None:
        """Stop working; other routers, or this one when it starts again, go on."""
        await self._runner.stop()

    def upload(self, request: Request, hold_reading: Callable[[bool], None]) -> Upload:
        """What takes in the body of a `POST /v1/files`, whose head `request` is. Raises
        `ApiError`."""
        owner = self._owner(request)
        if self._dispatcher.draining:
            raise unavailable("This router is shutting down.", code="draining")
        content_type = request.fields.get(b"content-type", b"")
        limits = self._dispatcher.config.batches
        return Upload(
            content_type,
            owner,
            self._files,
            self._runner.ready,
            limit=limits.file_limit,
            storage=StorageLimits(limits.storage_limit, limits.storage_limit_per_key),
            hold_reading=hold_reading,
        )

    def serve(self, request: Request, responder: Responder) -> FileWork:
        """Answer a request for which `is_about_files`."""
        return FileWork(self, request, responder)

    async def answer(self, request: Request, work: FileWork) -> object:
        """What a request is answered with, to be written as JSON; None if it is written
        already."""
        await self._runner.ready()
        resource, *rest = request.path.decode("utf-8", "replace").strip("/").split("/")[1:]
        method = request.method.decode()
        place = (resource, len(rest), rest[1] if len(rest) == 2 else None)
        routes: dict[tuple[str, int, str | None], dict[str, Callable[..., Awaitable[object]]]] = {
            ("files", 0, None): {"GET": self._list_files, "POST": self._upload},
            ("files", 1, None): {"GET": self._get_file, "DELETE": self._delete_file},
            ("files", 2, "content"): {"GET": work.send_content},
            ("batches", 0, None): {"GET": self._list_batches, "POST": self._create},
            ("batches", 1, None): {"GET": self._get_batch},
            ("batches", 2, "cancel"): {"POST": self._cancel},
        }
        methods = routes.get(place)
        if methods is None:
            raise route_not_found(method, request.path.decode("utf-8", "replace")[:256])
        if method not in methods:
            allowed = ", ".join(methods)
            raise method_not_allowed(method, request.path.decode("utf-8", "replace"), allowed)
        return await methods[method](request, *rest[:1])

    def _owner(self, request: Request) -> str:
        """The name of the key a request comes with; empty without one."""
        ledger = self._dispatcher.ledger
        account = ledger.account_of(request)
        return "" if account is ledger.keyring.anonymous else account.name

    # -- files

    async def _list_files(self, request: Request) -> object:
        query = _query(FilesQuery, request)
        found = await self._files.listed(
            self._owner(request),
            after=query.after,
            limit=query.limit + 1,
            purpose=query.purpose,
            newest_first=query.order == "desc",
        )
        return page(found, query.limit)

    async def _upload(self, request: Request) -> object:
        assert isinstance(request.upload, Upload)
        file = await request.upload.file()
        self._metrics.uploaded_bytes += file.bytes
        return file

    async def _get_file(self, request: Request, file_id: str) -> object:
        return await self._files.get(file_id, self._owner(request))

    async def _delete_file(self, request: Request, file_id: str) -> object:
        await self._files.get(file_id, self._owner(request))
        await self._files.delete(file_id)
        return Deleted(file_id)

    async def send_content(
        self,
        request: Request,
        file_id: str,
        responder: Responder,
        headers: Headers,
        flowing: asyncio.Event,
    ) -> None:
        """Write a file's content, as fast as the client reads."""
        file = await self._files.get(file_id, self._owner(request))
        responder.start(200, [_OCTETS, *headers], file.bytes)
        sent = 0
        async for piece in self._files.pieces(file_id):
            await flowing.wait()
            responder.write(piece)
            sent += len(piece)
        if sent == file.bytes:
            responder.finish()
        else:
            responder.broken("the file was deleted meanwhile", event_stream=False)

    # -- batches

    async def _list_batches(self, request: Request) -> object:
        query = _query(ListQuery, request)
        return page(
            await self._store.newest(
                self._owner(request), after=query.after, limit=query.limit + 1
            ),
            query.limit,
        )

    async def _create(self, request: Request) -> object:
        asked = parse_body(request.body, BatchRequest)
        batch = await self._store.create(asked, self._owner(request))
        self._runner.look()
        return batch

    async def _get_batch(self, request: Request, batch_id: str) -> object:
        return await self._store.get(batch_id, self._owner(request))

    async def _cancel(self, request: Request, batch_id: str) -> object:
        batch = await self._store.cancel(batch_id, self._owner(request))
        self._runner.look_at(batch_id)
        return batch


class FileWork:
    """One request for files or batches, under way."""

    def __init__(self, api: FilesAndBatches, request: Request, responder: Responder) -> None:
        self._api = api
        self._request = request
        self._responder = responder
        self._own = own_headers(request.id, "answered by the router")
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._task = asyncio.ensure_future(self._run())

    def cancel(self) -> None:
        self._task.cancel()

    def pause(self) -> None:
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def send_content(self, request: Request, file_id: str) -> None:
        """Answer with a file's content."""
        await self._api.send_content(request, file_id, self._responder, self._own, self._flowing)

    async def _run(self) -> None:
        try:
            reply = await self._api.answer(self._request, self)
        except StorageError as error:
            log.error("request %s: %s", self._request.id.decode("latin-1"), error)
            message = "The router's database does not answer; its log says why."
            self._refuse(unavailable(message, code="storage_unavailable"))
        except StokerError as error:
            self._refuse(from_exception(error))
        except Exception:
            log.exception("request %s", self._request.id.decode("latin-1"))
            self._refuse(internal_error(self._request.id.decode("latin-1")))
        else:
            if reply is not None:
                self._responder.respond(200, [JSON, *self._own], msgspec.json.encode(reply))

    def _refuse(self, error: ApiError) -> None:
        headers = [*error_headers(error), *self._own]
        self._responder.respond(error.status, headers, error.body())


def _query(model: type[Model], request: Request) -> Model:
    text = request.target.partition(b"?")[2].decode("utf-8", "replace")
    fields = dict(parse_qsl(text, keep_blank_values=True))
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise from_validation(error.errors(), fields) from None
