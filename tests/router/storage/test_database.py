"""What both databases do alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from stoker.errors import StorageError
from stoker.router.storage import Database, Row, Transaction, Value, open_database
from tests.router.postgres_server import PostgresServer

STEPS = ["CREATE TABLE things (name TEXT PRIMARY KEY, size BIGINT NOT NULL, data BYTEA)"]


def insert(name: str, size: int, data: bytes | None = None) -> Callable[[Transaction], int]:
    return lambda tx: tx.execute(
        "INSERT INTO things (name, size, data) VALUES (?, ?, ?)", (name, size, data)
    )


def select(sql: str, *parameters: Value) -> Callable[[Transaction], list[Row]]:
    return lambda tx: tx.rows(sql, parameters)


async def names(database: Database) -> list[str]:
    return [row[0] for row in await database.read(select("SELECT name FROM things ORDER BY name"))]


async def test_values_come_back_as_they_were(database: Database) -> None:
    await database.migrate("things", STEPS)
    big, data = 2**62 + 1, bytes(range(256))
    assert await database.write(insert("100% – ü", big, data)) == 1
    rows = await database.read(select("SELECT name, size, data FROM things WHERE size = ?", big))
    assert rows == [("100% – ü", big, data)]
    assert await database.read(lambda tx: tx.row("SELECT 1 FROM things WHERE size = 0")) is None


async def test_work_that_raises_leaves_nothing(database: Database) -> None:
    await database.migrate("things", STEPS)

    def fail(transaction: Transaction) -> None:
        insert("a", 1)(transaction)
        raise KeyError("on purpose")

    done = await asyncio.gather(
        database.write(insert("b", 1)),
        database.write(fail),
        database.write(insert("c", 1)),
        return_exceptions=True,
    )
    assert [done[0], type(done[1]), done[2]] == [1, KeyError, 1]
    assert await names(database) == ["b", "c"]


async def test_a_refused_statement_is_a_storage_error(database: Database) -> None:
    await database.migrate("things", STEPS)
    await database.write(insert("a", 1))
    with pytest.raises(StorageError, match=r"UNIQUE|duplicate key"):
        await database.write(insert("a", 2))
    with pytest.raises(StorageError, match="nothing_here"):
        await database.read(select("SELECT * FROM nothing_here"))
    await database.write(insert("b", 2))
    assert await names(database) == ["a", "b"]


async def test_a_read_cannot_change_anything(database: Database) -> None:
    await database.migrate("things", STEPS)
    with pytest.raises(StorageError, match=r"read.?only"):
        await database.read(insert("a", 1))
    await database.write(insert("b", 1))
    assert await names(database) == ["b"]


async def test_lost_connections_are_made_anew(postgres: PostgresServer) -> None:
    database = open_database(postgres.url())
    await database.migrate("things", STEPS)
    end = select(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != "
        "pg_backend_pid() AND datname = current_database()"
    )
    for name in "abcdef":
        await database.write(insert(name, 1))
        await database.read(end)
    assert await names(database) == list("abcdef")
    await database.close()


async def test_two_hundred_increments_at_once(database: Database, database_url: str) -> None:
    """By two processes' worth of connections; each reads what it changes."""
    await database.migrate("things", STEPS)
    await database.write(insert("counter", 0))
    other = open_database(database_url)

    def increment(transaction: Transaction) -> int:
        row = transaction.row(
            f"SELECT size FROM things WHERE name = ?{transaction.for_update}", ("counter",)
        )
        assert row is not None
        transaction.execute("UPDATE things SET size = ? WHERE name = ?", (row[0] + 1, "counter"))
        return int(row[0])

    seen = await asyncio.gather(
        *(one.write(increment) for _ in range(100) for one in (database, other))
    )
    await other.close()
    assert sorted(seen) == list(range(200))


async def test_skip_locked_shares_rows_out(database: Database, database_url: str) -> None:
    await database.migrate("things", STEPS)
    for name in "abcd":
        await database.write(insert(name, 0))
    other = open_database(database_url)

    def claim(transaction: Transaction) -> list[Any]:
        rows = transaction.rows(
            "SELECT name FROM things WHERE size = 0 ORDER BY name LIMIT 1" + transaction.skip_locked
        )
        transaction.execute_many("UPDATE things SET size = 1 WHERE name = ?", rows)
        return [row[0] for row in rows]

    claims = await asyncio.gather(
        *(one.write(claim) for _ in range(3) for one in (database, other))
    )
    await other.close()
    assert sorted(name for claimed in claims for name in claimed) == list("abcd")


async def test_migrations_run_once_each(database: Database, database_url: str) -> None:
    other = open_database(database_url)
    more = [
        *STEPS,
        "INSERT INTO things VALUES ('x', 1, NULL); INSERT INTO things VALUES ('y', 2, NULL)",
    ]
    await asyncio.gather(*(one.migrate("things", STEPS) for one in (database, other) * 3))
    await asyncio.gather(*(one.migrate("things", more) for one in (database, other) * 3))
    await other.close()
    assert await names(database) == ["x", "y"]
    with pytest.raises(StorageError, match="version 2, made by a newer Stoker"):
        await database.migrate("things", STEPS)


async def test_the_event_loop_does_not_wait(database: Database) -> None:
    release = threading.Event()

    def wait(_: Transaction) -> str:
        assert release.wait(60)
        return "done"

    waiting = asyncio.ensure_future(database.write(wait))
    assert await database.read(lambda tx: tx.row("SELECT 1")) == (1,)
    release.set()
    assert await waiting == "done"


async def test_work_already_given_is_finished_before_closing(database_url: str) -> None:
    database = open_database(database_url)
    await database.migrate("things", STEPS)
    writes = [asyncio.ensure_future(database.write(insert(name, 1))) for name in "abc"]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writes) == [1, 1, 1]
    with pytest.raises(StorageError, match="closed"):
        await database.read(select("SELECT 1"))
    again = open_database(database_url)
    assert await names(again) == ["a", "b", "c"]
    await again.close()


@pytest.mark.parametrize(
    "url", ["", "sqlite:///", "sqlite://router.db", "mysql://h/d", "/var/router.db", "postgresql:"]
)
def test_a_url_that_names_no_database(url: str) -> None:
    with pytest.raises(StorageError, match="names no database: write sqlite:///"):
        open_database(url)


def test_passwords_are_not_repeated() -> None:
    with pytest.raises(StorageError) as refused:
        open_database("mysql://me:secret@host/name")
    assert "secret" not in str(refused.value)


async def use(url: str) -> Sequence[Row]:
    database = open_database(url)
    try:
        return await database.read(select("SELECT 1"))
    finally:
        await database.close()


async def test_a_database_that_cannot_be_reached(tmp_path: Any) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be used"):
        await use(f"sqlite:///{tmp_path}/file/router.db")
    (tmp_path / "text.db").write_text("not a database " * 100)
    with pytest.raises(StorageError, match=r"text.db cannot be used: file is not a database"):
        await use(f"sqlite:///{tmp_path}/text.db")
    with pytest.raises(StorageError, match="cannot be reached"):
        await use(f"postgresql:///name?host={tmp_path}")
