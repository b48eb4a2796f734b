"""How fast an engine has been, measured by what it generated while it had work."""

from __future__ import annotations

import math

# The average forgets half of what it knew in this many seconds of work.
_HALF_LIFE_S = 30.0
# A measurement needs this much work behind it before anything is concluded.
_ENOUGH_S = 1.0


class Meter:
    """Tokens generated per second in which the engine had something to do.

    Told the time by its callers, in seconds. Idle time does not count, so a quiet engine is not
    taken for a slow one.
    """

    def __init__(self) -> None:
        self.tokens_per_s: float | None = None
        self._busy_since: float | None = None
        self._busy_s = 0.0
        self.tokens = 0
        """Generated since the last measurement; whoever knows of more adds them."""

    def work_began(self, now: float) -> None:
        """The engine has its first request."""
        self._busy_since = now

    def work_ended(self, now: float) -> None:
        """The engine has none any more."""
        if self._busy_since is not None:
            self._busy_s += now - self._busy_since
            self._busy_since = None

    def update(self, now: float) -> None:
        """Take what happened since the last call into the average."""
        if self._busy_since is not None:
            self._busy_s += now - self._busy_since
            self._busy_since = now
        if self._busy_s < _ENOUGH_S:
            return
        rate = self.tokens / self._busy_s
        if self.tokens_per_s is None:
            if self.tokens:
                self.tokens_per_s = rate
        else:
            weight = 1.0 - math.exp2(-self._busy_s / _HALF_LIFE_S)
            self.tokens_per_s += weight * (rate - self.tokens_per_s)
        if self.tokens or self.tokens_per_s is not None:
            self._busy_s = 0.0
            self.tokens = 0
