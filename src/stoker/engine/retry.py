"""When a request that was turned away may find a place: an estimate from how places came free."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 32
_FIRST_GUESS = 1.0
_SHORTEST, _LONGEST = 1.0, 60.0


class RetryEstimate:
    """Hands out the places that will come free, one to each request turned away.

    Requests end about every `interval` seconds, so the first one turned away should come back
    after one interval, the second after two: together they do not come at the same moment, and
    none is told a time at which there would be no room for it.
    """

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=_REMEMBERED)
        self._promised = float("-inf")
        """Until when places are promised to others."""

    def note_ended(self, now: float) -> None:
        """A request ended at `now`."""
        self._ended.append(now)

    def seconds(self, now: float) -> float:
        """After how long the request being turned away at `now` should come back."""
        ended = tuple(self._ended)
        interval = (now - ended[0]) / len(ended) if ended else _FIRST_GUESS
        self._promised = max(self._promised, now) + interval
        return min(max(self._promised - now, _SHORTEST), _LONGEST)
