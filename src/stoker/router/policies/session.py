"""One conversation, one engine: consistent hashing with bounded loads.

Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads" (2018): a key goes to
the first engine on its walk round the ring whose load is below `BOUND` times the mean, so a
hot key cannot pile its work on one engine. No table of sessions: every router replica, and a
restarted one, chooses alike.

Where replicas share what they know, there is a table of those that were placed elsewhere: they
stay where their conversation was computed last, whichever replica they come through.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.moves import Moves
from stoker.router.policies.ring import HashRing, stable_hash
from stoker.router.request import Features

BOUND = 1.25


def load_limit(engine: EngineHandle, engines: Sequence[EngineHandle]) -> int:
    """How many requests `engine` may have in flight, the next included: `BOUND` times its share
    of all that `engines` have, or what it does with ease (an eighth of its capacity), so that
    quiet engines keep their sessions. Shares follow capacities."""
    in_flight, capacity = 1, 0
    for one in engines:
        in_flight += one.in_flight_everywhere
        capacity += one.capacity
    share = engine.capacity / capacity
    return max(math.ceil(BOUND * in_flight * share), engine.capacity // 8)


def has_room(engine: EngineHandle, engines: Sequence[EngineHandle]) -> bool:
    """Whether `engine` is below its `load_limit`; the usual case, in few steps."""
    in_flight = engine.in_flight_everywhere
    return in_flight < engine.capacity // 8 or in_flight < load_limit(engine, engines)


class Session(Policy):
    """By the header `x-session-id`, else by the `user` field; without either, by load."""

    name = "session"

    def __init__(self) -> None:
        self.moves: Moves | None = None
        """Sessions that are not where the ring has them, if routers tell each other."""
        self._ring = HashRing()
        self._serving: dict[str | None, set[str]] = {}
        """Names of engines that were among those to choose from, by model."""
        self._by_load = LeastInFlight()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        key = features.session or features.user
        if not key:
            decision = self._by_load.choose(features, engines)
            return Decision(decision.engine, f"session: no session named; {decision.reason}")
        by_name = {engine.name: engine for engine in engines}
        for name in by_name:
            # Engines on the ring that are not among `engines` are passed over, so what the
            # ring has seen before changes no choice.
            self._ring.add(name)
        if self.moves is not None:
            self._serving.setdefault(features.model, set()).update(by_name)
            moved = by_name.get(self.moves.engine_of(_move_key(features.model, key)) or "")
            if moved is not None and has_room(moved, engines):
                return Decision(moved, "session: where it was last")
        passed = 0
        for name in self._ring.walk(key):
            engine = by_name.get(name)
            if engine is None:
                continue
            if has_room(engine, engines):
                if passed == 0:
                    return Decision(engine, "session: its engine")
                return Decision(engine, f"session: {passed} before it on the ring have too much")
            passed += 1
        raise AssertionError("an engine below its share of the load exists always")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._by_load.placed(features, engine)
        key = features.session or features.user
        if self.moves is None or not key:
            return
        serving = self._serving.get(features.model, set())
        home = next((name for name in self._ring.walk(key) if name in serving), engine.name)
        session = _move_key(features.model, key)
        self.moves.placed(session, engine.name, home=engine.name == home)

    def forget(self, engine: EngineHandle) -> None:
        self._ring.remove(engine.name)
        for serving in self._serving.values():
            serving.discard(engine.name)


def _move_key(model: str | None, key: str) -> int:
    """What a session is called in the table."""
    return stable_hash(f"{model}\0{key}")
