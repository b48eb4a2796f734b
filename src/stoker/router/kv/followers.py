"""Who follows which engine's KV events."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.index import KvIndex


class Followers:
    """A task for each engine that publishes what its KV cache holds, while a policy goes by it."""

    def __init__(self) -> None:
        self._tasks: dict[EngineHandle, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> Collection[asyncio.Task[None]]:
        return self._tasks.values()

    def follow(self, engines: Collection[EngineHandle], index: KvIndex | None) -> None:
        """Keep `index` up to date about these engines, and forget others; none without index."""
        for engine in [one for one in self._tasks if index is None or one not in engines]:
            self._tasks.pop(engine).cancel()
            if index is not None:
                index.drop(engine)
        if index is not None:
            for engine in engines:
                if engine.kv_events is not None and engine not in self._tasks:
                    self._tasks[engine] = _start(engine, engine.kv_events, index)


def _start(engine: EngineHandle, events: str, index: KvIndex) -> asyncio.Task[None]:
    from stoker.router.kv.subscriber import Subscriber  # ZeroMQ, where it is needed

    subscriber = Subscriber(engine, index, events=events, replay=engine.kv_replay)
    return asyncio.create_task(subscriber.run(), name=f"KV events of {engine.name}")
