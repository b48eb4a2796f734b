"""The engine that has seen most of the prompt's beginning, unless it has too much to do."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.prefix_index import PrefixIndex
from stoker.router.policies.session import load_limit
from stoker.router.request import Features


class Prefix(Policy):
    """Approximate: goes by what the router sent, not by what engines still hold."""

    name = "prefix"

    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = index or PrefixIndex()
        self._by_load = LeastInFlight()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        matches = self._index.match(features, engines)
        best = None
        crowded = 0
        for engine, match in zip(engines, matches, strict=True):
            if match.blocks == 0:
                continue
            if engine.in_flight >= load_limit(engine, engines):
                crowded += 1
            elif best is None or (match.blocks, -engine.busy) > (best[1].blocks, -best[0].busy):
                best = engine, match
        if best is not None:
            engine, match = best
            reason = f"prefix: {match.blocks} of {match.of} blocks"
            return Decision(engine, reason, match.tokens)
        decision = self._by_load.choose(features, engines)
        why = f"{crowded} that know it have too much" if crowded else "none knows it"
        return Decision(decision.engine, f"prefix: {why}; {decision.reason}")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._index.add(features, engine)
        self._by_load.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._index.forget(engine)
