"""How often and when a failed request is sent again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from stoker.router.config import Retries

_RESERVE = 100.0
_LIMIT = 1000.0
# An engine that asks for longer is asked again after this many seconds.
_LONGEST_RETRY_AFTER_S = 300.0


class RetryBudget:
    """Retries as a share of the traffic, so that they cannot multiply an overload.

    Every request pays in `share`, every retry takes 1. A reserve lets a quiet router retry, and
    what steady traffic saves up lets it move the work of an engine that dies.
    """

    __slots__ = ("_balance", "_share", "requests")

    def __init__(self, share: float) -> None:
        self._share = share
        self._balance = _RESERVE if share > 0 else 0.0
        self.requests = 0
        """Those that came since the last retry; whoever takes one in adds it."""

    def take(self) -> bool:
        """Take a retry out, if there is one."""
        if self.requests:
            self._balance = min(self._balance + self.requests * self._share, _LIMIT)
            self.requests = 0
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


class Backoff:
    """Waits that grow by a factor, each moved by up to `jitter` of itself so that requests
    which failed together do not return together."""

    __slots__ = ("_config", "_random")

    def __init__(self, config: Retries, rng: random.Random | None = None) -> None:
        self._config = config
        self._random = rng or random.Random()

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures (from 1)."""
        config = self._config
        base = min(
            config.backoff * config.backoff_factor ** min(failures - 1, 64), config.backoff_max
        )
        return base * (1.0 + self._random.uniform(-config.jitter, config.jitter))


def retry_after_seconds(fields: Mapping[bytes, bytes], now: datetime | None = None) -> float | None:
    """What `retry-after-ms` or `Retry-After` (seconds or a date) asks for; None if neither."""
    wait = _asked_wait(fields, now)
    return None if wait is None else min(max(wait, 0.0), _LONGEST_RETRY_AFTER_S)


def _asked_wait(fields: Mapping[bytes, bytes], now: datetime | None) -> float | None:
    milliseconds = fields.get(b"retry-after-ms")
    if milliseconds is not None:
        with contextlib.suppress(ValueError):
            return int(milliseconds) / 1000
    value = fields.get(b"retry-after", b"").strip()
    if value.isdigit():
        return float(value)
    try:
        when = parsedate_to_datetime(value.decode("ascii"))
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return (when - (now or datetime.now(UTC))).total_seconds()
