"""The engine that would have the answer first: its queue, what of the prompt it must still
read, and what it must write.

A prompt of which an engine already holds a good part goes there, unless that engine has too much
to do or is much slower than another. Where prompts share nothing, what is to read is the same
everywhere and the choice is that of `least_work`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.policies.cache_model import CacheModel
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.session import has_room
from stoker.router.policies.work import Rates, queued_seconds, rates_of
from stoker.router.request import Features

# An engine that holds this share of a prompt is worth going to,
_ENOUGH = 0.3
# unless it is declared to write less than this share of what the fastest does (what is measured
# tells of the load an engine had as much as of its speed),
_MUCH_SLOWER = 0.5
# or waiting for its turn takes this many times longer than reading the prompt would.
_PATIENCE = 10.0
# What an engine reads anew takes from its cache what others would have found there. So where one
# that could be chosen holds the prompt, reading it elsewhere costs more than the time it takes
# (`benchmarks/routing.py`: 1 loses hits, 8 lets queues grow).
READING_WEIGHT = 3.0


class Cost(Policy):
    name = "cost"
    _has: ClassVar[str] = "known"
    """How the reason calls a prompt's tokens that an engine need not compute."""

    def __init__(self, caches: CacheModel | None = None) -> None:
        self._caches = CacheModel() if caches is None else caches
        self._by_load = LeastInFlight()

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        prompt = self._prompt_tokens(features)
        rates = rates_of(engines)
        cached = [min(tokens, prompt - 1) for tokens in self.cached(features, engines)]
        is_held = max(cached) >= _ENOUGH * prompt
        if is_held:
            holder = _holder(engines, rates, cached, _ENOUGH * prompt)
            if holder is not None:
                known = cached[holder]
                reason = f"{self.name}: {known} of {prompt} prompt tokens {self._has}"
                return Decision(engines[holder], reason, known)
        weight = READING_WEIGHT if is_held else 1.0
        least, equals, known = float("inf"), [engines[0]], 0
        for engine, own, tokens in zip(engines, rates, cached, strict=True):
            prefill, decode = own
            reading = weight * (prompt - tokens) / prefill
            cost = queued_seconds(engine, own) + reading + features.output_tokens / decode
            if cost < least:
                least, equals, known = cost, [engine], tokens
            elif cost == least:
                equals.append(engine)
        chosen = equals[0]
        if len(equals) > 1:
            chosen = self._by_load.choose(features, equals).engine
        reason = f"{self.name}: {least:.2f} s, {known} of {prompt} prompt tokens {self._has}"
        return Decision(chosen, reason, known)

    def cached(self, features: Features, engines: Sequence[EngineHandle]) -> list[int]:
        """For each engine, how many of the prompt's tokens it need not compute."""
        return self._caches.match(features, engines)

    def _prompt_tokens(self, features: Features) -> int:
        """In the units of `cached`."""
        return features.prompt_tokens

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._caches.add(features, engine)
        self._by_load.placed(features, engine)

    def forget(self, engine: EngineHandle) -> None:
        self._caches.forget(engine)


def _holder(
    engines: Sequence[EngineHandle], rates: Sequence[Rates], cached: Sequence[int], enough: float
) -> int | None:
    """The place of the engine that holds most, of those that hold enough, have not too much to do
    and are not much slower than the fastest; None if there is none."""
    slowest = _MUCH_SLOWER * max(decode for _, decode in rates)
    queues = [queued_seconds(engine, own) for engine, own in zip(engines, rates, strict=True)]
    shortest = min(queues)
    best: int | None = None
    for number, engine in enumerate(engines):
        tokens, (prefill, decode) = cached[number], rates[number]
        if (
            tokens < enough
            or (engine.speed is not None and decode < slowest)
            or queues[number] - shortest > _PATIENCE * tokens / prefill
            or not has_room(engine, engines)
        ):
            continue
        if best is None or (tokens, -engine.busy) > (cached[best], -engines[best].busy):
            best = number
    return best
