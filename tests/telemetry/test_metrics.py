"""The metrics text, read back with Prometheus' own parser."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stoker.engine.stats import EngineStats, FinishedRequest, StepStats
from stoker.telemetry.histogram import Histogram, buckets_1_2_5
from stoker.telemetry.metrics import EngineMetrics, exposition

STATS = EngineStats(
    num_running=3,
    num_waiting=2,
    num_waiting_tokens=700,
    num_blocks=200,
    num_used_blocks=50,
    num_cached_blocks=60,
    num_preemptions=4,
    prompt_tokens=1000,
    generation_tokens=400,
    prefix_cache_queries=900,
    prefix_cache_hits=300,
    admission_rejections=5,
    steps=99,
    finished={"stop": 7, "abort": 1},
)
LABELS = {"model_name": "m", "engine": "0"}


def samples(metrics: EngineMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(exposition(metrics).decode())
        for sample in family.samples
    }


def value(metrics: EngineMetrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"vllm:{name}", tuple(sorted((LABELS | labels).items()))]


@pytest.fixture
def metrics() -> EngineMetrics:
    return EngineMetrics(
        lambda: STATS, model_name="m", max_model_len=1000, cache_config={"block_size": "16"}
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("num_requests_running", 3),
        ("num_requests_waiting", 2),
        ("kv_cache_usage_perc", 0.25),
        ("num_preemptions_total", 4),
        ("prompt_tokens_total", 1000),
        ("generation_tokens_total", 400),
        ("prefix_cache_queries_total", 900),
        ("prefix_cache_hits_total", 300),
        ("admission_rejections_total", 5),
    ],
)
def test_gauges_and_counters_are_the_engines(
    metrics: EngineMetrics, name: str, expected: float
) -> None:
    assert value(metrics, name) == expected


def test_every_finish_reason_has_a_series(metrics: EngineMetrics) -> None:
    found = {
        reason: value(metrics, "request_success_total", finished_reason=reason)
        for reason in ("stop", "length", "abort", "error")
    }
    assert found == {"stop": 7, "length": 0, "abort": 1, "error": 0}


def test_cache_settings_are_labels(metrics: EngineMetrics) -> None:
    assert samples(metrics)["vllm:cache_config_info", (("block_size", "16"), ("engine", "0"))] == 1


def test_a_step_feeds_the_histograms(metrics: EngineMetrics) -> None:
    metrics.record(
        StepStats(
            num_tokens=40,
            times_to_first_token=[0.03],
            inter_token_latencies=[0.004, 0.02, 0.02],
            finished=[
                FinishedRequest(
                    request_id="one",
                    finish_reason="stop",
                    num_prompt_tokens=30,
                    num_generation_tokens=11,
                    num_cached_tokens=0,
                    num_preemptions=2,
                    n=1,
                    max_tokens=100,
                    e2e_time=1.6,
                    queue_time=0.1,
                    prefill_time=0.5,
                    decode_time=1.0,
                )
            ],
        )
    )
    assert value(metrics, "iteration_tokens_total_bucket", le="32.0") == 0
    assert value(metrics, "iteration_tokens_total_bucket", le="64.0") == 1
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.02") == 0
    assert value(metrics, "time_to_first_token_seconds_bucket", le="0.04") == 1
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.005") == 1
    assert value(metrics, "inter_token_latency_seconds_bucket", le="+Inf") == 3
    assert value(metrics, "inter_token_latency_seconds_sum") == pytest.approx(0.044)
    for name, expected in {
        "e2e_request_latency_seconds": 1.6,
        "request_queue_time_seconds": 0.1,
        "request_inference_time_seconds": 1.5,
        "request_prefill_time_seconds": 0.5,
        "request_decode_time_seconds": 1.0,
        "request_time_per_output_token_seconds": 0.1,
        "request_prompt_tokens": 30,
        "request_generation_tokens": 11,
        "request_params_n": 1,
        "request_params_max_tokens": 100,
        "request_num_preemptions": 2,
    }.items():
        assert value(metrics, f"{name}_sum") == pytest.approx(expected)
        assert value(metrics, f"{name}_count") == 1


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram((1, 2))
    histogram.observe_all([1, 1.5, 2, 3])
    assert histogram.cumulative() == [("1.0", 1), ("2.0", 3), ("+Inf", 4)]
    assert histogram.sum == 7.5


def test_token_buckets_end_at_the_context() -> None:
    assert buckets_1_2_5(120) == [1, 2, 5, 10, 20, 50, 100]
    assert buckets_1_2_5(200) == [1, 2, 5, 10, 20, 50, 100, 200]
