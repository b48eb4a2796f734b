"""The engine that has seen most of the prompt's beginning, unless it has too much to do."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.least_work import LeastWork
from stoker.router.policies.prefix_index import PrefixIndex, block_hashes, tokens_in
from stoker.router.policies.session import has_room
from stoker.router.request import Features


class Prefix(Policy):
    """Approximate: goes by what the router sent, not by what engines still hold."""

    name = "prefix"

    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = PrefixIndex() if index is None else index
        self._by_load = LeastWork()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        best, known, crowded = None, 0, 0
        for number, blocks in enumerate(self._index.match(features, engines)):
            if blocks == 0:
                continue
            engine = engines[number]
            if not has_room(engine, engines):
                crowded += 1
            elif best is None or blocks > known or (blocks == known and engine.busy < best.busy):
                best, known = engine, blocks
        if best is not None:
            reason = f"prefix: {known} of {len(block_hashes(features))} blocks"
            return Decision(best, reason, tokens_in(known))
        decision = self._by_load.choose(features, engines)
        why = f"{crowded} that know it have too much" if crowded else "none knows it"
        return Decision(decision.engine, f"prefix: {why}; {decision.reason}")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._index.add(features, engine)
        self._by_load.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._index.forget(engine)
