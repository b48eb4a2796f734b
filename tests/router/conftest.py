"""Everything here runs on uvloop, as the router does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import pytest_asyncio
import uvloop
from hypothesis import settings

from .fakes import FakeEngine, Fleet

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
