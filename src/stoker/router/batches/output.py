"""The end of a batch: its output file and its error file."""

from __future__ import annotations

import msgspec

from stoker.api.errors import ErrorInfo
from stoker.router.batches.files import PIECE_BYTES, FileStore
from stoker.router.batches.objects import OUTPUT_PURPOSE, Batch
from stoker.router.batches.store import BatchStore

_PAGE = 100
_DAY = 86400
KEPT_S = 30 * _DAY
"""How long a batch's files are kept when the client does not say."""

_WHY = {
    "expired": ErrorInfo(
        message="This request was not answered before the completion window ended.",
        type="batch_expired",
        code="batch_expired",
    ),
    "cancelled": ErrorInfo(
        message="This request was not answered before the batch was cancelled.",
        type="batch_cancelled",
        code="batch_cancelled",
    ),
}


class _Writer:
    """Writes a file piece by piece; no file when nothing is written."""

    def __init__(self, files: FileStore, file_id: str, filename: str, owner: str) -> None:
        self._files = files
        self._id = file_id
        self._filename = filename
        self._owner = owner
        self._buffer = bytearray()
        self._pieces = 0
        self._size = 0

    async def write(self, line: bytes) -> None:
        self._buffer += line + b"\n"
        if len(self._buffer) >= PIECE_BYTES:
            await self._flush()

    async def end(self) -> tuple[str, int] | None:
        """Its id and size; None when there is no file."""
        if self._buffer:
            await self._flush()
        return (self._id, self._size) if self._pieces else None

    async def _flush(self) -> None:
        if not self._pieces:
            await self._files.begin(self._filename, OUTPUT_PURPOSE, self._owner, self._id)
        await self._files.append(self._id, self._pieces, bytes(self._buffer))
        self._pieces += 1
        self._size += len(self._buffer)
        self._buffer.clear()


async def write_outputs(store: BatchStore, files: FileStore, batch: Batch, status: str) -> str:
    """Write a batch's files and end it; `status` is finalizing or cancelling. The status it
    ends with.

    The files' ids follow from the batch's, so files of an attempt that broke off are begun anew.
    """
    key = batch.id.removeprefix("batch_")
    owner = await store.owner(batch.id)
    good = _Writer(files, f"file-{key}-output", f"{batch.id}_output.jsonl", owner)
    bad = _Writer(files, f"file-{key}-error", f"{batch.id}_error.jsonl", owner)
    why = "cancelled" if status == "cancelling" else "expired"
    unanswered = after = 0
    while page := await store.results(batch.id, after, _PAGE):
        for number, custom_id, is_good, text in page:
            if text is None:
                unanswered += 1
                line = {
                    "id": f"batch_req_{key}_{number}",
                    "custom_id": custom_id,
                    "response": None,
                    "error": _WHY[why].model_dump(),
                }
                text = msgspec.json.encode(line)
            await (good if is_good else bad).write(text)
            after = number
    ended = why if status == "cancelling" or unanswered else "completed"
    output, errors = await good.end(), await bad.end()
    await store.finish(
        batch.id, ended, unanswered=unanswered, output=output, errors=errors, kept=KEPT_S
    )
    return ended
