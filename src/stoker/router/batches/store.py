"""Batches in the database: their states, their lines, and who works on them.

One router works on a batch at a time: the one that holds it. A hold lasts a while and is renewed;
when its router dies, another takes the batch over. Everything a router writes about a batch is
written only while it holds it, in the same transaction, so that one which was cut off and comes
back cannot change what another has gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stoker.api.batch_lines import LineError
from stoker.api.errors import ApiError
from stoker.errors import StokerError
from stoker.router.batches import files
from stoker.router.batches.holder import is_dead
from stoker.router.batches.objects import Batch, BatchRequest, window_seconds
from stoker.router.batches.rows import SELECT, batch_of, find, set_status, to_json
from stoker.router.batches.schema import new_id
from stoker.router.storage import Database, Transaction, Value
from stoker.router.usage import Usage

T = TypeVar("T")

UNFINISHED = ("validating", "in_progress", "finalizing", "cancelling")


class HoldLost(StokerError):
    """Another router works on the batch now."""


@dataclass(frozen=True, slots=True)
class Line:
    """A request that has no result yet."""

    number: int
    custom_id: str
    model: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a line: `text` is its line of the output or error file."""

    number: int
    good: bool
    text: bytes
    usage: Usage | None = None


class BatchStore:
    """The batches of all routers that share a database; `holder` is this one's name."""

    def __init__(self, database: Database, holder: str, *, hold_s: float) -> None:
        self._database = database
        self._holder = holder
        self._hold_s = hold_s

    # -- what clients ask

    async def create(self, request: BatchRequest, owner: str) -> Batch:
        """A batch to be validated. Raises `ApiError` when its file is not there."""
        batch_id = new_id("batch_")

        def work(tx: Transaction) -> Batch:
            file = files.find(tx, request.input_file_id, owner)
            if file is None:
                raise ApiError(
                    404,
                    f"There is no file with the id {request.input_file_id!r}.",
                    param="input_file_id",
                    code="not_found",
                )
            if file.purpose != "batch":
                raise ApiError(
                    400,
                    f"The file {file.id} was uploaded for {file.purpose!r}; a batch needs one "
                    "uploaded with the purpose 'batch'.",
                    param="input_file_id",
                )
            now = int(tx.now())
            after = request.output_expires_after
            values: dict[str, Value] = {
                "id": batch_id,
                "owner": owner,
                "status": "validating",
                "endpoint": request.endpoint,
                "input_file_id": file.id,
                "completion_window": request.completion_window,
                "metadata": to_json(request.metadata),
                "output_expires_after": after.seconds if after is not None else None,
                "created_at": now,
                "expires_at": now + window_seconds(request.completion_window),
            }
            marks = ", ".join("?" * len(values))
            tx.execute(
                f"INSERT INTO batches ({', '.join(values)}) VALUES ({marks})", [*values.values()]
            )
            return find(tx, batch_id)

        return await self._database.write(work)

    async def get(self, batch_id: str, owner: str | None = None) -> Batch:
        """A batch, if it is `owner`'s (None: whose it may be). Raises `ApiError` 404."""
        return await self._database.read(lambda tx: find(tx, batch_id, owner))

    async def owner(self, batch_id: str) -> str:
        """Whose batch it is."""
        row = await self._database.read(
            lambda tx: tx.row("SELECT owner FROM batches WHERE id = ?", (batch_id,))
        )
        assert row is not None
        return str(row[0])

    async def newest(self, owner: str, *, after: str | None, limit: int) -> list[Batch]:
        """Up to `limit` batches, newest first, made before the one with the id `after`."""

        def work(tx: Transaction) -> list[Batch]:
            earlier, parameters = ("", []) if after is None else ("AND id < ? ", [after])
            rows = tx.rows(
                f"{SELECT} WHERE owner = ? {earlier}ORDER BY id DESC LIMIT ?",
                (owner, *parameters, limit),
            )
            return [batch_of(row) for row in rows]

        return await self._database.read(work)

    async def cancel(self, batch_id: str, owner: str) -> Batch:
        """Ask for a batch to be cancelled. Raises `ApiError` 404, or 409 if it is too late."""

        def work(tx: Transaction) -> Batch:
            batch = find(tx, batch_id, owner, tx.for_update)
            if batch.status in ("validating", "in_progress"):
                tx.execute(
                    "UPDATE batches SET status = 'cancelling', cancelling_at = ? WHERE id = ?",
                    (int(tx.now()), batch_id),
                )
                return find(tx, batch_id)
            if batch.status not in ("cancelling", "cancelled"):
                raise ApiError(
                    409,
                    f"The batch {batch_id} is {batch.status}, so it cannot be cancelled.",
                    code="batch_not_cancellable",
                    headers={"x-should-retry": "false"},
                )
            return batch

        return await self._database.write(work)

    # -- holding

    async def take(self, limit: int, held: Sequence[str]) -> list[str]:
        """Take hold of unfinished batches that nobody holds, oldest first; their ids. `held`:
        those this router works on already."""

        def work(tx: Transaction) -> list[str]:
            now = tx.now()
            marks = ", ".join("?" * len(UNFINISHED))
            rows = tx.rows(
                f"SELECT id, held_by, held_until FROM batches WHERE status IN ({marks}) "
                f"ORDER BY id{tx.skip_locked}",
                UNFINISHED,
            )
            free = [
                batch_id
                for batch_id, holder, until in rows
                if batch_id not in held
                and (holder is None or until <= now or holder == self._holder or is_dead(holder))
            ]
            for batch_id in free[:limit]:
                tx.execute(
                    "UPDATE batches SET held_by = ?, held_until = ? WHERE id = ?",
                    (self._holder, now + self._hold_s, batch_id),
                )
            return free[:limit]

        return await self._database.write(work)

    async def renew(self, batch_id: str) -> str:
        """Go on holding a batch; its status. Raises `HoldLost`."""

        def work(tx: Transaction) -> str:
            status = self._check_held(tx, batch_id)
            tx.execute(
                "UPDATE batches SET held_until = ? WHERE id = ?",
                (tx.now() + self._hold_s, batch_id),
            )
            return status

        return await self._database.write(work)

    async def let_go(self, batch_id: str) -> None:
        """Hold a batch no longer, so that any router may take it at once."""
        await self._database.write(
            lambda tx: tx.execute(
                "UPDATE batches SET held_by = NULL, held_until = 0 WHERE id = ? AND held_by = ?",
                (batch_id, self._holder),
            )
        )

    def _check_held(self, tx: Transaction, batch_id: str) -> str:
        """The status of a batch that this router holds, which nobody changes until the
        transaction is over."""
        row = tx.row(
            f"SELECT status, held_by FROM batches WHERE id = ?{tx.for_update}", (batch_id,)
        )
        if row is None or row[1] != self._holder:
            raise HoldLost(f"another router works on the batch {batch_id}")
        return str(row[0])

    async def _held(self, batch_id: str, work: Callable[[Transaction, str], T]) -> T:
        """Write about a batch while holding it; `work` gets its status."""
        return await self._database.write(lambda tx: work(tx, self._check_held(tx, batch_id)))

    # -- validation

    async def forget_lines(self, batch_id: str) -> None:
        """Before validation: what an earlier one, broken off, has left."""
        await self._held(
            batch_id,
            lambda tx, _: tx.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,)),
        )

    async def add_lines(self, batch_id: str, lines: Sequence[Line]) -> None:
        await self._held(
            batch_id,
            lambda tx, _: tx.execute_many(
                "INSERT INTO batch_lines (batch_id, number, custom_id, model, body) "
                "VALUES (?, ?, ?, ?, ?)",
                [(batch_id, line.number, line.custom_id, line.model, line.body) for line in lines],
            ),
        )

    async def validated(self, batch_id: str, total: int, model: str | None) -> str:
        """All lines are there; the batch's status now."""

        def work(tx: Transaction, status: str) -> str:
            tx.execute(
                "UPDATE batches SET total = ?, model = ? WHERE id = ?", (total, model, batch_id)
            )
            if status != "validating":
                return status  # cancelled meanwhile
            set_status(tx, batch_id, "in_progress")
            return "in_progress"

        return await self._held(batch_id, work)

    async def fail(self, batch_id: str, errors: Sequence[LineError]) -> None:
        """The input file cannot be run."""

        def work(tx: Transaction, status: str) -> None:
            tx.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,))
            listed = {"object": "list", "data": [error.model_dump() for error in errors]}
            tx.execute("UPDATE batches SET errors = ? WHERE id = ?", (to_json(listed), batch_id))
            set_status(tx, batch_id, "failed")

        await self._held(batch_id, work)

    # -- running

    async def waiting_lines(self, batch_id: str, after: int, limit: int) -> list[Line]:
        """Lines without a result, of a number greater than `after`."""
        rows = await self._database.read(
            lambda tx: tx.rows(
                "SELECT number, custom_id, model, body FROM batch_lines WHERE batch_id = ? "
                "AND number > ? AND result IS NULL ORDER BY number LIMIT ?",
                (batch_id, after, limit),
            )
        )
        return [Line(*row) for row in rows]

    async def record(self, batch_id: str, results: Sequence[Result]) -> int:
        """Keep results and count them; how many are new. A line has one result: the first."""

        def work(tx: Transaction, _: str) -> int:
            new = [result for result in results if _keep(tx, batch_id, result)]
            good = sum(result.good for result in new)
            used = [result.usage for result in new if result.usage is not None]
            tx.execute(
                "UPDATE batches SET completed = completed + ?, failed = failed + ?, "
                "input_tokens = input_tokens + ?, cached_tokens = cached_tokens + ?, "
                "output_tokens = output_tokens + ? WHERE id = ?",
                (
                    good,
                    len(new) - good,
                    sum(usage.prompt_tokens for usage in used),
                    sum(usage.cached_tokens for usage in used),
                    sum(usage.completion_tokens for usage in used),
                    batch_id,
                ),
            )
            return len(new)

        return await self._held(batch_id, work)

    # -- the end

    async def begin_finalizing(self, batch_id: str) -> str:
        """No more requests are sent; the batch's status now: finalizing, or cancelling."""

        def work(tx: Transaction, status: str) -> str:
            if status != "in_progress":
                return status
            set_status(tx, batch_id, "finalizing")
            return "finalizing"

        return await self._held(batch_id, work)

    async def results(
        self, batch_id: str, after: int, limit: int
    ) -> list[tuple[int, str, bool | None, bytes | None]]:
        """Lines in order, of a number greater than `after`: number, custom_id, whether the
        result is good, the result."""
        rows = await self._database.read(
            lambda tx: tx.rows(
                "SELECT number, custom_id, good, result FROM batch_lines WHERE batch_id = ? "
                "AND number > ? ORDER BY number LIMIT ?",
                (batch_id, after, limit),
            )
        )
        return [(n, custom, None if good is None else good == 1, r) for n, custom, good, r in rows]

    async def finish(
        self,
        batch_id: str,
        status: str,
        *,
        unanswered: int,
        output: tuple[str, int] | None,
        errors: tuple[str, int] | None,
        kept: int,
    ) -> None:
        """The batch is over, its output and error files (id, size) are whole, and its lines no
        longer needed, all at once. `kept`: seconds the files are kept if the client did not
        say."""

        def work(tx: Transaction, _: str) -> None:
            row = tx.row("SELECT output_expires_after FROM batches WHERE id = ?", (batch_id,))
            asked = None if row is None else row[0]
            for file in (output, errors):
                if file is not None:
                    files.finish(tx, *file, kept if asked is None else asked)
            tx.execute("DELETE FROM batch_lines WHERE batch_id = ?", (batch_id,))
            tx.execute(
                "UPDATE batches SET output_file_id = ?, error_file_id = ?, failed = failed + ? "
                "WHERE id = ?",
                (output and output[0], errors and errors[0], unanswered, batch_id),
            )
            set_status(tx, batch_id, status)

        await self._held(batch_id, work)


def _keep(tx: Transaction, batch_id: str, result: Result) -> bool:
    changed = tx.execute(
        "UPDATE batch_lines SET good = ?, result = ? "
        "WHERE batch_id = ? AND number = ? AND result IS NULL",
        (int(result.good), result.text, batch_id, result.number),
    )
    return changed == 1
