from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from .cluster import Cluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as cluster:
        yield cluster
