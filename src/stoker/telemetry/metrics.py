"""An engine's metrics under vLLM's names, types and labels, so that its dashboards fit.

Gauges and counters are read from the engine when Prometheus asks; histograms are fed by the
engine after each step. Nothing here is global: a collector belongs to one engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from stoker.engine.stats import EngineStats, FinishedRequest, StepStats
from stoker.telemetry.histogram import Histogram, buckets_1_2_5

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
FINISH_REASONS = ("stop", "length", "abort", "error")

_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_INTER_TOKEN = (
    # Below 10 ms, where vLLM's first bucket ends, are the small models.
    *(0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_CHOICES = (1, 2, 5, 10, 20)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


class EngineMetrics(Collector):
    """The metrics of one engine."""

    def __init__(
        self,
        stats: Callable[[], EngineStats],
        *,
        model_name: str,
        max_model_len: int,
        cache_config: Mapping[str, str],
        engine: str = "0",
    ) -> None:
        """`cache_config`: labels of `vllm:cache_config_info`."""
        self._stats = stats
        self._names = ("model_name", "engine")
        self._values = (model_name, engine)
        self._cache_config = {**cache_config, "engine": engine}
        tokens = buckets_1_2_5(max_model_len)
        self._first_token = Histogram(_FIRST_TOKEN)
        self._inter_token = Histogram(_INTER_TOKEN)
        self._step_tokens = Histogram(_STEP_TOKENS)
        self._e2e = Histogram(_LATENCY)
        self._queue = Histogram(_LATENCY)
        self._inference = Histogram(_LATENCY)
        self._prefill = Histogram(_LATENCY)
        self._decode = Histogram(_LATENCY)
        self._per_token = Histogram(_INTER_TOKEN)
        self._prompt_tokens = Histogram(tokens)
        self._generation_tokens = Histogram(tokens)
        self._n = Histogram(_CHOICES)
        self._max_tokens = Histogram(tokens)
        self._preemptions = Histogram(_PREEMPTIONS)

    def record(self, step: StepStats) -> None:
        """Take in what one step brought; called by the thread that steps the engine."""
        if step.num_tokens:
            self._step_tokens.observe(step.num_tokens)
        self._first_token.observe_all(step.times_to_first_token)
        self._inter_token.observe_all(step.inter_token_latencies)
        for request in step.finished:
            self._record_finished(request)

    def _record_finished(self, request: FinishedRequest) -> None:
        self._e2e.observe(request.e2e_time)
        self._queue.observe(request.queue_time)
        self._inference.observe(request.inference_time)
        self._prefill.observe(request.prefill_time)
        self._decode.observe(request.decode_time)
        self._per_token.observe(request.time_per_output_token)
        self._prompt_tokens.observe(request.num_prompt_tokens)
        self._generation_tokens.observe(request.num_generation_tokens)
        self._n.observe(request.n)
        self._max_tokens.observe(request.max_tokens)
        self._preemptions.observe(request.num_preemptions)

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield self._gauge(
            "num_requests_running", "Sequences in the running batch.", stats.num_running
        )
        yield self._gauge(
            "num_requests_waiting", "Sequences waiting for a place in it.", stats.num_waiting
        )
        yield self._gauge(
            "kv_cache_usage_perc", "Share of the cache blocks in use, 0 to 1.", stats.kv_cache_usage
        )
        info = GaugeMetricFamily(
            "vllm:cache_config_info", "Cache settings, as labels.", labels=list(self._cache_config)
        )
        info.add_metric(list(self._cache_config.values()), 1)
        yield info
        lora = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "LoRA adapters in use; this engine has none.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        lora.add_metric(["0", "", ""], 0)
        yield lora
        for name, text, value in (
            ("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens found.", stats.prefix_cache_hits),
            ("num_preemptions", "Sequences put back to wait.", stats.num_preemptions),
            ("prompt_tokens", "Prompt tokens of requests.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("admission_rejections", "Requests turned away.", stats.admission_rejections),
        ):
            yield self._counter(name, text, value)
        success = CounterMetricFamily(
            "vllm:request_success",
            "Requests finished, by reason.",
            labels=[*self._names, "finished_reason"],
        )
        for reason in FINISH_REASONS:
            success.add_metric([*self._values, reason], stats.finished.get(reason, 0))
        yield success
        for name, text, histogram in (
            ("time_to_first_token_seconds", "Arrival to first token.", self._first_token),
            ("inter_token_latency_seconds", "Token to next token.", self._inter_token),
            (
                "request_time_per_output_token_seconds",
                "A request's mean time per token after the first.",
                self._per_token,
            ),
            ("e2e_request_latency_seconds", "Arrival to last token.", self._e2e),
            ("request_queue_time_seconds", "Arrival to first scheduled.", self._queue),
            ("request_inference_time_seconds", "First scheduled to last token.", self._inference),
            ("request_prefill_time_seconds", "First scheduled to first token.", self._prefill),
            ("request_decode_time_seconds", "First token to last token.", self._decode),
            ("request_prompt_tokens", "Prompt tokens of a request.", self._prompt_tokens),
            ("request_generation_tokens", "Tokens generated.", self._generation_tokens),
            ("request_params_n", "Answers asked for.", self._n),
            ("request_params_max_tokens", "Most tokens asked for.", self._max_tokens),
            ("iteration_tokens_total", "Tokens computed in a step.", self._step_tokens),
            ("request_num_preemptions", "Times put back to wait.", self._preemptions),
        ):
            yield self._histogram(name, text, histogram)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=self._names)
        family.add_metric(self._values, value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        family = HistogramMetricFamily(f"vllm:{name}", text, labels=self._names)
        family.add_metric(self._values, histogram.cumulative(), histogram.sum)
        return family


def exposition(metrics: EngineMetrics) -> bytes:
    """The metrics, and those of the process, in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(metrics)
    return generate_latest(registry)
