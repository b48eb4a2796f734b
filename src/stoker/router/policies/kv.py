"""The engine whose cache really holds most of the prompt, unless it has too much to do.

What no engine holds enough of is placed as by `cost`.

An engine that does not publish its KV events is judged by what it was sent; a request whose
tokens are not known, by load.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.index import KvIndex
from stoker.router.policies.base import Decision
from stoker.router.policies.cost import Cost
from stoker.router.policies.prefix_index import PrefixIndex
from stoker.router.policies.session import load_limit
from stoker.router.request import Features

# An engine that holds this share of a prompt is worth going to.
_ENOUGH = 0.3


class Kv(Cost):
    name = "kv"

    def __init__(self, index: KvIndex | None = None, sent: PrefixIndex | None = None) -> None:
        super().__init__(sent)
        self.index = index or KvIndex(monotonic)

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        prompt = len(features.tokens) if features.tokens else features.prompt_tokens
        best, most = None, 0
        for engine, known in zip(engines, self.cached(features, engines), strict=True):
            if known < _ENOUGH * prompt:
                continue
            if engine.in_flight_everywhere >= load_limit(engine, engines):
                continue
            if best is None or (known, -engine.busy) > (most, -best.busy):
                best, most = engine, known
        if best is None:
            return super().choose(features, engines)
        most = min(most, prompt - 1)
        return Decision(best, f"{self.name}: {most} of {prompt} prompt tokens held", most)

    def cached(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        sent = super().cached(features, engines)
        if features.tokens is None:
            return [0 if self.index.follows(e) else n for e, n in zip(engines, sent, strict=True)]
        held = self.index.match(features.tokens, features.adapter, engines)
        return [
            exact if self.index.follows(engine) else approximate
            for engine, exact, approximate in zip(engines, held, sent, strict=True)
        ]

    def placed(self, features: Features, engine: EngineHandle) -> None:
        super().placed(features, engine)
        if features.tokens is not None:
            self.index.expect(features.tokens, features.adapter, engine)
