"""Usage as people and programs read it: rows with what a request and a million tokens cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

from stoker.api.errors import bad_request
from stoker.router.ledger.book import Tally
from stoker.router.ledger.tables import GROUPS, UsageQuery, UsageRow

_EPOCH = date(1970, 1, 1)
DEFAULT_DAYS = 30


def read_query(
    *,
    by: str = "key,model,engine",
    since: str | None = None,
    until: str | None = None,
    key: str | None = None,
    now: float,
) -> UsageQuery:
    """A query from its words; dates as 2026-01-31, the last 30 days without. Raises `ApiError`
    (400), which names the word that is wrong."""
    groups = tuple(by.split(",")) if by else ()
    for group in groups:
        if group not in GROUPS:
            known = ", ".join(GROUPS)
            raise bad_request(f"`by` may hold {known}, with commas; not {group!r}.", param="by")
    today = (datetime.fromtimestamp(now, UTC).date() - _EPOCH).days
    last = _day(until, "until") if until is not None else today
    first = _day(since, "since") if since is not None else last - DEFAULT_DAYS + 1
    return UsageQuery(tuple(dict.fromkeys(groups)), first, last, key)


def _day(text: str, name: str) -> int:
    try:
        return (date.fromisoformat(text) - _EPOCH).days
    except ValueError:
        raise bad_request(
            f"`{name}` is a date like 2026-01-31, not {text!r}.", param=name
        ) from None


def day_name(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).isoformat()


def as_data(query: UsageQuery, rows: Iterable[UsageRow]) -> dict[str, Any]:
    """For JSON: a list of rows and their total."""
    data, total = [], Tally()
    for row in rows:
        data.append({**labels(query, row), **_figures(row.tally)})
        total.add(row.tally)
    return {
        "object": "list",
        "by": list(query.by),
        "since": day_name(query.since),
        "until": day_name(query.until),
        "data": data,
        "total": _figures(total),
    }


def labels(query: UsageQuery, row: UsageRow) -> dict[str, str]:
    """What the row is about, by the names of its groups."""
    return {
        name: day_name(int(value)) if name == "day" else str(value)
        for name, value in zip(query.by, row.group, strict=True)
    }


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        **asdict(tally),
        "cost_per_1000_requests": per_1000_requests(tally),
        "cost_per_million_tokens": per_million_tokens(tally),
    }


def answered(tally: Tally) -> int:
    return tally.requests - tally.failed - tally.cancelled - tally.refused


def per_1000_requests(tally: Tally) -> float | None:
    """What a thousand answers cost, the failed ones' cost included."""
    count = answered(tally)
    return tally.cost / count * 1e3 if count else None


def per_million_tokens(tally: Tally) -> float | None:
    """What a million tokens cost, read and written."""
    tokens = tally.prompt_tokens + tally.completion_tokens
    return tally.cost / tokens * 1e6 if tokens else None


def total(rows: Sequence[UsageRow]) -> Tally:
    tally = Tally()
    for row in rows:
        tally.add(row.tally)
    return tally
