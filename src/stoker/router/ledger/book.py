"""What was used and what it cost, added up by day, key, model and engine.

In memory, a few additions a request; `take` hands what was added since to whoever writes it down.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from enum import Enum


class Outcome(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    """With an error, the engine's or the router's, or in the middle of its answer."""
    CANCELLED = "cancelled"
    """The client left."""
    REFUSED = "refused"
    """Over a limit, or for a model its key may not use: no engine saw it."""


@dataclass
class Tally:
    """Sums over requests."""

    requests: int = 0
    """All that came, whatever their end."""
    failed: int = 0
    cancelled: int = 0
    refused: int = 0
    estimated: int = 0
    """Those whose tokens the engine did not tell, so that they are a guess."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts' tokens, those that an engine had in its cache."""
    completion_tokens: int = 0
    engine_seconds: float = 0.0
    """Engines' time: what several requests shared was divided among them."""
    cost: float = 0.0

    def add(self, other: Tally) -> None:
        for name in TALLY_FIELDS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def values(self) -> tuple[int | float, ...]:
        """In the order of `TALLY_FIELDS`."""
        return astuple(self)


TALLY_FIELDS = tuple(field.name for field in fields(Tally))

Entry = tuple[int, str, str, str]
"""Day (since 1970), key, model, engine."""
Entries = dict[Entry, Tally]


class Book:
    """Tallies that are not written down yet, and the totals since the start."""

    def __init__(self) -> None:
        self.fresh: Entries = {}
        """What was added since `take`."""
        self._totals: dict[tuple[str, str, str], Tally] = {}

    def tally(self, day: int, key: str, model: str, engine: str) -> Tally:
        """Where to add a request."""
        entry = (day, key, model, engine)
        tally = self.fresh.get(entry)
        if tally is None:
            tally = self.fresh[entry] = Tally()
        return tally

    def take(self) -> Entries:
        """What was added since the last time."""
        entries, self.fresh = self.fresh, {}
        for (_, key, model, engine), tally in entries.items():
            self._totals.setdefault((key, model, engine), Tally()).add(tally)
        return entries

    def totals(self) -> dict[tuple[str, str, str], Tally]:
        """By key, model and engine, since the router started."""
        totals: dict[tuple[str, str, str], Tally] = {}
        for (key, model, engine), tally in [
            *self._totals.items(),
            *((entry[1:], tally) for entry, tally in self.fresh.items()),
        ]:
            totals.setdefault((key, model, engine), Tally()).add(tally)
        return totals


def merge(into: Entries, entries: Entries) -> None:
    """Add entries to others."""
    for entry, tally in entries.items():
        into.setdefault(entry, Tally()).add(tally)
