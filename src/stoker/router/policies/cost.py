"""The engine that would have the answer first: its queue, what of the prompt it must still
read, and what it must write.

Where prompts share nothing, what is to read is the same everywhere and the choice is that of
`least_work`.
"""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.prefix_index import PrefixIndex, tokens_in
from stoker.router.policies.work import queued_seconds, rates_of
from stoker.router.request import Features

# What an engine reads anew takes from its cache what others would have found there, so it costs
# more than its own time (`benchmarks/routing.py`: 1 loses half the hits there are, 8 lets queues
# grow).
READING_WEIGHT = 3.0


class Cost(Policy):
    name = "cost"

    def __init__(self, index: PrefixIndex | None = None) -> None:
        self._index = index or PrefixIndex()
        self._by_load = LeastInFlight()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        prompt, output = features.prompt_tokens, features.output_tokens
        least, equals, known = float("inf"), [engines[0]], 0
        for engine, rates, cached in zip(
            engines, rates_of(engines), self.cached(features, engines), strict=True
        ):
            prefill, decode = rates
            cached = min(cached, prompt - 1)
            reading = READING_WEIGHT * (prompt - cached) / prefill
            cost = queued_seconds(engine, rates) + reading + output / decode
            if cost < least:
                least, equals, known = cost, [engine], cached
            elif cost == least:
                equals.append(engine)
        chosen = equals[0]
        if len(equals) > 1:
            chosen = self._by_load.choose(features, equals).engine
        reason = f"{self.name}: {least:.2f} s, {known} of {prompt} prompt tokens known"
        return Decision(chosen, reason, known)

    def cached(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        """For each engine, how many of the prompt's tokens it need not compute."""
        return [tokens_in(blocks) for blocks in self._index.match(features, engines)]

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._index.add(features, engine)
        self._by_load.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._index.forget(engine)
