"""One trace from the client through the router to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from stoker.telemetry.tracing.export import open_tracing
from tests.server.conftest import running
from tests.server.doubles import letter_model
from tests.telemetry.tracing.collector import CLIENT, ERROR, SERVER, Collector, Span, collecting

from .fakes import CHAT, FakeEngine, Fleet, close_at_once, hang, status, until

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "theirs=1"}


@pytest_asyncio.fixture
async def collector() -> AsyncIterator[Collector]:
    with collecting() as collector:
        yield collector


def traced(collector: Collector, *engines: FakeEngine, **settings: object) -> Fleet:
    return Fleet(*engines, traces={"endpoint": collector.url}, **settings)


async def spans_of(fleet: Fleet, collector: Collector) -> tuple[list[Span], list[Span]]:
    """The router's spans, and those of its attempts, in order."""
    await fleet.settled()
    tracing = fleet.server._tracing
    assert tracing is not None
    await asyncio.to_thread(tracing.flush)
    requests, attempts = collector.named("router_request"), collector.named("engine_request")
    assert len(requests) + len(attempts) == len(collector.spans)
    collector.spans = []
    return requests, sorted(attempts, key=lambda span: span.start)


async def test_the_engine_gets_a_span_of_the_routers(collector: Collector) -> None:
    engine = FakeEngine("one")
    async with traced(collector, engine) as fleet:
        response = await fleet.post(None, **CALLER)
        (request,), (attempt,) = await spans_of(fleet, collector)
        assert (request.service, request.kind, attempt.kind) == ("stoker-router", SERVER, CLIENT)
        assert (request.trace_id, request.parent) == (TRACE, PARENT)
        assert (attempt.trace_id, attempt.parent) == (TRACE, request.span_id)
        assert request.start <= attempt.start <= attempt.end <= request.end
        headers = engine.seen[0].headers
        assert headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
        assert headers["tracestate"] == "theirs=1"
        told = request.attributes
        assert told.pop("stoker.router.time_in_queue") >= 0
        assert told == {
            "http.request.method": "POST",
            "url.path": "/v1/chat/completions",
            "http.response.status_code": 200,
            "stoker.request_id": response.headers["x-request-id"],
            "stoker.router.attempts": 1,
            "gen_ai.usage.prompt_tokens": response.json()["usage"]["prompt_tokens"],
            "gen_ai.usage.completion_tokens": response.json()["usage"]["completion_tokens"],
        }
        told = attempt.attributes
        assert told.pop("stoker.router.time_to_first_byte") >= 0
        assert told == {
            "server.address": "127.0.0.1",
            "server.port": int(engine.url.rpartition(":")[2]),
            "stoker.engine.name": "one",
            "stoker.engine.kind": engine.kind,
            "stoker.router.reason": response.headers["x-stoker-reason"],
            "gen_ai.request.model": "m",
            "http.response.status_code": 200,
        }


async def test_every_attempt_has_a_span(collector: Collector) -> None:
    one, two = FakeEngine("one"), FakeEngine("two")
    one.script.append(close_at_once)
    two.script.append(status(503))
    async with traced(collector, one, two, router={"port": 0, "policy": "round_robin"}) as fleet:
        assert (await fleet.post(None, **CALLER)).status_code == 200
        (request,), attempts = await spans_of(fleet, collector)
        assert request.attributes["stoker.router.attempts"] == len(attempts) == 3
        assert [span.status == ERROR for span in attempts] == [True, True, False]
        assert {span.parent for span in attempts} == {request.span_id}
        told = [seen.headers["traceparent"].split("-")[2] for seen in (*one.seen, *two.seen)]
        assert sorted(told) == sorted(span.span_id for span in attempts)


async def test_a_request_refused_at_the_door(collector: Collector) -> None:
    async with traced(collector, FakeEngine("one")) as fleet:
        assert (await fleet.post(CHAT | {"model": "other"}, **CALLER)).status_code == 404
        (request,), attempts = await spans_of(fleet, collector)
        assert (request.trace_id, attempts) == (TRACE, [])
        assert request.attributes["http.response.status_code"] == 404
        assert request.status != ERROR


