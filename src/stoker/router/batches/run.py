"""One batch's way from validation to its output files.

Every step can be broken off at any point, by `kill -9` too, and begun again by whichever router
takes the batch next: what counts is in the database, and each step either finds its results there
or makes them anew. Lines that were under way then have no result, so they are asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from stoker.errors import StorageError
from stoker.router.batches.asking import Asking
from stoker.router.batches.files import FileStore
from stoker.router.batches.metrics import BatchMetrics
from stoker.router.batches.objects import Batch
from stoker.router.batches.output import write_outputs
from stoker.router.batches.slots import Slots
from stoker.router.batches.store import BatchStore, HoldLost
from stoker.router.batches.validation import Validation
from stoker.router.dispatcher import Dispatcher

log = logging.getLogger(__name__)


class BatchRun:
    """Works on one batch that its store holds."""

    def __init__(
        self,
        batch_id: str,
        dispatcher: Dispatcher,
        files: FileStore,
        store: BatchStore,
        slots: Slots,
        metrics: BatchMetrics,
    ) -> None:
        self.batch_id = batch_id
        self._dispatcher = dispatcher
        self._files = files
        self._store = store
        self._slots = slots
        self._metrics = metrics
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()

    def look_again(self) -> None:
        """The batch may have been cancelled."""
        self._changed.set()

    async def run(self) -> None:
        """Bring the batch to its end. Raises `HoldLost` when another router has taken it, and
        `StorageError`."""
        work = asyncio.create_task(self._work())
        keeper = asyncio.create_task(self._keep())
        try:
            await asyncio.wait((work, keeper), return_when=asyncio.FIRST_COMPLETED)
            await (work if work.done() else keeper)
        finally:
            for task in (work, keeper):
                task.cancel()
            await asyncio.gather(work, keeper, return_exceptions=True)

    async def _keep(self) -> None:
        """Go on holding the batch, and notice when it is cancelled."""
        hold_s = self._dispatcher.config.batches.hold
        last = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(hold_s / 6):
                    await self._changed.wait()
            self._changed.clear()
            try:
                if await self._store.renew(self.batch_id) == "cancelling":
                    self._stopped.set()
                last = time.monotonic()
            except StorageError as error:
                log.warning("batch %s: %s", self.batch_id, error)
                if time.monotonic() - last > hold_s:
                    raise HoldLost(f"batch {self.batch_id}: the database is gone") from error

    async def _work(self) -> None:
        batch = await self._store.get(self.batch_id)
        status = batch.status
        if status == "validating":
            status = await Validation(self._dispatcher, self._files, self._store).run(batch)
            if status == "failed":
                self._metrics.finished["failed"] += 1
        if status == "failed":
            return
        if status == "in_progress":
            await self._ask_until(batch)
            status = await self._store.begin_finalizing(self.batch_id)
        ended = await write_outputs(self._store, self._files, batch, status)
        self._metrics.finished[ended] += 1
        log.info("batch %s: %s", self.batch_id, ended)

    async def _ask_until(self, batch: Batch) -> None:
        """Ask all lines; stop when the batch expires or is cancelled."""
        owner = await self._store.owner(batch.id)
        lines = Asking(batch, owner, self._dispatcher, self._store, self._slots, self._metrics)
        asking = asyncio.create_task(lines.run())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait(
                (asking, stopped),
                timeout=max(0.0, batch.expires_at - time.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if asking.done():
                await asking
        finally:
            for task in (asking, stopped):
                task.cancel()
            await asyncio.gather(asking, stopped, return_exceptions=True)
