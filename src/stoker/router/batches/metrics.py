"""What is counted about batches, `stoker_router_batch_…`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


class BatchMetrics:
    """Of this router alone: batches that others work on count there."""

    def __init__(self) -> None:
        self.lines: Counter[str] = Counter()
        """By outcome: completed, failed, or repeated when an engine failed."""
        self.finished: Counter[str] = Counter()
        """Batches, by the status they ended with."""
        self.running = 0
        self.in_flight = 0
        self.uploaded_bytes = 0

    def collect(self) -> Iterator[Metric]:
        for name, text, label, counts in (
            ("lines", "Lines answered, or sent again.", "outcome", self.lines),
            ("finished", "Batches that ended.", "status", self.finished),
        ):
            family = CounterMetricFamily(f"stoker_router_batch_{name}", text, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family
        uploaded = CounterMetricFamily("stoker_router_batch_uploaded_bytes", "Files taken in.")
        uploaded.add_metric([], self.uploaded_bytes)
        yield uploaded
        for gauge, text, number in (
            ("running", "Batches worked on.", self.running),
            ("lines_in_flight", "Lines asked and not yet recorded.", self.in_flight),
        ):
            yield GaugeMetricFamily(f"stoker_router_batch_{gauge}", text, value=float(number))
