"""Files, kept in the database in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial

from stoker.api.errors import ApiError
from stoker.errors import InvalidRequest
from stoker.router.batches.objects import File
from stoker.router.batches.schema import new_id
from stoker.router.storage import Database, Row, Transaction, Value

PIECE_BYTES = 1024 * 1024
# A file that is not whole after so long never will be: its upload broke off with the router.
_ABANDONED_S = 86400
_COLUMNS = "id, size, created_at, filename, purpose, expires_at"


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """How many bytes may be stored of files, of everybody's and of one key's."""

    together: int
    per_key: int | None

    def check(self, tx: Transaction, owner: str) -> None:
        """Raises `ApiError` (413) when there is more."""
        [together] = tx.row("SELECT SUM(size) FROM files") or [0]
        if int(together or 0) > self.together:
            raise _no_room("all files together", self.together, "batches.storage_limit")
        if self.per_key is None:
            return
        [own] = tx.row("SELECT SUM(size) FROM files WHERE owner = ?", (owner,)) or [0]
        if int(own or 0) > self.per_key:
            whose = f"the files of the key {owner!r}"
            raise _no_room(whose, self.per_key, "batches.storage_limit_per_key")


class FileStore:
    """Makes, reads and deletes files. A file can be read once it is whole."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(
        self, filename: str, purpose: str, owner: str, file_id: str | None = None
    ) -> str:
        """Make room for a file; the id that `append` wants. With `file_id`, what was there under
        that id is begun anew."""
        file_id = file_id or new_id("file-")

        def work(tx: Transaction) -> None:
            delete(tx, [file_id])
            tx.execute(
                "INSERT INTO files (id, created_at, filename, purpose, owner, size, whole) "
                "VALUES (?, ?, ?, ?, ?, 0, 0)",
                (file_id, int(tx.now()), filename, purpose, owner),
            )

        await self._database.write(work)
        return file_id

    async def append(
        self, file_id: str, number: int, data: bytes, limits: StorageLimits | None = None
    ) -> None:
        """Add a piece; `number` from 0 without a gap. Raises `ApiError` (413) when there is no
        room for it within `limits`."""

        def work(tx: Transaction) -> None:
            tx.execute(
                "INSERT INTO file_pieces (file_id, number, data) VALUES (?, ?, ?)",
                (file_id, number, data),
            )
            tx.execute("UPDATE files SET size = size + ? WHERE id = ?", (len(data), file_id))
            if limits is not None:
                row = tx.row("SELECT owner FROM files WHERE id = ?", (file_id,))
                limits.check(tx, "" if row is None else row[0])

        await self._database.write(work)

    async def finish(
        self, file_id: str, size: int, purpose: str, expires_after: int | None
    ) -> File:
        """All pieces are there."""

        def work(tx: Transaction) -> File:
            tx.execute("UPDATE files SET purpose = ? WHERE id = ?", (purpose, file_id))
            finish(tx, file_id, size, expires_after)
            file = find(tx, file_id)
            assert file is not None
            return file

        return await self._database.write(work)

    async def get(self, file_id: str, owner: str | None = None) -> File:
        """A file's card, if it is `owner`'s (None: whose it may be). Raises `ApiError` 404."""
        file = await self._database.read(lambda tx: find(tx, file_id, owner))
        if file is None:
            raise file_not_found(file_id)
        return file

    async def listed(
        self, owner: str, *, after: str | None, limit: int, purpose: str | None, newest_first: bool
    ) -> list[File]:
        """Up to `limit` files that come after the one with the id `after`."""

        def work(tx: Transaction) -> list[File]:
            conditions = ["owner = ?", "whole = 1", "(expires_at IS NULL OR expires_at > ?)"]
            parameters: list[Value] = [owner, int(tx.now())]
            if after is not None:
                conditions.append("id < ?" if newest_first else "id > ?")
                parameters.append(after)
            if purpose is not None:
                conditions.append("purpose = ?")
                parameters.append(purpose)
            rows = tx.rows(
                f"SELECT {_COLUMNS} FROM files WHERE {' AND '.join(conditions)} "
                f"ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?",
                (*parameters, limit),
            )
            return [_file(row) for row in rows]

        return await self._database.read(work)

    async def delete(self, file_id: str) -> bool:
        """Delete a file; whether it was there."""
        return bool(await self._database.write(lambda tx: delete(tx, [file_id])))

    async def pieces(self, file_id: str) -> AsyncIterator[bytes]:
        """A file's content. Ends early when the file is deleted meanwhile."""
        number = 0
        while True:
            row = await self._database.read(partial(_piece, file_id=file_id, number=number))
            if row is None:
                return
            yield row[0]
            number += 1

    async def lines(self, file_id: str, limit: int) -> AsyncIterator[bytes]:
        """A file's lines, without their ends. Raises `InvalidRequest` when one is longer than
        `limit` bytes."""
        rest = b""
        async for piece in self.pieces(file_id):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                yield line
            if len(rest) > limit:
                raise InvalidRequest(f"A line is longer than {limit} bytes (router.body_limit).")
        if rest:
            yield rest

    async def sweep(self) -> int:
        """Delete what has expired, and uploads that broke off; how many files."""

        def work(tx: Transaction) -> int:
            now = int(tx.now())
            rows = tx.rows(
                "SELECT id FROM files WHERE expires_at <= ? OR (whole = 0 AND created_at <= ?) "
                "LIMIT 100",
                (now, now - _ABANDONED_S),
            )
            return delete(tx, [row[0] for row in rows])

        return await self._database.write(work)


# -- inside a transaction


def find(tx: Transaction, file_id: str, owner: str | None = None) -> File | None:
    """The card of a file that is whole and has not expired, if it is `owner`'s (None: whose it
    may be)."""
    row = tx.row(
        f"SELECT {_COLUMNS} FROM files WHERE id = ? AND whole = 1 "
        "AND (expires_at IS NULL OR expires_at > ?) AND owner = COALESCE(?, owner)",
        (file_id, int(tx.now()), owner),
    )
    return None if row is None else _file(row)


def finish(tx: Transaction, file_id: str, size: int, expires_after: int | None) -> None:
    """A file is whole; it expires so many seconds after it was begun, or never."""
    tx.execute(
        "UPDATE files SET size = ?, expires_at = created_at + CAST(? AS BIGINT), whole = 1 "
        "WHERE id = ?",
        (size, expires_after, file_id),
    )


def delete(tx: Transaction, file_ids: Sequence[str]) -> int:
    """Delete files; how many there were."""
    found = 0
    for file_id in file_ids:
        found += tx.execute("DELETE FROM files WHERE id = ?", (file_id,))
        tx.execute("DELETE FROM file_pieces WHERE file_id = ?", (file_id,))
    return found


def _piece(tx: Transaction, file_id: str, number: int) -> Row | None:
    return tx.row(
        "SELECT data FROM file_pieces WHERE file_id = ? AND number = ?", (file_id, number)
    )


def _file(row: Row) -> File:
    file_id, size, created_at, filename, purpose, expires_at = row
    return File(file_id, size, created_at, filename, purpose, expires_at)


def _no_room(what: str, limit: int, setting: str) -> ApiError:
    return ApiError(
        413,
        f"There is no room for this file: {what} may be {limit} bytes ({setting}). Delete some "
        "that are no longer needed, or upload with a shorter expires_after.",
        param="file",
        code="storage_limit_exceeded",
        headers={"x-should-retry": "false"},
    )


def file_not_found(file_id: str) -> ApiError:
    return ApiError(
        404, f"There is no file with the id {file_id[:128]!r}.", param="file_id", code="not_found"
    )
