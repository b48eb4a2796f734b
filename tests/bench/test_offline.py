"""The engine measured by itself: counts are exact, and a step's parts add up to the whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stoker.bench.dataset import SampleRequest
from stoker.bench.offline import measure_latency, measure_throughput
from stoker.bench.steps import StepSplit, measuring
from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from tests.server.doubles import letter_model


@pytest.fixture
def engine() -> Iterator[Engine]:
    model = letter_model(EngineConfig(max_waiting_requests=0))
    bare = model.engine.engine
    yield bare
    assert not bare.timer.on  # measuring leaves nothing behind
    assert not bare.has_unfinished


def test_throughput_counts_what_was_computed(engine: Engine) -> None:
    requests = [SampleRequest("abc" * n, 3 * n, n) for n in range(1, 6)]
    result = measure_throughput(engine, requests, n=2, num_warmups=2)
    assert (result.num_requests, result.prompt_tokens, result.output_tokens) == (5, 45, 30)
    assert result.split.steps == 5
    assert result.as_json()["total_num_tokens"] == 75
    assert result.lines()[0].startswith("Throughput: ")
    assert result.lines()[1:3] == ["Total num prompt tokens:  45", "Total num output tokens:  30"]


def test_latency_times_whole_batches(engine: Engine) -> None:
    done = []
    result = measure_latency(
        engine,
        input_len=4,
        output_len=3,
        batch_size=2,
        num_iters=2,
        num_iters_warmup=1,
        on_done=lambda: done.append(1),
    )
    assert (len(result.latencies), len(done), result.split.steps) == (2, 3, 6)
    assert sum(result.latencies) == pytest.approx(result.split.total)
    assert list(result.as_json()["percentiles"]) == ["10", "25", "50", "75", "90", "99"]


def test_beams_are_measured_too(engine: Engine) -> None:
    result = measure_latency(
        engine,
        input_len=4,
        output_len=3,
        batch_size=1,
        n=2,
        use_beam_search=True,
        num_iters=1,
        num_iters_warmup=0,
    )
    assert result.split.steps >= 3


def test_the_parts_of_a_step_add_up(engine: Engine) -> None:
    with measuring(engine) as meter:
        meter.run_to_completion()
        assert meter.split().lines() == ["No step was made."]
    split = StepSplit(
        4,
        40,
        0.010,
        {"matmul": 0.006, "sampling": 0.001},
        {"schedule": 0.0004, "batch": 0.0008, "detokenize": 0.0004, "results": 0.0004},
    )
    assert split.python == pytest.approx(0.003)
    assert split.lines() == [
        "Steps: 4, 2.500 ms and 10.0 tokens each",
        "  Kernels         1750.0 µs   70.0 %",
        "    matmul        1500.0 µs   60.0 %",
        "    sampling       250.0 µs   10.0 %",
        "  Python           750.0 µs   30.0 %",
        "    schedule       100.0 µs    4.0 %",
        "    batch          200.0 µs    8.0 %",
        "    call             0.0 µs    0.0 %",
        "    detokenize     100.0 µs    4.0 %",
        "    results        100.0 µs    4.0 %",
        "    other          250.0 µs   10.0 %",
    ]
    json = split.as_json()
    assert json["kernels"] == {"matmul": 0.006, "sampling": 0.001}
    assert json["python_parts"] == pytest.approx(
        {
            "schedule": 4e-4,
            "batch": 8e-4,
            "call": 0,
            "detokenize": 4e-4,
            "results": 4e-4,
            "other": 1e-3,
        }
    )
