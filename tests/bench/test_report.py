"""Every figure from times that can be reckoned by hand."""

from __future__ import annotations

import pytest

from stoker.bench.load import Outcome
from stoker.bench.report import make_report, parse_goodput, parse_metrics, parse_percentiles
from stoker.errors import InvalidRequest

OUTCOMES = [
    Outcome(10, 100.0, 0.1, [0.1, 0.2], 0.4, 3, "abc"),
    Outcome(20, 100.5, 0.3, [0.9], 1.2, 2, "de"),
    Outcome(30, 101.0, 0.2, [], 0.2, 1, "f"),
    Outcome(99, 100.0, error="status 500"),
]


def test_the_figures() -> None:
    report = make_report(
        OUTCOMES, 2.0, max_concurrency=4, percentiles=(50, 99), goodput={"ttft": 250, "tpot": 200}
    )
    found = report.as_json(detailed=False)
    assert found == pytest.approx(
        {
            "duration": 2.0,
            "completed": 3,
            "failed": 1,
            "total_input_tokens": 60,
            "total_output_tokens": 6,
            "request_throughput": 1.5,
            "request_goodput": 1.0,
            "output_throughput": 3.0,
            "total_token_throughput": 33.0,
            "max_output_tokens_per_s": 4,
            "max_concurrent_requests": 2,
            "mean_ttft_ms": 200.0,
            "median_ttft_ms": 200.0,
            "std_ttft_ms": 81.6496580927726,
            "p50_ttft_ms": 200.0,
            "p99_ttft_ms": 298.0,
            "mean_tpot_ms": 525.0,
            "median_tpot_ms": 525.0,
            "std_tpot_ms": 375.0,
            "p50_tpot_ms": 525.0,
            "p99_tpot_ms": 892.5,
            "mean_itl_ms": 400.0,
            "median_itl_ms": 200.0,
            "std_itl_ms": 355.90260840104,
            "p50_itl_ms": 200.0,
            "p99_itl_ms": 886.0,
            "mean_e2el_ms": 600.0,
            "median_e2el_ms": 400.0,
            "std_e2el_ms": 432.04937989385,
            "p50_e2el_ms": 400.0,
            "p99_e2el_ms": 1184.0,
        }
    )
    detailed = report.as_json(detailed=True)
    assert detailed["ttfts"] == [0.1, 0.3, 0.2, 0.0]
    assert detailed["errors"] == ["", "", "", "status 500"]


def test_the_printed_form() -> None:
    lines = make_report(OUTCOMES, 2.0, request_rate=5, metrics=("ttft",)).lines()
    assert lines == [
        "============ Serving Benchmark Result ============",
        "Successful requests:                     3",
        "Failed requests:                         1",
        "Request rate configured (RPS):           5",
        "Benchmark duration (s):                  2.00",
        "Total input tokens:                      60",
        "Total generated tokens:                  6",
        "Request throughput (req/s):              1.50",
        "Output token throughput (tok/s):         3.00",
        "Peak output token throughput (tok/s):    4.00",
        "Peak concurrent requests:                2.00",
        "Total token throughput (tok/s):          33.00",
        "---------------Time to First Token----------------",
        "Mean TTFT (ms):                          200.00",
        "Median TTFT (ms):                        200.00",
        "P99 TTFT (ms):                           298.00",
        "=" * 50,
    ]


def test_a_load_that_failed_has_no_times() -> None:
    report = make_report(OUTCOMES[-1:], 1.0)
    assert report.completed == 0
    assert not any("TTFT" in line for line in report.lines())


def test_options_are_read_or_refused() -> None:
    assert parse_goodput(["ttft:200 tpot:50", "e2el:3000"]) == {
        "ttft": 200.0,
        "tpot": 50.0,
        "e2el": 3000.0,
    }
    assert parse_metrics("ttft, itl") == ["ttft", "itl"]
    assert parse_percentiles("50,99.9") == [50.0, 99.9]
    for wrong in ("itl:5", "ttft", "ttft:-1", "ttft:x"):
        with pytest.raises(InvalidRequest, match="--goodput"):
            parse_goodput([wrong])
    with pytest.raises(InvalidRequest, match="'x'"):
        parse_metrics("ttft,x")
    for percentile in ("101", "a", ""):
        with pytest.raises(InvalidRequest, match="--metric-percentiles"):
            parse_percentiles(percentile)
