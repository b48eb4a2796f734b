"""The engine whose cache really holds most of the prompt, unless it has too much to do; what no
engine holds enough of, and everything else, is placed as by `cost`.

An engine that does not publish its KV events is judged by what it was sent; a request whose
tokens are not known, by load.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic

from stoker.router.engines.handle import EngineHandle
from stoker.router.kv.index import KvIndex
from stoker.router.policies.cache_model import CacheModel
from stoker.router.policies.cost import Cost
from stoker.router.request import Features


class Kv(Cost):
    name = "kv"
    _has = "held"

    def __init__(self, index: KvIndex | None = None, caches: CacheModel | None = None) -> None:
        super().__init__(caches)
        self.index = KvIndex(monotonic) if index is None else index

    def cached(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        sent = super().cached(features, engines)
        if features.tokens is None:
            return [0 if self.index.follows(e) else n for e, n in zip(engines, sent, strict=True)]
        held = self.index.match(features.tokens, features.adapter, engines)
        return [
            exact if self.index.follows(engine) else approximate
            for engine, exact, approximate in zip(engines, held, sent, strict=True)
        ]

    def _prompt_tokens(self, features: Features) -> int:
        return len(features.tokens) if features.tokens else features.prompt_tokens

    def placed(self, features: Features, engine: EngineHandle) -> None:
        super().placed(features, engine)
        if features.tokens is not None:
            self.index.expect(features.tokens, features.adapter, engine)