async def test_a_request_that_names_no_model(collector: Collector) -> None:
    async with traced(collector, FakeEngine("one", models=("m", "n"))) as fleet:
        await fleet.client.get("/v1/responses/abc?secret=1", headers=CALLER)
        (request,), (attempt,) = await spans_of(fleet, collector)
    assert "gen_ai.request.model" not in attempt.attributes
    assert request.attributes["http.request.method"] == "GET"
    assert request.attributes["url.path"] == "/v1/responses/abc"  # without what is asked in it


async def test_when_every_engine_fails(collector: Collector) -> None:
    engine = FakeEngine("one")
    engine.default = close_at_once
    async with traced(collector, engine, retries={"attempts": 1}) as fleet:
        assert (await fleet.post(None, **CALLER)).status_code == 502
        (request,), attempts = await spans_of(fleet, collector)
        assert (request.status, request.attributes["error.type"]) == (ERROR, "502")
        assert {span.status for span in attempts} == {ERROR}


async def test_a_client_that_leaves(collector: Collector) -> None:
    engine = FakeEngine("one")
    engine.script.append(hang)
    async with traced(collector, engine) as fleet:
        asking = asyncio.create_task(fleet.post(None, **CALLER))
        await until(lambda: engine.in_flight == 1)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        (request,), (attempt,) = await spans_of(fleet, collector)
        assert request.attributes["http.response.status_code"] == 499
        assert attempt.attributes["http.response.status_code"] == 499
        assert request.status != ERROR


async def test_a_client_that_does_not_sample(collector: Collector) -> None:
    engine = FakeEngine("one")
    async with traced(collector, engine) as fleet:
        await fleet.post(None, traceparent=f"00-{TRACE}-{PARENT}-00")
        assert await spans_of(fleet, collector) == ([], [])
    assert engine.seen[0].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert engine.seen[0].headers["traceparent"].endswith("-00")


async def test_without_traces_the_clients_own_pass(fleet: Fleet) -> None:
    await fleet.post(None, **CALLER)
    (seen,) = [seen for engine in fleet.engines for seen in engine.seen]
    assert {name: seen.headers[name] for name in CALLER} == CALLER


async def test_a_dead_collector_disturbs_nothing() -> None:
    with collecting() as collector:
        pass
    async with traced(collector, FakeEngine("one")) as fleet:
        assert (await fleet.post()).status_code == 200


async def test_one_trace_from_client_to_engine(collector: Collector) -> None:
    """The engine is a real server, with a collector's connection of its own."""
    tracing = open_tracing(collector.url, service="stoker", environ={})
    assert tracing is not None
    front = FakeEngine("front")  # a fleet needs its engines in this loop; the real one is beside
    with running(lambda: letter_model(tracing=tracing)) as server:
        settings = {"front": {"url": server.url, "models": ["letters"]}}
        async with traced(collector, front, engine_settings=settings) as fleet:
            answer = await fleet.sdk.chat.completions.create(
                model="letters",
                messages=[{"role": "user", "content": "hi"}],
                max_tokens=3,
                extra_headers=CALLER,
            )
            await asyncio.to_thread(tracing.flush)
            (engine,) = collector.named("llm_request")
            collector.spans.remove(engine)
            (request,), (attempt,) = await spans_of(fleet, collector)
    tracing.close()
    assert {request.trace_id, attempt.trace_id, engine.trace_id} == {TRACE}
    assert [request.parent, attempt.parent] == [PARENT, request.span_id]
    assert engine.parent == attempt.span_id
    assert (request.service, engine.service) == ("stoker-router", "stoker")
    assert request.start <= attempt.start <= engine.end <= request.end
    assert engine.attributes["gen_ai.request.id"] == answer.id
    for span in (request, engine):
        assert span.attributes["gen_ai.usage.completion_tokens"] == 3
