"""How a server is doing, from its own metrics, vLLM's and llama.cpp's."""

from __future__ import annotations

import asyncio
import time

import pytest

from stoker.client import ApiClient, ServerUnreachable
from stoker.client.scrape import Scrape
from stoker.client.vitals import EngineVitals, Reading, RouterVitals, Vitals, read, vitals
from tests.router.fakes import CHAT, FakeEngine, Fleet, hang, until
from tests.server.conftest import RunningServer, server

__all__ = ["server"]  # a fixture


def of_text(text: str) -> Vitals:
    reading = Reading(Scrape.parse(text, 0.0), 0.0)
    return vitals(reading, reading)


async def test_our_own_engine(server: RunningServer) -> None:
    async with ApiClient(server.url) as client:
        first = await read(client)
        for _ in range(3):
            await client.post(
                "/v1/completions",
                {"model": "letters", "prompt": "x" * 40, "max_tokens": 10, "ignore_eos": True},
            )
        last = await read(client)
    found = vitals(first, last)
    assert isinstance(found, EngineVitals)
    assert found.models == ("letters",)
    assert (found.running, found.waiting, found.preemptions) == (0, 0, 0)
    assert found.kv_usage == 0
    assert found.kv_tokens == 512 * 16
    seconds = last.metrics.at - first.metrics.at
    assert found.prompt_tokens_per_s == pytest.approx(120 / seconds)
    assert found.generation_tokens_per_s == pytest.approx(30 / seconds)
    assert found.requests_per_s == pytest.approx(3 / seconds)
    # The second and the third find two blocks of 16 there.
    assert found.prefix_hit_rate == pytest.approx(64 / 120)
    assert found.ttft is not None
    assert found.itl is not None
    assert found.e2e is not None
    assert 0 < found.ttft.p50 <= found.ttft.p90 <= found.ttft.p99
    assert found.uptime is not None
    assert found.uptime >= 0
    assert found.memory_bytes is not None
    assert found.memory_bytes > 2**20


def test_nothing_happened() -> None:
    text = 'vllm:num_requests_running{model_name="m"} 2\nvllm:generation_tokens_total 5\n'
    found = of_text(text)
    assert isinstance(found, EngineVitals)
    assert (found.models, found.running, found.waiting) == (("m",), 2, 0)
    assert found.generation_tokens_per_s is None  # no time passed
    assert (found.ttft, found.prefix_hit_rate, found.uptime, found.kv_tokens) == (None,) * 4


def test_llama_cpp() -> None:
    text = (
        "llamacpp:requests_processing 1\nllamacpp:requests_deferred 2\n"
        "llamacpp:tokens_predicted_total %d\nllamacpp:prompt_tokens_total 50\n"
    )
    first = Reading(Scrape.parse(text % 100, 0.0), 0.0)
    last = Reading(Scrape.parse(text % 140, 2.0), 2.0)
    found = vitals(first, last)
    assert isinstance(found, EngineVitals)
    assert (found.running, found.waiting, found.kv_usage) == (1, 2, None)
    assert (found.generation_tokens_per_s, found.prompt_tokens_per_s) == (20, 0)


async def test_the_names_of_models_that_metrics_do_not_have() -> None:
    async with FakeEngine("one", models=("a", "b"), kind="llama_cpp") as engine:
        engine.metrics = "llamacpp:requests_processing 1\n"
        async with ApiClient(engine.url) as client:
            reading = await read(client)
    found = vitals(reading, reading)
    assert (found.models, found.running) == (("a", "b"), 1)


def test_a_page_without_figures() -> None:
    with pytest.raises(ServerUnreachable, match="it is loading a model, makes embeddings only"):
        of_text("process_open_fds 3\n")


def test_a_server_that_was_started_anew() -> None:
    one = Reading(Scrape.parse("process_start_time_seconds 5\n", 0.0), 0.0)
    two = Reading(Scrape.parse("process_start_time_seconds 9\n", 1.0), 1.0)
    assert one.is_of_another_process(two)
    assert not one.is_of_another_process(one)


async def test_a_router_and_its_engines() -> None:
    one, two = FakeEngine("one"), FakeEngine("two")
    one.metrics = "vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.25\n"
    two.script.append(hang)
    async with (
        Fleet(one, two, router={"port": 0, "policy": "round_robin", "drain": 0.1}) as fleet,
        ApiClient(fleet.url) as client,
    ):
        first = await read(client)
        asking = [asyncio.create_task(fleet.post()) for _ in range(2)]
        await until(lambda: two.in_flight == 1 and one.in_flight == 0 and len(one.seen) == 1)
        await until(lambda: len(fleet.server.dispatcher.active) == 1)
        last = await read(client)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    found = vitals(first, last)
    assert isinstance(found, RouterVitals)
    assert found.models == (CHAT["model"],)
    assert (found.running, found.waiting) == (1, 0)
    seconds = last.metrics.at - first.metrics.at
    assert found.requests_per_s == pytest.approx(1 / seconds)
    assert found.generation_tokens_per_s is not None
    assert found.generation_tokens_per_s > 0
    assert (found.retries_per_s, found.rejected_per_s) == (0, 0)
    assert found.latency is not None
    engines = {engine.name: engine for engine in found.engines}
    assert (engines["one"].in_flight, engines["two"].in_flight) == (0, 1)
    assert all(engine.healthy and engine.breaker == "closed" for engine in found.engines)
    assert engines["one"].requests_per_s == pytest.approx(1 / seconds)
    assert engines["two"].requests_per_s == 0
    assert engines["one"].first_byte is not None
    assert engines["two"].first_byte is None
    assert [(engine.running, engine.kv_usage) for engine in found.engines] == [
        (3, 0.25),
        (None, None),
    ]
    assert found.uptime is not None
    assert 0 <= found.uptime <= time.time()


async def test_a_router_that_wants_a_key_tells_what_it_tells_everybody() -> None:
    one = FakeEngine("one")
    one.metrics = "vllm:num_requests_running 3\n"
    async with Fleet(one, require_key=True) as fleet, ApiClient(fleet.url) as client:
        reading = await read(client)
    found = vitals(reading, reading)
    assert isinstance(found, RouterVitals)
    (engine,) = found.engines
    assert (engine.name, engine.in_flight, engine.running) == ("one", 0, None)
