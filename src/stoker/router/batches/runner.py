"""Finds batches that nobody works on, and works on them."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from stoker.errors import StokerError
from stoker.router.batches.files import FileStore
from stoker.router.batches.metrics import BatchMetrics
from stoker.router.batches.run import BatchRun
from stoker.router.batches.schema import STEPS, SUBJECT
from stoker.router.batches.slots import Slots
from stoker.router.batches.store import BatchStore
from stoker.router.dispatcher import Dispatcher
from stoker.router.storage import Database

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_SWEEP_S = 60.0
_MAX_RUNS = 32


class BatchRunner:
    """Works on batches in the background, beside other routers of the same database."""

    def __init__(
        self,
        database: Database,
        dispatcher: Dispatcher,
        files: FileStore,
        store: BatchStore,
        metrics: BatchMetrics,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._files = files
        self._store = store
        self._metrics = metrics
        self._slots = Slots(dispatcher, metrics)
        self._runs: dict[str, tuple[BatchRun, asyncio.Task[None]]] = {}
        self._poke = asyncio.Event()
        self._migrated = asyncio.Lock()
        self._ready = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._look(), name="batches")

    async def stop(self) -> None:
        """Let go of all batches. Answers that are there are kept; lines still under way are
        asked again by whoever takes the batch."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_S):
                while self._metrics.in_flight:  # noqa: ASYNC110  (each is a write that ends soon)
                    await asyncio.sleep(0.02)
        tasks = [task for _, task in self._runs.values()]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def ready(self) -> None:
        """Make the tables if they are not there."""
        async with self._migrated:
            if not self._ready:
                await self._database.migrate(SUBJECT, STEPS)
                self._ready = True

    def look(self) -> None:
        """There is a new batch."""
        self._poke.set()

    def look_at(self, batch_id: str) -> None:
        """A batch was cancelled."""
        if batch_id in self._runs:
            self._runs[batch_id][0].look_again()
        else:
            self.look()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        sweep_at = loop.time()
        while True:
            try:
                if self._database.is_there and not self._dispatcher.draining:
                    await self.ready()
                    await self._take()
                    if loop.time() >= sweep_at:
                        await self._files.sweep()
                        sweep_at = loop.time() + _SWEEP_S
            except StokerError as error:
                log.warning("batches: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._poke.wait()
            self._poke.clear()

    async def _take(self) -> None:
        room = _MAX_RUNS - len(self._runs)
        if room <= 0:
            return
        for batch_id in await self._store.take(room, list(self._runs)):
            run = BatchRun(
                batch_id, self._dispatcher, self._files, self._store, self._slots, self._metrics
            )
            self._runs[batch_id] = run, asyncio.create_task(self._run(run), name=batch_id)
            self._metrics.running = len(self._runs)

    async def _run(self, run: BatchRun) -> None:
        try:
            await run.run()
        except StokerError as error:
            log.warning("batch %s is left to be taken again: %s", run.batch_id, error)
        except Exception:
            log.exception("batch %s failed here and is left to be taken again", run.batch_id)
            await asyncio.sleep(_LOOK_S)
        finally:
            del self._runs[run.batch_id]
            self._metrics.running = len(self._runs)
            with contextlib.suppress(StokerError):
                await self._store.let_go(run.batch_id)
