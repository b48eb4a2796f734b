"""The queue in front of the engines: bounded, by priority, fair between callers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Generic, TypeVar

from stoker.router.request import Urgency

T = TypeVar("T")

# Retry-After, in seconds, is never less nor more than these.
_SOONEST_S = 1.0
_LATEST_S = 120.0
# The completion rate is an average over about this many seconds.
_RATE_WINDOW_S = 10.0


class FairQueue(Generic[T]):
    """Items by urgency; among equals each caller in turn, and a caller's own in order.

    So one caller's thousand requests delay another's one by at most one turn. All operations
    take constant time.
    """

    def __init__(self) -> None:
        self._levels: dict[Urgency, dict[str, dict[T, None]]] = {level: {} for level in Urgency}
        self._places: dict[T, tuple[Urgency, str]] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, item: T) -> bool:
        return item in self._places

    def __iter__(self) -> Iterator[T]:
        return iter(self._places)

    def push(self, item: T, urgency: Urgency, caller: str) -> None:
        self._levels[urgency].setdefault(caller, {})[item] = None
        self._places[item] = (urgency, caller)

    def first(self) -> T | None:
        """Whose turn it is."""
        for callers in self._levels.values():
            for items in callers.values():
                return next(iter(items))
        return None

    def pop(self) -> T | None:
        """Take the first out; its caller's next item comes after the other callers'."""
        item = self.first()
        if item is not None:
            urgency, caller = self._places[item]
            self.remove(item)
            callers = self._levels[urgency]
            if caller in callers:
                callers[caller] = callers.pop(caller)
        return item

    def remove(self, item: T) -> None:
        """Take an item out, wherever it stands."""
        urgency, caller = self._places.pop(item)
        callers = self._levels[urgency]
        del callers[caller][item]
        if not callers[caller]:
            del callers[caller]


class DrainRate:
    """How many requests a second are finished, as an average that forgets."""

    __slots__ = ("_at", "finished", "per_second")

    def __init__(self, now: float) -> None:
        self._at = now
        self.finished = 0
        """Since `update`; whoever finishes one adds it."""
        self.per_second = 0.0

    def update(self, now: float) -> None:
        """Take what finished since the last call into the average."""
        passed = now - self._at
        if passed <= 0:
            return
        weight = 1.0 - math.exp(-passed / _RATE_WINDOW_S)
        self.per_second += weight * (self.finished / passed - self.per_second)
        self._at = now
        self.finished = 0

    def seconds_for(self, requests: int) -> float:
        """An honest Retry-After: when so many requests will have been finished."""
        if self.per_second <= 0:
            return _LATEST_S
        return min(max(requests / self.per_second, _SOONEST_S), _LATEST_S)
