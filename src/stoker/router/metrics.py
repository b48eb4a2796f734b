"""The router's own metrics, `stoker_router_…`.

Plain counters that one thread writes, turned into Prometheus' families when somebody asks: a
request costs a few dictionary operations, not a lock for each label.
"""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stoker.router.batches.metrics import BatchMetrics
from stoker.router.engines.breaker import BreakerState
from stoker.router.kubernetes.discovery import Discovery, PodState
from stoker.router.usage import Usage
from stoker.telemetry.histogram import Histogram

if TYPE_CHECKING:
    from stoker.router.dispatcher import Dispatcher

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_LATENCY = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0),
)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_BREAKER = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Answers:
    """What one engine answered for one model."""

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "first_byte",
        "latency",
        "prompt_tokens",
        "statuses",
    )

    def __init__(self, first_byte: Histogram, latency: Histogram) -> None:
        """The histograms are the engine's, whatever the model."""
        self.first_byte = first_byte
        self.latency = latency
        self.statuses: Counter[int] = Counter()
        """499 for a client that left."""
        self.prompt_tokens = self.completion_tokens = self.cached_tokens = 0


class RouterMetrics:
    """What is counted as requests pass. Labels that come from outside are bounded: models and
    engines are those of the fleet, reasons and statuses are ours."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answers] = {}
        """By model and engine."""
        self.rejected: Counter[tuple[str, str]] = Counter()
        """By model and the error's code."""
        self.retries: Counter[tuple[str, str]] = Counter()
        """By the engine that failed and what failed."""
        self.decisions: Counter[tuple[str, str]] = Counter()
        """By policy and engine."""
        self.broken: Counter[str] = Counter()
        """Answers that broke off after their first byte, by engine."""
        self.first_byte: dict[str, Histogram] = {}
        self.latency: dict[str, Histogram] = {}
        """By engine."""
        self.queue_wait = Histogram(_LATENCY)
        self.predicted_tokens = 0
        """Prompt tokens the policy took to be cached where it sent them."""
        self.loop_lag = Histogram(_LAG)
        self.batches = BatchMetrics()

    def answered(
        self,
        model: str,
        engine: str,
        status: int,
        first_byte_s: float | None,
        total_s: float,
        usage: Usage | None,
    ) -> None:
        """An engine's answer has gone to the client, as far as it came; `usage` if it told."""
        answers = self.answers.get((model, engine)) or self._answers(model, engine)
        answers.statuses[status] += 1
        if usage is not None:
            answers.prompt_tokens += usage.prompt_tokens
            answers.completion_tokens += usage.completion_tokens
            answers.cached_tokens += usage.cached_tokens
        if first_byte_s is not None:
            answers.first_byte.observe(first_byte_s)
        answers.latency.observe(total_s)

    def _answers(self, model: str, engine: str) -> Answers:
        """A new entry of `answers`."""
        if engine not in self.latency:
            self.first_byte[engine] = Histogram(_LATENCY)
            self.latency[engine] = Histogram(_LATENCY)
        answers = Answers(self.first_byte[engine], self.latency[engine])
        self.answers[model, engine] = answers
        return answers


