"""Brings the ledger's memory to the database and back, every moment, off the event loop.

A router that is killed loses what it had not yet written: the records of `usage.flush` seconds
(half a second, unless the configuration says otherwise) and of the write under way.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from stoker.errors import StorageError
from stoker.router.ledger import tables
from stoker.router.ledger.book import Entries, merge
from stoker.router.ledger.ledger import Ledger
from stoker.router.ledger.purse import Period, period_of
from stoker.router.storage import Database, Transaction

log = logging.getLogger(__name__)

# Keys made or revoked by others, and what other routers spent, are known so many seconds later.
_REFRESH_S = 2.0


class Keeper:
    """Writes what requests took, and reads keys and what budgets have left."""

    def __init__(
        self,
        ledger: Ledger,
        database: Database,
        *,
        interval: float,
    ) -> None:
        self._ledger = ledger
        self._database = database
        self._interval = interval
        self._unwritten: Entries = {}
        self._writing = asyncio.Lock()
        self._ready = False
        self._failing = False
        self.failures = 0
        """Writes and reads that the database refused."""

    async def start(self) -> None:
        """Read the keys. Without a database the router works, and tries again."""
        await self._try(self._refresh)

    async def run(self) -> None:
        """Go on until cancelled."""
        refreshed = time.monotonic()
        while True:
            await asyncio.sleep(self._interval)
            await self.flush()
            if time.monotonic() - refreshed >= _REFRESH_S:
                refreshed = time.monotonic()
                await self._try(self._refresh)

    async def flush(self) -> bool:
        """Write what requests took until now; whether that succeeded."""
        return await self._try(self._flush)

    async def _try(self, work: Callable[[], Awaitable[None]]) -> bool:
        try:
            async with self._writing:
                if not self._ready:
                    await tables.prepare(self._database)
                    self._ready = True
                await work()
        except StorageError as error:
            self.failures += 1
            if not self._failing:
                self._failing = True
                log.warning("usage and keys are not kept for now: %s", error)
            return False
        if self._failing:
            self._failing = False
            log.info("usage and keys are kept again")
        return True

    async def _flush(self) -> None:
        fresh = self._ledger.book.take()
        for account in self._ledger.keyring.accounts():
            if account.purse is not None:
                account.purse.leave()
        merge(self._unwritten, fresh)
        if not self._unwritten:
            return
        entries, period = self._unwritten, self._period()
        wanted = self._has_budgets()

        def work(transaction: Transaction) -> dict[str, tuple[float, float]]:
            tables.write_usage(transaction, entries)
            return tables.spending(transaction, period) if wanted else {}

        spent = await self._database.write(work)
        self._unwritten = {}
        self._spent(period, spent)

    async def _refresh(self) -> None:
        try:
            stored = await tables.all_keys(self._database)
        except ValueError as error:
            raise StorageError(f"a key in the database cannot be read: {error}") from error
        self._ledger.keyring.set_stored(one.key for one in stored if one.revoked_at is None)
        if self._has_budgets() and not self._unwritten:
            period = self._period()
            spent = await self._database.read(lambda one: tables.spending(one, period))
            self._spent(period, spent)

    def _has_budgets(self) -> bool:
        return any(account.purse is not None for account in self._ledger.keyring.accounts())

    def _period(self) -> Period:
        return period_of(self._ledger.wall_clock())

    def _spent(self, period: Period, spent: dict[str, tuple[float, float]]) -> None:
        for account in self._ledger.keyring.accounts():
            if account.purse is not None:
                account.purse.arrived(period, *spent.get(account.name, (0.0, 0.0)))
