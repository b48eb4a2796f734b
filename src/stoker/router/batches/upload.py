"""Takes an upload in: a form whose file goes into the database as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from stoker.api.errors import ApiError, bad_request, from_validation
from stoker.errors import StokerError
from stoker.router.batches.files import PIECE_BYTES, FileStore, StorageLimits
from stoker.router.batches.objects import File, FileForm
from stoker.router.batches.output import KEPT_S

_MAX_FIELDS = 16
_MAX_VALUE = 1024
_MAX_FILENAME = 512
# Pieces that wait for the database, at most, before no more is read from the client.
_WAITING = 2


@dataclass(frozen=True)
class _Finish:
    """All pieces have come, and the form is right."""

    purpose: str
    expires_after: int | None


class _Abandoned(Exception):
    pass


class Upload:
    """One `POST /v1/files`. A `BodySink`; then `file` makes the file of what came."""

    def __init__(
        self,
        content_type: bytes,
        owner: str,
        files: FileStore,
        ready: Callable[[], Any],
        *,
        limit: int,
        storage: StorageLimits,
        hold_reading: Callable[[bool], None],
    ) -> None:
        """`ready`: awaited before the first write. Raises `ApiError` when there is no form."""
        kind, options = parse_options_header(content_type.decode("latin-1"))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise bad_request("An upload is a form: multipart/form-data with a boundary.")
        self._owner = owner
        self._files = files
        self._ready = ready
        self._limit = limit
        self._storage = storage
        self._hold_reading = hold_reading
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._in_file = False
        self._name = ""
        self._part = bytearray()
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._size = 0
        self._whole = False
        self._pieces: asyncio.Queue[bytes | _Finish | None] = asyncio.Queue()
        self._abandoned = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )
        self._writing = asyncio.ensure_future(self._write())
        self._writing.add_done_callback(_retrieve)

    # -- BodySink

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise bad_request(f"The body is not a form as its boundary says: {error}.") from None
        if self._writing.done():
            self._hold_reading(False)
        elif self._pieces.qsize() >= _WAITING:
            self._hold_reading(True)

    def end(self) -> None:
        if not self._whole:
            raise bad_request("The form ends before its last boundary.")
        if self._filename is None:
            raise bad_request("The form has no 'file'.", param="file")

    def abandon(self) -> None:
        """No file is to come of this. The writer is not cancelled but told: what it has handed
        to the database would be written all the same."""
        self._hold_reading(False)
        self._abandoned = True
        self._pieces.put_nowait(None)

    # -- the file

    async def file(self) -> File:
        """The file, once it is stored. Raises `ApiError` when the form's fields are wrong."""
        form: dict[str, Any] = {}
        for name, value in self._fields.items():
            outer, bracket, inner = name.partition("[")
            if bracket:
                form.setdefault(outer, {})[inner.removesuffix("]")] = value
            else:
                form[name] = value
        try:
            asked = FileForm.model_validate(form)
        except ValidationError as error:
            self.abandon()
            raise from_validation(error.errors(), form) from None
        expires_after = asked.expires_after.seconds if asked.expires_after is not None else None
        if expires_after is None and asked.purpose == "batch":
            expires_after = KEPT_S
        self._pieces.put_nowait(_Finish(asked.purpose, expires_after))
        try:
            return await asyncio.shield(self._writing)
        except asyncio.CancelledError:
            self.abandon()
            raise

    async def _write(self) -> File:
        """Write pieces as they come; the file. Deletes what it wrote when the upload is
        abandoned or the database fails."""
        await self._ready()
        file_id = None
        try:
            number = 0
            while True:
                piece = await self._pieces.get()
                if piece is None or self._abandoned:
                    raise _Abandoned
                if file_id is None:
                    file_id = await self._files.begin(self._filename or "", "", self._owner)
                if isinstance(piece, _Finish):
                    return await self._files.finish(
                        file_id, self._size, piece.purpose, piece.expires_after
                    )
                await self._files.append(file_id, number, piece, self._storage)
                number += 1
                if self._pieces.qsize() < _WAITING:
                    self._hold_reading(False)
        except BaseException:
            self._hold_reading(False)
            if file_id is not None:
                with contextlib.suppress(StokerError):
                    await self._files.delete(file_id)
            raise

    # -- the parser's callbacks

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._part.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        _, options = parse_options_header(disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._name == "file"
        if self._in_file:
            if self._filename is not None:
                raise bad_request("The form has two files.", param="file")
            name = options.get(b"filename", b"").decode("utf-8", "replace").replace("\0", "")
            self._filename = name[:_MAX_FILENAME] or "upload"
        elif self._name in self._fields:
            raise bad_request(f"The field {self._name[:64]!r} is given twice.")
        elif len(self._fields) >= _MAX_FIELDS:
            raise bad_request(f"The form has more than {_MAX_FIELDS} fields.")

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._part += data[start:end]
        if not self._in_file:
            if len(self._part) > _MAX_VALUE:
                raise bad_request(f"The field {self._name[:64]!r} is too long.")
            return
        self._size += end - start
        if self._size > self._limit:
            raise ApiError(
                413,
                f"The file is larger than {self._limit} bytes (batches.file_limit).",
                param="file",
                code="file_too_large",
            )
        while len(self._part) >= PIECE_BYTES:
            self._pieces.put_nowait(bytes(self._part[:PIECE_BYTES]))
            del self._part[:PIECE_BYTES]

    def _on_part_end(self) -> None:
        if self._in_file:
            if self._part:
                self._pieces.put_nowait(bytes(self._part))
        else:
            self._fields[self._name] = self._part.decode("utf-8", "replace")
        self._part.clear()

    def _on_end(self) -> None:
        self._whole = True


def _retrieve(writing: asyncio.Future[File]) -> None:
    """The error, if any, is told to whoever asks for the file; nobody may."""
    if not writing.cancelled():
        writing.exception()
