"""The less loaded of two engines drawn at random (Mitzenmacher, 2001)."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.router.engines.handle import EngineHandle
from stoker.router.policies.base import Decision, Policy
from stoker.router.request import Features

_MASK = (1 << 64) - 1


def _mix(number: int) -> int:
    """A well-spread 64-bit function of a counter (the finalizer of SplitMix64)."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


class PowerOfTwo(Policy):
    """Draws are a function of how many requests were placed before, so they can be replayed."""

    name = "power_of_two"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._placed = 0

    def choose(self, features: Features, engines: Sequence[EngineHandle]) -> Decision:
        count = len(engines)
        if count == 1:
            return Decision(engines[0], "power_of_two: the only one")
        draw = _mix(self._seed ^ _mix(self._placed))
        first = draw % count
        second = (first + 1 + (draw >> 32) % (count - 1)) % count
        one, two = engines[first], engines[second]
        load, other = one.in_flight_everywhere, two.in_flight_everywhere
        if other * one.capacity < load * two.capacity:
            one, two, load, other = two, one, other, load
        return Decision(one, f"power_of_two: {one.name} has {load}, {two.name} {other}")

    def placed(self, features: Features, engine: EngineHandle) -> None:
        self._placed += 1
