"""A database as the rest of the router sees it: transactions, whichever program is behind them.

The SQL is what SQLite and PostgreSQL both understand: parameters are `?` (and there is no other
`?` in a statement), types are `TEXT`, `BIGINT`, `DOUBLE PRECISION` and `BYTEA`, and
`INSERT … ON CONFLICT`, `RETURNING`, `UPDATE … FROM` and `CAST(SUM(x) AS BIGINT)` (a bare sum is
no int in PostgreSQL) work in both. Text holds no NUL character, which PostgreSQL refuses.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from stoker.errors import StorageError

Value = str | bytes | int | float | None
Row = tuple[Any, ...]
T = TypeVar("T")


class Transaction(Protocol):
    """One transaction under way. Only for the work it was given to, in that work's thread."""

    @property
    def for_update(self) -> str:
        """Ends a `SELECT` whose rows nobody else may change until this transaction is over."""

    @property
    def skip_locked(self) -> str:
        """The same, and leaves out rows that another transaction holds."""

    def now(self) -> float:
        """Seconds since 1970 by the database's clock, the one that its routers share."""

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        """Run a statement; how many rows it changed."""

    def execute_many(self, sql: str, parameters: Iterable[Sequence[Value]]) -> None:
        """Run a statement once for each of `parameters`."""

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """Run a statement; the rows it gives."""

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        """The first row a statement gives, if any."""


class Database(ABC):
    """A database that is open. Every operation raises `StorageError` when the database cannot
    be reached, or refuses a statement."""

    @property
    @abstractmethod
    def is_there(self) -> bool:
        """Whether it may hold something; the first write makes a database that is not there."""

    @abstractmethod
    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on one consistent state, which it cannot change."""

    @abstractmethod
    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` and commit what it did; when it raises, nothing of it remains.

        Returns once the commit is on disk. Others may commit between two statements of `work`,
        so what it reads in order to change goes with `for_update`. `work` may be run again from
        its beginning when the database asks for it, so it should have no effect but on its
        transaction. Cancelling the wait does not undo work that has begun.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish the work under way and close."""

    async def migrate(self, subject: str, steps: Sequence[str]) -> None:
        """Bring the tables of one subject up to date.

        Each of `steps` is a string of statements, separated by semicolons, that runs once in the
        life of a database; a later version of the program appends to them. Safe when several
        processes do it at once.
        """

        def work(transaction: Transaction) -> None:
            self._lock_schema(transaction)
            transaction.execute(
                "CREATE TABLE IF NOT EXISTS stoker_schema "
                "(subject TEXT PRIMARY KEY, version BIGINT NOT NULL)"
            )
            found = transaction.row(
                "SELECT version FROM stoker_schema WHERE subject = ?", (subject,)
            )
            version = 0 if found is None else int(found[0])
            if version > len(steps):
                raise StorageError(
                    f"the tables for {subject} are of version {version}, made by a newer Stoker; "
                    f"this one knows versions up to {len(steps)}: update it, or use another "
                    "database"
                )
            for step in steps[version:]:
                for statement in step.split(";"):
                    if statement.strip():
                        transaction.execute(statement)
            transaction.execute(
                "INSERT INTO stoker_schema (subject, version) VALUES (?, ?) "
                "ON CONFLICT (subject) DO UPDATE SET version = excluded.version",
                (subject, len(steps)),
            )

        await self.write(work)

    @abstractmethod
    def _lock_schema(self, transaction: Transaction) -> None:
        """Let one process at a time change tables, until the transaction's end."""
