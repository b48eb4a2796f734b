"""The engine that has seen most of the prompt's beginning, unless it has too much to do."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.cache_model import CacheModel
from stoker.router.policies.least_work import LeastWork
from stoker.router.policies.session import has_room
from stoker.router.request import Features


class Prefix(Policy):
    """Approximate: goes by what the router sent, as far as the engine's cache can still hold it."""

    name = "prefix"

    def __init__(self, caches: CacheModel | None = None) -> None:
        self._caches = CacheModel() if caches is None else caches
        self._by_load = LeastWork()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        best, known, crowded = None, 0, 0
        for number, tokens in enumerate(self._caches.match(features, engines)):
            if tokens == 0:
                continue
            engine = engines[number]
            if not has_room(engine, engines):
                crowded += 1
            elif best is None or tokens > known or (tokens == known and engine.busy < best.busy):
                best, known = engine, tokens
        if best is not None:
            reason = f"prefix: {known} of {features.prompt_tokens} prompt tokens known"
            return Decision(best, reason, known)
        decision = self._by_load.choose(features, engines)
        why = f"{crowded} that know it have too much" if crowded else "none knows it"
        return Decision(decision.engine, f"prefix: {why}; {decision.reason}")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._caches.add(features, engine)
        self._by_load.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._caches.forget(engine)
