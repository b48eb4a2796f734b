"""SQLite: one writer thread, which commits what waits together, and readers beside it.

In WAL mode readers see the last commit and never wait for the writer. Several processes may use
one file.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from stoker.errors import StorageError
from stoker.router.storage.base import Database, Row, Transaction, Value

T = TypeVar("T")

_READERS = 2
# A commit is a wait for the disk, so writes that wait at the same time share one.
_COMMIT_TOGETHER = 256
# How long another process may hold the file before a write fails.
_BUSY_S = 30.0


class SqliteTransaction:
    """See `Transaction`."""

    # One writer at a time: whatever a transaction reads, nobody else changes.
    for_update = ""
    skip_locked = ""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def now(self) -> float:
        return time.time()

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        return self._connection.execute(sql, parameters).rowcount

    def execute_many(self, sql: str, parameters: Iterable[Sequence[Value]]) -> None:
        self._connection.executemany(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None


@dataclass
class _Job:
    work: Callable[[Transaction], Any]
    done: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class SqliteDatabase(Database):
    """The database in one file. Made on first use, its directory too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="sqlite-read")
        self._mine = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    @property
    def is_there(self) -> bool:
        return self.path.exists()

    async def read(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, work)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self._check_open()
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="sqlite-write", daemon=True)
            self._writer.start()
        job = _Job(work)
        self._jobs.put(job)
        result: T = await asyncio.wrap_future(job.done)
        return result

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.join()
        self._readers.shutdown()
        for connection in self._connections:
            connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"the database {self.path} is closed")

    def _lock_schema(self, transaction: Transaction) -> None:
        pass  # the file's one writer is this transaction

    # -- in threads

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error
        self._connections.append(connection)
        return connection

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"the database {self.path} cannot be used: {error}")

    def _read(self, work: Callable[[Transaction], T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._mine, "connection", None)
        if connection is None:
            connection = self._mine.connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
        try:
            connection.execute("BEGIN")
            try:
                return work(SqliteTransaction(connection))
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _write(self) -> None:
        connection: sqlite3.Connection | None = None
        more = True
        while more:
            jobs, more = self._waiting()
            try:
                connection = connection or self._connect()
                _commit_together(connection, jobs)
            except (StorageError, sqlite3.Error) as error:
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.rollback()
                for job in jobs:
                    job.error = job.error or error
            for job in jobs:
                self._tell(job)

    def _waiting(self) -> tuple[list[_Job], bool]:
        """The jobs that wait, at least one; and whether there may be more after them."""
        jobs: list[_Job] = []
        with contextlib.suppress(queue.Empty):
            while len(jobs) < _COMMIT_TOGETHER:
                job = self._jobs.get(block=not jobs)
                if job is None:
                    return jobs, False
                if job.done.set_running_or_notify_cancel():
                    jobs.append(job)
        return jobs, True

    def _tell(self, job: _Job) -> None:
        if isinstance(job.error, sqlite3.Error):
            failure = self._failed(job.error)
            failure.__cause__ = job.error
            job.done.set_exception(failure)
        elif job.error is not None:
            job.done.set_exception(job.error)
        else:
            job.done.set_result(job.result)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write ahead, as every connection to the file does.

    Turning it on takes the whole file, and SQLite does not wait for that as it does for a lock:
    where two connections begin at once, one is told that the file is locked.
    """
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _commit_together(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    """Run jobs in one transaction; one that raises takes only its own changes back."""
    if not jobs:
        return
    transaction = SqliteTransaction(connection)
    connection.execute("BEGIN IMMEDIATE")
    for job in jobs:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(transaction)
        except BaseException as error:
            job.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
    connection.execute("COMMIT")
