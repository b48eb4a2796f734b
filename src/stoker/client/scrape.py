"""A page of Prometheus metrics, and what happened between two of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from stoker.client.http import ServerUnreachable

Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """One reading of `/metrics`. `at` is the reader's clock, in seconds."""

    at: float
    samples: Samples
    """The values of each name, with their labels."""
    text: str

    @classmethod
    def parse(cls, text: str, at: float) -> Scrape:
        """Raises `ServerUnreachable` when it is no such page."""
        samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        except (ValueError, KeyError, IndexError):
            raise ServerUnreachable("the answer at /metrics is not in Prometheus' format") from None
        return cls(at, samples, text)

    def find(self, names: Iterable[str], **labels: str) -> list[tuple[Mapping[str, str], float]]:
        """The values with these labels, under the first of `names` that there is."""
        for name in names:
            if name in self.samples:
                wanted = labels.items()
                return [one for one in self.samples[name] if wanted <= one[0].items()]
        return []

    def total(self, *names: str, **labels: str) -> float | None:
        """Their sum; None where there are none."""
        found = self.find(names, **labels)
        return math.fsum(value for _, value in found) if found else None

    def labels(self, label: str, *names: str) -> list[str]:
        """The values of a label, each once."""
        return list(dict.fromkeys(one[label] for one, _ in self.find(names) if label in one))

    def buckets(self, *names: str, **labels: str) -> dict[float, float]:
        """A histogram's counts, cumulative, by upper bound; several of the name are added up."""
        buckets: dict[float, float] = {}
        for one, value in self.find([f"{name}_bucket" for name in names], **labels):
            try:
                bound = float(one.get("le", ""))
            except ValueError:  # no bucket, whatever its name
                continue
            buckets[bound] = buckets.get(bound, 0.0) + value
        return dict(sorted(buckets.items()))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a histogram's values, in its unit."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True)
class Span:
    """What happened from one reading to a later one."""

    first: Scrape
    last: Scrape

    @property
    def seconds(self) -> float:
        return self.last.at - self.first.at

    def grown(self, *names: str, **labels: str) -> float | None:
        """How much a counter grew; one that appeared meanwhile grew from 0."""
        last = self.last.total(*names, **labels)
        if last is None:
            return None
        return max(0.0, last - (self.first.total(*names, **labels) or 0.0))

    def rate(self, *names: str, **labels: str) -> float | None:
        """… per second."""
        grown = self.grown(*names, **labels)
        return None if grown is None or self.seconds <= 0 else grown / self.seconds

    def percentiles(self, *names: str, **labels: str) -> Percentiles | None:
        """Of the values that a histogram took in; None when there were none."""
        before = self.first.buckets(*names, **labels)
        after = self.last.buckets(*names, **labels)
        new = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
        if not new or max(new.values()) <= 0:
            return None
        return Percentiles(*(quantile(new, q) for q in (0.5, 0.9, 0.99)))


def quantile(buckets: Mapping[float, float], q: float) -> float:
    """The value below which a share `q` lies, taken to be spread evenly within a bucket, as
    Prometheus' `histogram_quantile` does; above the last bound, that bound.

    `buckets`: cumulative counts by upper bound, ascending, infinity last.
    """
    rank = q * max(buckets.values())
    low = below = 0.0
    for bound, count in buckets.items():
        if count >= rank and count > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (rank - below) / (count - below)
        if not math.isinf(bound):
            low = bound
        below = max(below, count)
    return low
