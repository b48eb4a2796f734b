"""Sessions that are not where the ring has them."""

from __future__ import annotations

from collections.abc import Callable

MAX_MOVES = 100_000
"""Moves that are remembered; the one least recently used goes first. About 15 MB."""
LIFETIME_S = 600.0
# A move in use is told again when it is so old, before others forget it.
_RENEW_S = LIFETIME_S / 4
_MAX_UNTOLD = 10_000


class Moves:
    """Session → engine, for those that were placed elsewhere than the ring would.

    What the ring says needs no telling, so in quiet times there is nothing in here. A move that
    is not used for `LIFETIME_S` is forgotten.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moves: dict[int, tuple[str, float]] = {}
        """Python's dicts keep the order of insertion."""
        self._untold: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._moves)

    def engine_of(self, session: int) -> str | None:
        """Where a session moved to, by its hash."""
        move = self._moves.get(session)
        if move is None or self._clock() - move[1] > LIFETIME_S:
            return None
        return move[0]

    def placed(self, session: int, engine: str, *, home: bool) -> None:
        """A session was placed; `home` where the ring has it."""
        move = self._moves.get(session)
        if home:
            if move is not None:
                del self._moves[session]
                self._tell(session, "")
        elif move is None or move[0] != engine or self._clock() - move[1] > _RENEW_S:
            self._put(session, engine, self._clock())
            self._tell(session, engine)

    def heard(self, session: int, engine: str, age: float) -> None:
        """Another router placed a session so many seconds ago; at home, if `engine` is empty."""
        if not engine:
            self._moves.pop(session, None)
        elif age < LIFETIME_S:
            self._put(session, engine, self._clock() - age)

    def take_untold(self, most: int) -> list[tuple[int, str]]:
        """What other routers do not know yet, the oldest first."""
        told = list(self._untold.items())[:most]
        for session, _ in told:
            del self._untold[session]
        return told

    def not_told(self, moves: list[tuple[int, str]]) -> None:
        """They could not be told after all."""
        self._untold = dict(moves) | self._untold

    def _put(self, session: int, engine: str, at: float) -> None:
        self._moves.pop(session, None)
        self._moves[session] = (engine, at)
        while len(self._moves) > MAX_MOVES:
            del self._moves[next(iter(self._moves))]

    def _tell(self, session: int, engine: str) -> None:
        self._untold.pop(session, None)
        self._untold[session] = engine
        while len(self._untold) > _MAX_UNTOLD:
            del self._untold[next(iter(self._untold))]
