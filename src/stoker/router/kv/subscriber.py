"""Keeps up with one engine's KV events, and notices when it has missed some."""

from __future__ import annotations

import asyncio
import logging

import zmq
import zmq.asyncio

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.events import read_batch
from stoker.router.kv.index import KvIndex

log = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_REPLAY_TIMEOUT_S = 5.0


class Subscriber:
    """Applies an engine's events to the index, in order and without gaps.

    Batches are numbered. When a number is missing, the batches in between are asked for at the
    replay address; without one, or when they are no longer kept, what is known of the engine is
    forgotten: an index that says too little costs a recomputation, one that says too much
    misleads. A number that goes back means that the engine has started anew.
    """

    def __init__(
        self, engine: EngineHandle, index: KvIndex, *, events: str, replay: str | None
    ) -> None:
        self._engine = engine
        self._index = index
        self._events = events
        self._replay = replay
        self._next: int | None = None
        """The number of the batch to apply next; None before the first."""
        self._last_heard = -1
        """The last number that was published, rather than replayed."""

    async def run(self) -> None:
        """Follow the engine until cancelled."""
        context = zmq.asyncio.Context.instance()
        with context.socket(zmq.SUB) as socket:
            socket.set_hwm(100_000)
            socket.connect(self._events)
            socket.subscribe(b"")
            if self._replay is not None:
                await self._catch_up(0)
            while True:
                frames = await socket.recv_multipart()
                if len(frames) == 3 and len(frames[1]) == 8:
                    await self._take(int.from_bytes(frames[1], "big"), frames[2])

    async def _take(self, number: int, payload: bytes) -> None:
        if number <= self._last_heard:
            log.info("engine %s publishes KV events anew", self._engine.name)
            self._index.clear(self._engine)
            self._next = 0
        self._last_heard = number
        if self._next is not None and number > self._next:
            await self._catch_up(self._next)
        if self._next is not None and number < self._next:
            return  # replayed already
        if self._next is not None and number > self._next:
            log.warning("KV events of engine %s were lost", self._engine.name)
            self._index.clear(self._engine)
        self._apply(number, payload)

    def _apply(self, number: int, payload: bytes) -> None:
        self._next = number + 1
        try:
            events = read_batch(payload)
        except ValueError as error:
            log.warning("engine %s: %s", self._engine.name, error)
            self._index.clear(self._engine)
            return
        for event in events:
            self._index.apply(self._engine, event)

    async def _catch_up(self, start: int) -> None:
        """Ask for the batches from `start` on and apply those that come without a gap."""
        if self._replay is None:
            return
        with zmq.asyncio.Context.instance().socket(zmq.DEALER) as socket:
            socket.linger = 0
            socket.connect(self._replay)
            try:
                async with asyncio.timeout(_REPLAY_TIMEOUT_S):
                    await socket.send_multipart((b"", start.to_bytes(8, "big")))
                    while True:
                        # An empty frame, with newer engines the topic, a number, a payload.
                        *_, raw, payload = await socket.recv_multipart()
                        if raw == _END:
                            return
                        number = int.from_bytes(raw, "big")
                        if number == start or self._next is None:
                            self._apply(number, payload)
                            start = number + 1
            except (TimeoutError, ValueError):
                log.warning("engine %s does not replay its KV events", self._engine.name)
