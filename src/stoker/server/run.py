"""The process side of the server: the socket, uvicorn, and an orderly end.

The first SIGTERM or SIGINT drains: no new work is taken, what is in flight may finish for
`drain_timeout` seconds. The second ends it now, with an error on every open stream. The third
kills the process, should the engine not answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from stoker.errors import StokerError
from stoker.server.protocol import protocol_with
from stoker.server.state import ServerState

log = logging.getLogger(__name__)

_LAST_WORDS = 5
"""Seconds that connections get to read the end of their answers."""


def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    drain_timeout: float,
    on_ready: Callable[[], None] | None = None,
) -> None:
    """Serve `app` until it is told to stop; `on_ready` is called when the model is loaded.

    Raises:
        StokerError: the model could not be loaded.
    """
    state: ServerState = app.state.server
    config = uvicorn.Config(
        app,
        http=protocol_with(state.config.write_timeout),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    DrainingServer(config, state, drain_timeout, on_ready).run(sockets=[listener])
    if state.failure is not None:
        raise StokerError(state.failure)


class DrainingServer(uvicorn.Server):
    """A uvicorn server that finishes its work before it goes."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        drain_timeout: float,
        on_ready: Callable[[], None] | None,
    ) -> None:
        super().__init__(config)
        self._state = state
        self._drain_timeout = drain_timeout
        self._on_ready = on_ready
        self._signals = 0
        self._deadline = 0.0
        self._announced = False
        self._ending: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by Python for SIGTERM and SIGINT, between two instructions."""
        self._signals += 1
        if self._signals == 1:
            self._deadline = time.monotonic() + self._drain_timeout
            self._state.draining = True
        elif self._signals == 2:
            self._deadline = 0.0
        else:
            os._exit(128 + sig)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second by uvicorn's main loop."""
        if self._state.loaded.is_set() and self._on_ready is not None:
            if self._state.failure is None:
                # What is loaded stays: a full collection would look through all of it, for a
                # tenth of a second in the middle of every stream.
                gc.freeze()
                _return_memory()
                self._on_ready()
            self._on_ready = None
        if self._state.failure is not None:
            self.should_exit = True
        elif self._state.draining and not self.should_exit:
            self._drain()
        return await super().on_tick(counter)

    def _drain(self) -> None:
        if self._ending is not None:
            self.should_exit = self._ending.done()
        elif self._state.active == 0 or time.monotonic() >= self._deadline:
            if self._state.active:
                log.warning("stopping with %d requests unfinished", self._state.active)
            self._ending = asyncio.create_task(self._end_engine())
        elif self._signals == 1 and not self._announced:
            self._announced = True
            log.info(
                "finishing %d requests, for up to %g s; press Ctrl+C again to stop now",
                self._state.active,
                self._drain_timeout,
            )

    async def _end_engine(self) -> None:
        if self._state.model is not None:
            await self._state.model.engine.shutdown()


def _return_memory() -> None:
    """What loading took and no longer needs goes back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
