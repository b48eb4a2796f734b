"""Whether a key's budget allows the next line of a batch, and when it will.

A budget that looks spent may only be set aside: requests under way hold what they may cost at
most, and give the rest back. One that is spent comes back with the next UTC day or month.
"""

from __future__ import annotations

import asyncio
from enum import Enum

from stoker.errors import StokerError
from stoker.router.batches.store import Line
from stoker.router.dispatcher import Dispatcher
from stoker.router.request import Request, read_features
from stoker.router.wire import JSON

# How soon it is noticed that requests under way gave money back, or that a budget was raised.
_SOON_S = 0.1
_LATER_S = 5.0


class Allowed(Enum):
    NOW = "now"
    SOON = "when what is under way has ended"
    LATER = "with the budget's next period"
    NEVER = "not before the batch expires"


class BatchBudget:
    """The budget of the key `owner`, for a batch that expires at `expires_at` (seconds since
    1970)."""

    def __init__(
        self, dispatcher: Dispatcher, endpoint: bytes, owner: str, expires_at: float
    ) -> None:
        self._dispatcher = dispatcher
        self._endpoint = endpoint
        self._owner = owner
        self._expires_at = expires_at

    def allows(self, line: Line) -> Allowed:
        """When a line may be asked, as things stand."""
        ledger, fleet = self._dispatcher.ledger, self._dispatcher.fleet
        account = ledger.keyring.account(self._owner) if self._owner else None
        if account is None or account.purse is None:
            return Allowed.NOW
        try:
            features = read_features(Request(b"POST", self._endpoint, [JSON], line.body))
        except StokerError:
            return Allowed.NOW  # its answer will say what is wrong with it
        engines = fleet.serving(fleet.resolve(line.model) or line.model)
        now = ledger.wall_clock()
        cost = ledger.estimate(features, engines)
        refusal = account.purse.refusal(cost, now)
        if refusal is None:
            return Allowed.NOW
        if account.purse.reserved > cost * 1e-6:  # not a sum's rounding
            return Allowed.SOON
        return Allowed.LATER if now + refusal[1] < self._expires_at else Allowed.NEVER

    async def wait_for(self, line: Line) -> None:
        """Wait until a line may be asked; not if it never may."""
        while (allowed := self.allows(line)) not in (Allowed.NOW, Allowed.NEVER):  # noqa: ASYNC110  (a day has no event)
            await asyncio.sleep(_SOON_S if allowed is Allowed.SOON else _LATER_S)
