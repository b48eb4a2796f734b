"""PostgreSQL, by psycopg: a few threads with a connection each."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeVar, cast

import psycopg
from psycopg import IsolationLevel
from psycopg.errors import DeadlockDetected, SerializationFailure

from stoker.errors import StorageError
from stoker.router.storage.base import Database, Row, Transaction, Value

T = TypeVar("T")
_Connection = psycopg.Connection[Row]

_CONNECTIONS = 4
_CONNECT_S = 10
_ATTEMPTS = 3
# "stoker" in ASCII: which of the server's advisory locks is ours.
_SCHEMA_LOCK = 0x73746F6B6572


class PostgresTransaction:
    """See `Transaction`."""

    for_update = " FOR UPDATE"
    skip_locked = " FOR UPDATE SKIP LOCKED"

    def __init__(self, cursor: psycopg.Cursor[Row]) -> None:
        self._cursor = cursor

    def now(self) -> float:
        row = self.row("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)")
        assert row is not None
        return float(row[0])

    def execute(self, sql: str, parameters: Sequence[Value] = ()) -> int:
        self._cursor.execute(_in_psycopg(sql), parameters)
        return self._cursor.rowcount

    def execute_many(self, sql: str, parameters: Iterable[Sequence[Value]]) -> None:
        self._cursor.executemany(_in_psycopg(sql), parameters)

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        return self._cursor.execute(_in_psycopg(sql), parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Value] = ()) -> Row | None:
        rows = self.rows(sql, parameters)
        return rows[0] if rows else None


class PostgresDatabase(Database):
    """A database of a PostgreSQL server. Connections that were lost are made anew."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="postgres")
        self._mine = threading.local()
        self._connections: set[_Connection] = set()
        self._closed = False

    @property
    def is_there(self) -> bool:
        return True

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._in_thread(work, IsolationLevel.REPEATABLE_READ)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        return await self._in_thread(work, IsolationLevel.READ_COMMITTED)

    async def _in_thread(self, work: Callable[[Transaction], T], isolation: IsolationLevel) -> T:
        if self._closed:
            raise StorageError("the database is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, work, isolation)

    async def close(self) -> None:
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()

    def _lock_schema(self, transaction: Transaction) -> None:
        transaction.rows("SELECT pg_advisory_xact_lock(?)", (_SCHEMA_LOCK,))

    # -- in threads

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._mine, "connection", None)
        if connection is None or connection.closed:
            try:
                connection = psycopg.connect(self._url, connect_timeout=_CONNECT_S)
            except psycopg.Error as error:
                raise StorageError(f"the database cannot be reached: {error}") from error
            self._mine.connection = connection
            self._connections.add(connection)
        return connection

    def _run(self, work: Callable[[Transaction], T], isolation: IsolationLevel) -> T:
        for left in reversed(range(_ATTEMPTS)):
            connection = self._connection()
            connection.isolation_level = isolation
            connection.read_only = isolation is IsolationLevel.REPEATABLE_READ
            try:
                with connection.cursor() as cursor:
                    result = work(PostgresTransaction(cursor))
            except psycopg.Error as error:
                again = connection.closed or isinstance(
                    error, (SerializationFailure, DeadlockDetected)
                )
                self._take_back(connection)
                if not again or not left:
                    raise StorageError(f"the database refused: {error}") from error
                continue
            except BaseException:
                self._take_back(connection)
                raise
            try:
                connection.commit()
            except (SerializationFailure, DeadlockDetected) as error:
                self._take_back(connection)
                if not left:
                    raise StorageError(f"the database refused: {error}") from error
                continue
            except psycopg.Error as error:
                # Whether it was committed cannot be known, so it is not repeated.
                self._drop(connection)
                raise StorageError(f"the database was lost during a commit: {error}") from error
            return result
        raise AssertionError("the last attempt returns or raises")

    def _take_back(self, connection: _Connection) -> None:
        """Undo the transaction; a connection that cannot is of no use."""
        try:
            connection.rollback()
        except psycopg.Error:
            self._drop(connection)
        if connection.closed:
            self._connections.discard(connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(psycopg.Error):
            connection.close()


@lru_cache(maxsize=512)
def _in_psycopg(sql: str) -> Any:
    """The statement with psycopg's mark for parameters."""
    return cast(Any, sql.replace("%", "%%").replace("?", "%s"))
