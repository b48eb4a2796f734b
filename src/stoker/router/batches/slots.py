"""How many lines of batches may be under way: what interactive traffic leaves.

A line is sent only while nobody waits in the router's queue for the same model, and an engine
of that model has less than a share of its places taken, by whomever. So a quiet fleet works on
batches with that share of its places, and as traffic grows batches give way line by line.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from stoker.router.batches.metrics import BatchMetrics
from stoker.router.dispatcher import Dispatcher

# How soon room that others gave back is noticed.
_LOOK_S = 0.05


class Slots:
    """Places for lines. Batches of one model take theirs in turn."""

    def __init__(self, dispatcher: Dispatcher, metrics: BatchMetrics) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._turns: dict[str, asyncio.Lock] = {}
        self._given_back = asyncio.Event()

    async def take(self, model: str) -> None:
        """Wait for a place; give it back with `give_back`."""
        async with self._turns.setdefault(model, asyncio.Lock()):
            while not self._has_room(model):
                self._given_back.clear()
                try:
                    async with asyncio.timeout(_LOOK_S):
                        await self._given_back.wait()
                except TimeoutError:
                    continue
            self._metrics.in_flight += 1

    def give_back(self) -> None:
        self._metrics.in_flight -= 1
        self._given_back.set()

    @asynccontextmanager
    async def given(self) -> AsyncIterator[None]:
        """Give a place that was taken back at the end."""
        try:
            yield
        finally:
            self.give_back()

    def _has_room(self, model: str) -> bool:
        dispatcher = self._dispatcher
        limits = dispatcher.config.batches
        if dispatcher.draining or self._metrics.in_flight >= limits.max_in_flight:
            return False
        resolved = dispatcher.fleet.resolve(model) or model
        if dispatcher.waiting_for(resolved):
            return False
        now = dispatcher.loop.time()
        engines = dispatcher.fleet.serving(resolved)
        if not engines:
            return True  # the answer will say that there is no such model
        return any(
            engine.ready(now) and engine.in_flight < max(1, int(engine.capacity * limits.share))
            for engine in engines
        )
