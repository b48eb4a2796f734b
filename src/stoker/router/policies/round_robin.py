"""Each engine in turn, with a cursor for every model."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.request import Features


class RoundRobin(Policy):
    name = "round_robin"

    def __init__(self) -> None:
        self._last: dict[str | None, str] = {}

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        # The next after the last by name, so that an engine that drops out for a moment does
        # not shift the others' turns.
        last = self._last.get(features.model, "")
        after = [engine for engine in engines if engine.name > last]
        chosen = min(after or engines, key=lambda engine: engine.name)
        return Decision(chosen, "round_robin: its turn")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._last[features.model] = engine.name