class RouterCollector(Collector):
    """The metrics of a router as Prometheus' families."""

    def __init__(self, dispatcher: Dispatcher, open_connections: Callable[[], int]) -> None:
        self._dispatcher = dispatcher
        self._open_connections = open_connections

    def collect(self) -> Iterator[Metric]:
        metrics = self._dispatcher.metrics
        by_engine = ("model", "engine")
        requests = {
            (*labels, status): count
            for labels, answers in metrics.answers.items()
            for status, count in answers.statuses.items()
        }
        yield _counter("requests", "Requests finished.", (*by_engine, "status"), requests)
        yield _counter("rejected", "Requests refused.", ("model", "code"), metrics.rejected)
        yield _counter("retries", "Attempts repeated.", ("engine", "cause"), metrics.retries)
        yield _counter("decisions", "Choices made.", ("policy", "engine"), metrics.decisions)
        broken = Counter({(engine,): count for engine, count in metrics.broken.items()})
        yield _counter("broken_answers", "Answers that broke off.", ("engine",), broken)
        for name, text in (
            ("prompt_tokens", "Prompt tokens."),
            ("completion_tokens", "Tokens generated."),
            ("cached_tokens", "Prompt tokens engines had cached."),
        ):
            tokens = {labels: getattr(one, name) for labels, one in metrics.answers.items()}
            yield _counter(name, text, by_engine, tokens)
        yield from self._by_key()
        predicted = Counter({(): metrics.predicted_tokens})
        text = "Prompt tokens the policy took to be cached where it sent them."
        yield _counter("predicted_cached_tokens", text, (), predicted)
        yield _histograms("first_byte_seconds", "Sent to first byte.", metrics.first_byte)
        yield _histograms("latency_seconds", "Arrival to last byte.", metrics.latency)
        yield _histogram("queue_wait_seconds", "Time in the queue.", metrics.queue_wait)
        yield _histogram("event_loop_lag_seconds", "Lateness of a timer.", metrics.loop_lag)
        yield from metrics.batches.collect()
        yield from self._gauges()

    def _by_key(self) -> Iterator[Metric]:
        """What the ledger counted. Keys' names, never the keys."""
        totals = self._dispatcher.ledger.book.totals()
        labels = ("key", "model", "engine")
        for name, text in (
            ("requests", "Requests."),
            ("refused", "Requests refused for their key's sake."),
            ("prompt_tokens", "Prompt tokens."),
            ("completion_tokens", "Tokens generated."),
            ("engine_seconds", "Engines' time, divided among the requests that shared it."),
            ("cost", "Cost, in the currency of the prices."),
        ):
            sums = {group: getattr(tally, name) for group, tally in totals.items()}
            yield _counter(f"key_{name}", f"By key: {text}", labels, sums)

    def _gauges(self) -> Iterator[Metric]:
        dispatcher = self._dispatcher
        waiting = GaugeMetricFamily(
            "stoker_router_queue_length", "Requests that wait.", labels=["model"]
        )
        for model, length in dispatcher.queue_lengths().items():
            waiting.add_metric([model], length)
        yield waiting
        if dispatcher.redis is not None:
            text = "1 when Redis answers; otherwise this router goes by what it knows itself."
            up = float(dispatcher.redis.up)
            yield GaugeMetricFamily("stoker_router_redis_up", text, value=up)
        if dispatcher.pods is not None:
            yield from _pods(dispatcher.pods)
        engines = dispatcher.fleet.engines.values()
        now = dispatcher.loop.time()
        for name, text, values in (
            ("engine_in_flight", "Requests at the engine.", [e.in_flight for e in engines]),
            (
                "engine_in_flight_elsewhere",
                "Requests that other routers have at the engine.",
                [e.elsewhere.in_flight for e in engines],
            ),
            ("engine_healthy", "1 when probes pass.", [e.health.healthy for e in engines]),
            ("engine_usable", "1 when it may get requests.", [e.usable(now) for e in engines]),
            (
                "engine_breaker_state",
                "0 closed, 1 half open, 2 open.",
                [_BREAKER[e.breaker.state] for e in engines],
            ),
        ):
            family = GaugeMetricFamily(f"stoker_router_{name}", text, labels=["engine"])
            for engine, value in zip(engines, values, strict=True):
                family.add_metric([engine.name], float(value))
            yield family
        for name, text, value in (
            ("active_requests", "Requests under way.", len(dispatcher.active)),
            ("open_connections", "Clients connected.", self._open_connections()),
            ("resident_memory_bytes", "Memory in RAM.", _resident_bytes()),
        ):
            yield GaugeMetricFamily(f"stoker_router_{name}", text, value=float(value))

    def exposition(self) -> bytes:
        """The metrics, and those of the process, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)


def _pods(pods: Discovery) -> Iterator[Metric]:
    text = "1 when the API server tells which pods there are; otherwise the known ones go on."
    yield GaugeMetricFamily("stoker_router_kubernetes_up", text, value=float(pods.connected))
    family = GaugeMetricFamily("stoker_router_pods", "Pods that match.", labels=["state"])
    counts = pods.count()
    for state in PodState:
        family.add_metric([state.value], counts[state])
    yield family


def _counter(
    name: str, text: str, labels: tuple[str, ...], counts: Mapping[tuple[Any, ...], float]
) -> Metric:
    family = CounterMetricFamily(f"stoker_router_{name}", text, labels=labels)
    for values, count in counts.items():
        family.add_metric([str(value) for value in values], count)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(f"stoker_router_{name}", text)
    family.add_metric([], histogram.cumulative(), histogram.sum)
    return family


def _histograms(name: str, text: str, histograms: Mapping[str, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"stoker_router_{name}", text, labels=["engine"])
    for engine, histogram in histograms.items():
        family.add_metric([engine], histogram.cumulative(), histogram.sum)
    return family


def _resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()
