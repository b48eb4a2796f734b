"""The engine that will first have done what it has: tokens in flight over its speed."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision
from stoker.router.policies.least_in_flight import LeastInFlight
from stoker.router.policies.work import queued_seconds, rates_of
from stoker.router.request import Features


class LeastWork(LeastInFlight):
    """Counts what the router itself has sent, which no poll can be late with, and adds the
    pressure of the KV cache where the engine tells it. Equals are taken by requests in flight.
    """

    name = "least_work"

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        seconds = [
            queued_seconds(engine, rates)
            for engine, rates in zip(engines, rates_of(engines), strict=True)
        ]
        least = min(seconds)
        equals = [engine for engine, own in zip(engines, seconds, strict=True) if own == least]
        chosen = super().choose(features, equals).engine
        return Decision(chosen, f"least_work: {least:.2f} s of work before it")
