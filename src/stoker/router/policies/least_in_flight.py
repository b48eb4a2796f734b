"""The engine with the fewest requests in flight, in proportion to what it can take."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.request import Features


class LeastInFlight(Policy):
    name = "least_in_flight"

    def __init__(self) -> None:
        self._turns: dict[str | None, int] = {}

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        # Equals take turns, or the first would get all of a quiet fleet's traffic.
        count = len(engines)
        start = self._turns.get(features.model, 0) % count
        best = engines[start]
        least = best.in_flight_everywhere / best.capacity
        for offset in range(1, count):
            engine = engines[(start + offset) % count]
            load = engine.in_flight_everywhere / engine.capacity
            if load < least:
                best, least = engine, load
        return Decision(best, f"least_in_flight: {best.in_flight_everywhere} of {best.capacity}")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        model, turns = features.model, self._turns
        turns[model] = turns[model] + 1 if model in turns else 1
