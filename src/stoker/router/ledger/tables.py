"""Keys and usage in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from stoker.errors import InvalidRequest
from stoker.router.config import KeyConfig, KeyLimits
from stoker.router.ledger.book import TALLY_FIELDS, Entries, Tally
from stoker.router.ledger.purse import Period
from stoker.router.storage import Database, Transaction

SUBJECT = "ledger"
STEPS = (
    """
    CREATE TABLE api_keys (
        name TEXT PRIMARY KEY, hash TEXT NOT NULL UNIQUE, limits TEXT NOT NULL,
        created_at BIGINT NOT NULL, revoked_at BIGINT
    );
    CREATE TABLE usage (
        day BIGINT NOT NULL, api_key TEXT NOT NULL, model TEXT NOT NULL, engine TEXT NOT NULL,
        requests BIGINT NOT NULL, failed BIGINT NOT NULL, cancelled BIGINT NOT NULL,
        refused BIGINT NOT NULL, estimated BIGINT NOT NULL, prompt_tokens BIGINT NOT NULL,
        cached_tokens BIGINT NOT NULL, completion_tokens BIGINT NOT NULL,
        engine_seconds DOUBLE PRECISION NOT NULL, cost DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (day, api_key, model, engine)
    )
    """,
)


async def prepare(database: Database) -> None:
    """Make the tables, or bring them up to date."""
    await database.migrate(SUBJECT, STEPS)


class StoredKey(NamedTuple):
    """A key in the database. Times are seconds since 1970."""

    key: KeyConfig
    created_at: int
    revoked_at: int | None


async def add_key(database: Database, key: KeyConfig, now: int) -> None:
    """Keep a new key. Raises `InvalidRequest` when there is one of that name."""
    limits = KeyLimits(**{name: getattr(key, name) for name in KeyLimits.model_fields})

    def work(transaction: Transaction) -> int:
        return transaction.execute(
            "INSERT INTO api_keys (name, hash, limits, created_at, revoked_at) "
            "VALUES (?, ?, ?, ?, NULL) ON CONFLICT (name) DO UPDATE SET "
            "hash = excluded.hash, limits = excluded.limits, created_at = excluded.created_at, "
            "revoked_at = NULL WHERE api_keys.revoked_at IS NOT NULL",
            (key.name, key.hash, limits.model_dump_json(), now),
        )

    if not await database.write(work):
        raise InvalidRequest(
            f"there is a key named {key.name!r}; revoke it first (stoker keys revoke {key.name}), "
            "or choose another name",
            param="name",
        )


async def revoke_key(database: Database, name: str, now: int) -> bool:
    """Let a key be known no more; whether there was one."""
    sql = "UPDATE api_keys SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL"
    return await database.write(lambda transaction: transaction.execute(sql, (now, name))) > 0


async def all_keys(database: Database) -> list[StoredKey]:
    """The keys in the database, revoked ones too."""
    sql = "SELECT name, hash, limits, created_at, revoked_at FROM api_keys ORDER BY name"
    rows = await database.read(lambda transaction: transaction.rows(sql))
    return [
        StoredKey(KeyConfig(name=name, hash=hashed, **json.loads(limits)), created, revoked)
        for name, hashed, limits, created, revoked in rows
    ]


def write_usage(transaction: Transaction, entries: Entries) -> None:
    """Add entries to what is there."""
    columns = ", ".join(TALLY_FIELDS)
    marks = ", ".join("?" * (4 + len(TALLY_FIELDS)))
    sums = ", ".join(f"{name} = usage.{name} + excluded.{name}" for name in TALLY_FIELDS)
    transaction.execute_many(
        f"INSERT INTO usage (day, api_key, model, engine, {columns}) VALUES ({marks}) "
        f"ON CONFLICT (day, api_key, model, engine) DO UPDATE SET {sums}",
        [(*entry, *tally.values()) for entry, tally in entries.items()],
    )


def spending(transaction: Transaction, period: Period) -> dict[str, tuple[float, float]]:
    """What each key spent in the day and in the month of `period`."""
    rows = transaction.rows(
        "SELECT api_key, SUM(CASE WHEN day = ? THEN cost ELSE 0.0 END), SUM(cost) FROM usage "
        "WHERE day >= ? AND day < ? GROUP BY api_key",
        (period.day, period.month_begin, period.month_end),
    )
    return {name: (float(day), float(month)) for name, day, month in rows}


class UsageQuery(NamedTuple):
    """What of the usage is asked for, and added up by what. Days are counted from 1970."""

    by: tuple[str, ...]
    since: int
    until: int
    """The last day, included."""
    key: str | None = None


GROUPS = {"day": "day", "key": "api_key", "model": "model", "engine": "engine"}


class UsageRow(NamedTuple):
    """Sums over one group; `group` has a value for each of the query's `by`."""

    group: tuple[str | int, ...]
    tally: Tally


async def read_usage(database: Database, query: UsageQuery) -> list[UsageRow]:
    """The usage that `query` asks for, ordered by its groups."""
    columns = [GROUPS[name] for name in query.by]
    floats = ("engine_seconds", "cost")
    sums = [
        f"SUM({name})" if name in floats else f"CAST(SUM({name}) AS BIGINT)"
        for name in TALLY_FIELDS
    ]
    grouped = f" GROUP BY {', '.join(columns)} ORDER BY {', '.join(columns)}" if columns else ""
    where, parameters = "day >= ? AND day <= ?", [query.since, query.until]
    given: Iterable[str | int] = parameters
    if query.key is not None:
        where += " AND api_key = ?"
        given = (*parameters, query.key)
    sql = f"SELECT {', '.join([*columns, *sums])} FROM usage WHERE {where}{grouped}"
    rows = await database.read(lambda transaction: transaction.rows(sql, tuple(given)))
    count = len(columns)
    return [
        UsageRow(tuple(row[:count]), Tally(*(value or 0 for value in row[count:]))) for row in rows
    ]
