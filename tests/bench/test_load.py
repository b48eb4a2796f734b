"""Loads on a real server: counts agree with its own, and failures are told apart."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stoker.bench.dataset import SampleRequest
from stoker.bench.load import ENDPOINTS, LoadConfig, Outcome, TimedStream, arrival_times, run_load
from stoker.bench.report import make_report
from stoker.client import ApiClient
from stoker.router.upstream import ResponseHead, UpstreamFailure
from tests.server.conftest import RunningServer, server

__all__ = ["server"]  # a fixture


def outcomes_of(server: RunningServer, config: LoadConfig, number: int) -> list[Outcome]:
    requests = [SampleRequest(f"prompt {i}", 1, 5 + i) for i in range(number)]

    async def run() -> list[Outcome]:
        async with ApiClient(server.url) as client:
            outcomes, duration = await run_load(client, requests, config)
            assert duration > 0
            return outcomes

    return asyncio.run(run())


def counters(server: RunningServer) -> dict[str, float]:
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.mark.parametrize("backend", ["openai", "openai-chat"])
def test_tokens_agree_with_the_servers_own_count(server: RunningServer, backend: str) -> None:
    kind = next(k for k in ENDPOINTS if k == backend)
    config = LoadConfig("letters", kind, ENDPOINTS[kind], ignore_eos=True, max_concurrency=3)
    before = counters(server)
    outcomes = outcomes_of(server, config, 8)
    server.wait_until(lambda: server.state.active == 0)
    after = counters(server)
    report = make_report(outcomes, 1.0)
    assert [o.error for o in outcomes] == [None] * 8
    assert [o.output_len for o in outcomes] == list(range(5, 13))
    for name, ours in (
        ("vllm:generation_tokens_total", report.total_output_tokens),
        ("vllm:prompt_tokens_total", report.total_input_tokens),
        ("vllm:time_to_first_token_seconds_count", report.completed),
    ):
        assert after[name] - before[name] == ours
    for outcome in outcomes:
        assert len(outcome.text) == outcome.output_len
        assert 0 < outcome.ttft <= outcome.latency
        assert outcome.ttft + sum(outcome.itl) == pytest.approx(outcome.latency)


def test_never_more_in_flight_than_allowed(server: RunningServer) -> None:
    outcomes = outcomes_of(server, LoadConfig("letters", max_concurrency=1), 4)
    starts = sorted((o.start, o.start + o.latency) for o in outcomes)
    for (_, end), (start, _) in itertools.pairwise(starts):
        assert start >= end


def test_a_refusal_is_an_outcome(server: RunningServer) -> None:
    for outcome in outcomes_of(server, LoadConfig("other"), 2):
        assert outcome.error is not None
        assert outcome.error.startswith("status 404")
        assert "'other' is not served" in outcome.error


def test_a_server_that_is_not_there_is_an_outcome() -> None:
    async def run() -> list[Outcome]:
        async with ApiClient("http://127.0.0.1:9") as client:
            outcomes, _ = await run_load(client, [SampleRequest("x", 1, 1)], LoadConfig("m"))
            return outcomes

    (outcome,) = asyncio.run(run())
    assert outcome.error is not None
    assert "cannot connect" in outcome.error


def test_arrivals_last_as_long_as_the_rate_says() -> None:
    assert arrival_times(3, LoadConfig("m")) == [0.0, 0.0, 0.0]
    assert arrival_times(4, LoadConfig("m", request_rate=2, burstiness=math.inf)) == [
        0.5,
        1.0,
        1.5,
        2.0,
    ]
    drawn = arrival_times(100, LoadConfig("m", request_rate=50, seed=1))
    assert drawn == sorted(drawn)
    assert drawn[-1] == pytest.approx(2.0)
    assert drawn != arrival_times(100, LoadConfig("m", request_rate=50, seed=2))


async def streamed(*events: bytes, status: int = 200, fail: str | None = None) -> Outcome:
    outcome = Outcome(7)
    stream = TimedStream(outcome)
    stream.on_head(ResponseHead(status, [], {}))
    for event in events:
        stream.on_body(event)
    if fail is None:
        stream.on_end()
    else:
        stream.on_failed(UpstreamFailure(fail))
    await stream.ended
    return outcome


async def test_only_chunks_with_a_token_count() -> None:
    outcome = await streamed(
        b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n: wait\n\n',
        b'data: {"choices":[{"delta":{"content":""}}]}\n\n',
        b'data: {"choices":[{"delta":{"reasoning_content":"b"}}]}\n\n',
        b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n',
        b"data: [DONE]\n\n",
    )
    assert (outcome.error, outcome.text, len(outcome.itl)) == (None, "ab", 2)
    assert (outcome.prompt_len, outcome.output_len) == (9, 4)


@pytest.mark.parametrize(
    ("events", "fail", "part"),
    [
        ([b"data: [DONE]\n\n"], None, "without a token"),
        ([b"data: {\n\n"], None, "not what the API sends"),
        ([b'data: {"error":{"message":"overheated"}}\n\n'], None, "overheated"),
        ([b'data: {"choices":[{"text":"a"}]}\n\n'], "broke off", "broke off"),
    ],
)
async def test_streams_that_fail(events: list[bytes], fail: str | None, part: str) -> None:
    outcome = await streamed(*events, fail=fail)
    assert outcome.error is not None
    assert part in outcome.error
