"""A histogram that costs a bisection per value, for what is recorded at every token."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence


class Histogram:
    """Counts of values by bucket, as Prometheus wants them. One thread writes."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds`: upper ends of the buckets, ascending; one more holds what is above."""
        self.bounds = tuple(float(bound) for bound in bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: Iterable[float]) -> None:
        for value in values:
            self.observe(value)

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper end, values at or below it), the last being `+Inf`."""
        names = [*(str(bound) for bound in self.bounds), "+Inf"]
        total = 0
        buckets: list[tuple[str, float]] = []
        for name, count in zip(names, self.counts, strict=True):
            total += count
            buckets.append((name, float(total)))
        return buckets


def buckets_1_2_5(largest: int) -> list[float]:
    """1, 2, 5, 10, 20, 50 … up to `largest`."""
    bounds: list[float] = []
    scale = 1
    while True:
        for mantissa in (1, 2, 5):
            if mantissa * scale > largest:
                return bounds
            bounds.append(mantissa * scale)
        scale *= 10
