"""An allowance per minute that holds for every minute, whenever it begins."""

from __future__ import annotations

from collections.abc import Mapping

SECONDS = 60
# The present second is only partly over, so one more than a minute has is kept.
SLOTS = SECONDS + 1


class Window:
    """What was used in each of the last seconds; together never more than `limit` in any 60 s.

    A bucket that refills would let twice the limit through in its first minute; this does not.
    Times are seconds on any one clock that does not go back.
    """

    __slots__ = ("_slots", "latest", "limit", "second", "used")

    def __init__(self, limit: int, slots: Mapping[int, int] | None = None) -> None:
        """`slots`: what was used in which second, as another holder of the same limit tells."""
        self.limit = limit
        self.used = 0
        self._slots = [0] * SLOTS
        self.second = 0
        """That it was last brought up to, and"""
        self.latest = 0
        """the last in which something was used."""
        for second, amount in sorted((slots or {}).items()):
            self.advance(second)
            self._put(second, amount)

    def take(self, amount: int, now: float) -> bool:
        """Use so much, if there is so much left."""
        second = int(now)
        if second > self.second:
            self.advance(second)
        used = self.used + amount
        if used > self.limit:
            return False
        self.used = used
        self._slots[second % SLOTS] += amount
        if second > self.latest:
            self.latest = second
        return True

    def note(self, amount: int, now: float) -> None:
        """So much was used, whether allowed or not."""
        second = int(now)
        self.advance(second)
        self._put(second, amount)

    def correct(self, difference: int, taken_at: float, now: float) -> None:
        """What was taken at `taken_at` turned out to be so much more, or less."""
        second, present = int(taken_at), int(now)
        if present > self.second:
            self.advance(present)
        if self.second - second < SLOTS:
            slots, index = self._slots, second % SLOTS
            if difference < -slots[index]:
                difference = -slots[index]
            slots[index] += difference
            self.used += difference
            if second > self.latest:
                self.latest = second

    def seconds_until(self, amount: int, now: float) -> float | None:
        """How long until so much is left; None if it never will be."""
        if amount > self.limit:
            return None
        self.advance(int(now))
        excess = self.used + amount - self.limit
        if excess <= 0:
            return 0.0
        for second in range(self.second - SECONDS, self.second + 1):
            excess -= self._slots[second % SLOTS]
            if excess <= 0:
                return second + SLOTS - now
        raise AssertionError("a window is empty after a minute")

    def left(self, now: float) -> tuple[int, int]:
        """How much is left, and in how many whole seconds all of the limit is left again."""
        second = int(now)
        if second > self.second:
            self.advance(second)
        left = self.limit - self.used
        return left if left > 0 else 0, self.latest + SLOTS - second if self.used else 0

    def _put(self, second: int, amount: int) -> None:
        self._slots[second % SLOTS] += amount
        self.used += amount
        if second > self.latest:
            self.latest = second

    def advance(self, second: int) -> None:
        """Let go of what is more than a minute old."""
        if second <= self.second:
            return
        for one in range(max(self.second + 1, second - SECONDS), second + 1):
            index = one % SLOTS
            self.used -= self._slots[index]
            self._slots[index] = 0
        self.second = second


def take_both(requests: Window, tokens: Window, amount: int, now: float) -> bool:
    """Use one request and so many tokens, if there is room for both: `take` of each, in few steps,
    and nothing where one of them has none."""
    second = int(now)
    if second > requests.second:
        requests.advance(second)
    if second > tokens.second:
        tokens.advance(second)
    used = tokens.used + amount
    if used > tokens.limit or requests.used >= requests.limit:
        return False
    slot = second % SLOTS
    requests.used += 1
    requests._slots[slot] += 1
    tokens.used = used
    tokens._slots[slot] += amount
    if second > requests.latest:
        requests.latest = second
    if second > tokens.latest:
        tokens.latest = second
    return True
