"""Stop strings in a growing text, whatever pieces it arrives in."""

from __future__ import annotations


class StopStringFinder:
    """Passes text on until a stop string is complete, holding back what might become one.

    The string that is completed first wins (the longest of those that end together), so the
    result is that of reading the text one character at a time and does not depend on how tokens
    cut it. The longest suffix that begins some stop string is held back until it is decided.
    """

    __slots__ = ("_first_characters", "_held", "_include", "_longest", "_stops")

    def __init__(self, stops: list[str], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._longest = max(map(len, stops))
        self._first_characters = frozenset(stop[0] for stop in stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text. Returns what may be sent, and the stop string if one is now complete."""
        window = self._held + text
        best: tuple[int, int, str] | None = None
        for stop in self._stops:
            start = window.find(stop)
            if start >= 0:
                found = (start + len(stop), start, stop)
                if best is None or found < best:
                    best = found
        if best is not None:
            end, start, stop = best
            self._held = ""
            return window[: end if self._include else start], stop
        keep = self._undecided(window)
        self._held = window[keep:]
        return window[:keep], None

    def flush(self) -> str:
        """The text still held back, when the answer ends for another reason."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, window: str) -> int:
        """Where the longest suffix that begins a stop string starts."""
        for start in range(max(0, len(window) - self._longest + 1), len(window)):
            if window[start] in self._first_characters:
                tail = window[start:]
                if any(stop.startswith(tail) for stop in self._stops):
                    return start
        return len(window)
