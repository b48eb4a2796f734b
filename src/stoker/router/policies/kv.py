"""As `cost`, with what engines' caches really hold instead of what they were sent.

An engine that does not publish its KV events is judged by what it was sent; a request whose
tokens are not known, by load.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.index import KvIndex
from stoker.router.policies.cost import Cost
from stoker.router.policies.prefix_index import PrefixIndex
from stoker.router.request import Features


class Kv(Cost):
    name = "kv"

    def __init__(self, index: KvIndex | None = None, sent: PrefixIndex | None = None) -> None:
        super().__init__(sent)
        self.index = index or KvIndex(monotonic)

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
