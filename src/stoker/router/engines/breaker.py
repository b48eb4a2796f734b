"""A circuit breaker: an engine that keeps failing is left alone for a while."""

from __future__ import annotations

from enum import Enum

from stoker.router.config import Breaker

# Failures closer together than this are one event (a restart that resets fifty connections at
# once must not look like fifty failures).
BURST_S = 0.1


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


# A member read from its Enum costs ten times as much as a name of the module.
_OPEN, _HALF_OPEN = BreakerState.OPEN, BreakerState.HALF_OPEN


class CircuitBreaker:
    """Closed → open after `failures` in a row → half open after `open_for` seconds → closed
    again after `successes` in a row; one failure while half open opens it again.

    Knows no clock: every call is told the time, in seconds.
    """

    __slots__ = ("_config", "_counted_at", "_failures", "_opened_at", "_successes", "state")

    def __init__(self, config: Breaker) -> None:
        self._config = config
        self.state = BreakerState.CLOSED
        self._failures = 0
        self._successes = 0
        self._counted_at = float("-inf")
        self._opened_at = float("-inf")

    def allows(self, now: float) -> bool:
        """Whether a request may be sent; an open breaker becomes half open when its time is up."""
        if self.state is _OPEN:
            if now - self._opened_at < self._config.open_for:
                return False
            self.state = BreakerState.HALF_OPEN
            self._successes = 0
        return True

    def succeeded(self) -> None:
        """An answer came. In the half-open state it takes several to close the breaker."""
        self._failures = 0
        if self.state is _HALF_OPEN:
            self._successes += 1
            if self._successes >= self._config.successes:
                self.state = BreakerState.CLOSED

    def failed(self, now: float) -> None:
        """The engine failed: no connection, no answer in time, a broken answer or a 5xx."""
        if self.state is BreakerState.HALF_OPEN:
            self._open(now)
        elif self.state is BreakerState.CLOSED and now - self._counted_at >= BURST_S:
            self._counted_at = now
            self._failures += 1
            if self._failures >= self._config.failures:
                self._open(now)

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self._opened_at = now
        self._failures = 0
