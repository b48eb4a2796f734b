"""Budgets hold for days and months of UTC, what is on its way to the database included."""

from __future__ import annotations

from datetime import UTC, datetime

from stoker.router.config import Budget
from stoker.router.ledger.purse import DAY_S, Purse, period_of


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_periods() -> None:
    period = period_of(at("2026-12-31T23:59:59"))
    assert period.month_end - period.month_begin == 31
    assert period.day == period.month_end - 1
    assert period_of(at("2028-02-29")).month_end * DAY_S == at("2028-03-01")


def test_a_day_spent_is_a_day_to_wait_for() -> None:
    purse = Purse(Budget(per_day=1.0))
    now = at("2026-03-10T18:00:00")
    assert purse.refusal(0.5, now) is None
    purse.reserved = 0.4
    purse.fresh = 0.3
    refusal = purse.refusal(0.5, now)
    assert refusal is not None
    assert "only 0.3 is left" in refusal[0]
    assert refusal[1] == 6 * 3600
    purse.reserved, purse.fresh = 0.0, 1.0
    refusal = purse.refusal(0.0, now)
    assert refusal is not None
    assert refusal[0] == "its budget for this day is 1, and it is spent"
    assert purse.refusal(0.5, now + DAY_S) is None


def test_what_is_being_written_counts_once() -> None:
    purse = Purse(Budget(per_month=2.0))
    now = at("2026-03-10")
    purse.fresh = 1.5
    purse.leave()
    purse.fresh = 0.4
    assert purse.refusal(0.2, now) is not None
    purse.arrived(period_of(now), day=1.5, month=1.5)
    assert purse.refusal(0.2, now) is not None
    assert purse.refusal(0.1, now) is None
