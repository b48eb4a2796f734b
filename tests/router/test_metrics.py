"""What the router counts, as Prometheus reads it."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stoker.router.usage import Usage, read_stream_usage, read_usage

from .fakes import CHAT, FakeEngine, Fleet, close_in_stream, hang, status, until


async def scrape(fleet: Fleet) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its labels' values in the order of their names; no buckets."""
    response = await fleet.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (
            sample.name.removeprefix("stoker_router_"),
            *(v for _, v in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }


async def test_requests_tokens_and_decisions_are_counted() -> None:
    async with Fleet(FakeEngine("one"), FakeEngine("two")) as fleet:
        for _ in range(4):
            await fleet.post()
        await fleet.post(CHAT | {"model": "nope"})
        found = await scrape(fleet)
    for engine in ("one", "two"):
        assert found["requests_total", engine, "m", "200"] == 2
        assert found["decisions_total", engine, "least_in_flight"] == 2
        assert found["prompt_tokens_total", engine, "m"] == 14
        assert found["completion_tokens_total", engine, "m"] == 4
        assert found["latency_seconds_count", engine] == 2
        assert found["first_byte_seconds_count", engine] == 2
        assert found["engine_in_flight", engine] == 0
        assert found["engine_usable", engine] == 1
    assert found["rejected_total", "model_not_found", "-"] == 1
    assert found["queue_length", "m"] == 0
    assert found["open_connections",] == 1
    assert found["resident_memory_bytes",] > 1e7


async def test_retries_breaks_and_those_who_leave_are_counted() -> None:
    one, two = FakeEngine("one"), FakeEngine("two")
    async with Fleet(one, two) as fleet:
        one.script.append(status(503))
        await fleet.post()
        one.default = two.default = close_in_stream
        await fleet.post(CHAT | {"stream": True})
        one.default = two.default = hang
        leaver = asyncio.create_task(fleet.post())
        await until(lambda: one.in_flight + two.in_flight == 1)
        leaver.cancel()
        await fleet.settled()
        found = await scrape(fleet)
    assert found["retries_total", "status_503", "one"] == 1
    assert sum(found.get(("broken_answers_total", name), 0) for name in ("one", "two")) == 1
    assert sum(found.get(("requests_total", name, "m", "502"), 0) for name in ("one", "two")) == 1
    assert sum(found.get(("requests_total", name, "m", "499"), 0) for name in ("one", "two")) == 1
    assert found["active_requests",] == 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage": {"prompt_tokens": 5, "completion_tokens": 7}}', Usage(5, 7, 0)),
        (
            b'{"usage": {"prompt_tokens": 5, "completion_tokens": 7,'
            b' "prompt_tokens_details": {"cached_tokens": 4}}}',
            Usage(5, 7, 4),
        ),
        (b'{"usage": {"input_tokens": 5, "output_tokens": 7}}', Usage(5, 7, 0)),
        (
            b'{"usage": {"input_tokens": 5, "output_tokens": 7, "cache_read_input_tokens": 2}}',
            Usage(7, 7, 2),
        ),
        (b'{"response": {"usage": {"input_tokens": 5, "output_tokens": 7}}}', Usage(5, 7, 0)),
        (b'{"usage": null}', None),
        (b'{"usage": {"prompt_tokens": "many"}}', None),
        (b'{"text": "\\"usage\\""}', None),
        (b'{"usage"', None),
        (b"", None),
    ],
)
def test_usage_of_a_whole_answer(body: bytes, expected: Usage | None) -> None:
    assert read_usage(body) == expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (
            b'data: {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}\n\n'
            b"data: [DONE]\n\n",
            Usage(5, 7, 0),
        ),
        (
            b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
            b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}\n\n',
            Usage(5, 2, 0),
        ),
        (
            b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'
            b'data: {"usage": null}\n\ndata: [DONE]\n\n',
            Usage(5, 1, 0),
        ),
        (b'"usage": {"prompt_tokens": 5}}\n\ndata: [DONE]\n\n', None),
        (b"data: [DONE]\n\n", None),
        (b"", None),
    ],
)
def test_usage_at_the_end_of_a_stream(tail: bytes, expected: Usage | None) -> None:
    assert read_stream_usage(tail) == expected
