"""Everything here runs on uvloop, as the router does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from stoker.router.storage import Database, open_database

from .fakes import FakeEngine, Fleet
from .postgres_server import PostgresServer, postgres_server

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    """Two engines behind a router."""
    async with Fleet(FakeEngine("one"), FakeEngine("two")) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/router.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url()


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """`database_url`, open."""
    database = open_database(database_url)
    yield database
    await database.close()
