"""Money: what a key may spend in a day and in a month, and has."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from stoker.router.config import Budget

DAY_S = 86_400


class Period(NamedTuple):
    """The UTC day and month that a moment is in, as days since 1970."""

    day: int
    month_begin: int
    month_end: int
    """The first day after it."""


def period_of(now: float) -> Period:
    """`now` in seconds since 1970."""
    date = datetime.fromtimestamp(now, UTC).date()
    first = date.replace(day=1)
    after = (first + timedelta(days=32)).replace(day=1)
    epoch = datetime(1970, 1, 1, tzinfo=UTC).date()
    return Period((date - epoch).days, (first - epoch).days, (after - epoch).days)


class Purse:
    """One key's spending, against its budget.

    `stored` is what the database had when last asked, other routers' requests included; `fresh`
    what this router spent since, of which `leaving` is on its way there; `reserved` what its
    requests under way may cost.
    """

    __slots__ = (
        "_budget",
        "_least",
        "_period",
        "_until",
        "fresh",
        "leaving",
        "reserved",
        "stored_day",
        "stored_month",
    )

    def __init__(self, budget: Budget) -> None:
        self.set_budget(budget)
        self.stored_day = 0.0
        self.stored_month = 0.0
        self.fresh = 0.0
        self.leaving = 0.0
        self.reserved = 0.0
        self._period = Period(0, 0, 0)
        self._until = -math.inf

    def set_budget(self, budget: Budget) -> None:
        """Go on with another budget; what was spent stays spent."""
        self._budget = budget
        limits = (budget.per_day, budget.per_month)
        self._least = min(limit for limit in (*limits, math.inf) if limit is not None)

    def refusal(self, cost: float, now: float) -> tuple[str, float] | None:
        """Why `cost` more cannot be spent now, and when it could, in seconds; None if it can."""
        period = self._turn(now)
        committed = self.fresh + self.leaving + self.reserved
        if self.stored_day + self.stored_month + committed + cost < self._least:
            return None  # far from any limit
        for limit, stored, name, end in (
            (self._budget.per_month, self.stored_month, "month", period.month_end),
            (self._budget.per_day, self.stored_day, "day", period.day + 1),
        ):
            if limit is None:
                continue
            spent = stored + committed
            if spent >= limit:
                why = f"its budget for this {name} is {limit:g}, and it is spent"
            elif spent + cost > limit:
                why = (
                    f"this request may cost {cost:.6g}, and of its budget for this {name}, "
                    f"{limit:g}, only {limit - spent:.6g} is left"
                )
            else:
                continue
            return why, end * DAY_S - now
        return None

    def reserve(self, cost: float, now: float) -> tuple[str, float] | None:
        """Set `cost` aside, or say why not, as `refusal` does."""
        committed = self.fresh + self.leaving + self.reserved + cost
        near = self.stored_day + self.stored_month + committed >= self._least
        if near or now >= self._until:
            refusal = self.refusal(cost, now)
            if refusal is not None:
                return refusal
        self.reserved += cost
        return None

    def leave(self) -> None:
        """What was spent so far is being written to the database."""
        self.leaving += self.fresh
        self.fresh = 0.0

    def arrived(self, period: Period, day: float, month: float) -> None:
        """It was written; what the database then had for this period."""
        self._begin(period)
        self.stored_day, self.stored_month, self.leaving = day, month, 0.0

    def _turn(self, now: float) -> Period:
        if now >= self._until:
            before = self._period
            self._begin(period_of(now))
            if before.day and self._period.day != before.day:
                self.stored_day = 0.0
                self.fresh = 0.0
                self.leaving = 0.0
            if before.day and self._period.month_begin != before.month_begin:
                self.stored_month = 0.0
        return self._period

    def _begin(self, period: Period) -> None:
        self._period = period
        self._until = float((period.day + 1) * DAY_S)
