"""Loading, health, disconnects, overload, time limits: what happens around an answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import httpx
import openai
import pytest

from stoker.engine.config import EngineConfig
from stoker.errors import ModelCorrupt
from stoker.server.config import ServerConfig
from stoker.server.state import ServedModel
from tests.server.conftest import RunningServer
from tests.server.doubles import letter_model

Start = Callable[..., RunningServer]
LONG = {"prompt": "Once", "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def test_while_the_model_loads_everything_says_503_and_when_to_come_back(start: Start) -> None:
    proceed = threading.Event()

    def load() -> ServedModel:
        proceed.wait(10)
        return letter_model()

    server = start(load, wait=False)
    for answer in (
        server.get("/health"),
        server.get("/v1/models"),
        server.post("/v1/completions", json={"prompt": "x"}),
    ):
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "model_loading"
        assert int(answer.headers["retry-after"]) >= 1
    assert server.get("/metrics").status_code == 200
    proceed.set()
    server.wait_until(server.state.loaded.is_set)
    assert server.get("/health").status_code == 200


def test_a_model_that_cannot_be_loaded_is_named(start: Start) -> None:
    def load() -> ServedModel:
        raise ModelCorrupt("model.gguf ends after 7 bytes")

    server = start(load)
    answer = server.get("/health")
    assert answer.status_code == 503
    assert "model.gguf ends after 7 bytes" in answer.json()["error"]["message"]


def test_health_notices_a_step_that_does_not_end(start: Start) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), stall_timeout=0.05)
    server = start(lambda: letter_model(gate=gate), config)
    assert server.get("/health").status_code == 200, "idle is healthy"
    asking = threading.Thread(
        target=lambda: server.post("/v1/completions", json={"prompt": "x", "max_tokens": 1})
    )
    asking.start()
    try:
        server.wait_until(lambda: server.get("/health").status_code == 503)
        assert server.get("/health").json()["error"]["code"] == "engine_stalled"
    finally:
        gate.set()
        asking.join()
    server.wait_until(lambda: server.get("/health").status_code == 200)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(start: Start, stream: bool) -> None:
    server = start(lambda: letter_model(delay=0.01))

    async def ask() -> None:
        async with (
            httpx.AsyncClient() as client,
            client.stream("POST", f"{server.url}/v1/completions", json=LONG | {"stream": stream}),
        ):
            await asyncio.sleep(10)

    async def ask_and_leave() -> None:
        asking = asyncio.create_task(ask())
        await asyncio.to_thread(server.wait_until, lambda: server.blocks_in_use() > 0)
        asking.cancel()

    asyncio.run(ask_and_leave())
    server.wait_until(lambda: server.blocks_in_use() == 0)
    stats = server.model.engine.stats()
    assert stats.finished == {"abort": 1}
    # 900 tokens would have taken 900 steps.
    assert stats.steps < 200
    server.wait_until(lambda: server.state.active == 0)


async def test_sixty_four_streams_are_each_what_they_are_alone(start: Start) -> None:
    server = start(lambda: letter_model(EngineConfig(max_num_seqs=32), num_blocks=96))
    prompts = [f"{number} " * (1 + number % 9) for number in range(64)]
    lengths = [5 + number * 7 % 60 for number in range(64)]

    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:

        async def answer(number: int) -> tuple[str, str | None]:
            text = ""
            reasons: list[str | None] = []
            stream = await client.completions.create(
                model="letters",
                prompt=prompts[number],
                max_tokens=lengths[number],
                seed=number,
                stream=True,
            )
            async for chunk in stream:
                text += chunk.choices[0].text
                reasons.append(chunk.choices[0].finish_reason)
            return text, reasons[-1]

        together = await asyncio.gather(*(answer(number) for number in range(64)))
        alone = [await answer(number) for number in range(64)]
    assert together == alone
    assert {reason for _, reason in together} <= {"stop", "length"}
    stats = server.model.engine.stats()
    assert (stats.num_used_blocks, stats.num_running, stats.num_waiting) == (0, 0, 0)
    assert sum(stats.finished.values()) == 128
    assert server.state.active == 0


def test_a_full_queue_is_a_429_that_says_when_to_come_back(start: Start) -> None:
    gate = threading.Event()
    config = EngineConfig(max_num_seqs=1, max_waiting_requests=1)
    server = start(lambda: letter_model(config, gate=gate))

    def ask() -> None:
        server.client.completions.create(model="letters", prompt="x", max_tokens=1)

    waiting = [threading.Thread(target=ask) for _ in range(2)]
    try:
        for thread in waiting:
            thread.start()
            server.wait_until(lambda: server.model.engine.stats().num_running > 0)
        server.wait_until(lambda: server.state.active == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            ask()
        assert caught.value.code == "engine_overloaded"
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert server.model.engine.stats().admission_rejections == 1
    finally:
        gate.set()
        for thread in waiting:
            thread.join()


def test_a_request_over_the_time_limit_ends_with_a_504(start: Start) -> None:
    config = ServerConfig(served_names=("letters",), request_timeout=0.2)
    server = start(lambda: letter_model(delay=0.01), config)
    whole = server.post("/v1/completions", json=LONG)
    assert whole.status_code == 504
    assert whole.json()["error"]["code"] == "request_timeout"
    with pytest.raises(openai.APIError, match="time limit"):
        list(
            server.client.completions.create(
                model="letters",
                prompt="x",
                max_tokens=900,
                extra_body={"ignore_eos": True},
                stream=True,
            )
        )
    server.wait_until(lambda: server.blocks_in_use() == 0)


def test_a_silent_stream_carries_comments(start: Start) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), keep_alive_interval=0.05)
    server = start(lambda: letter_model(gate=gate), config)
    body = {"prompt": "x", "max_tokens": 2, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == ": keep-alive"
        gate.set()
        assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"


def test_an_engine_that_fails_ends_its_streams_with_an_error(start: Start) -> None:
    gate = threading.Event()
    server = start(lambda: letter_model(gate=gate))
    stream = server.client.completions.create(
        model="letters", prompt="x", max_tokens=900, stream=True
    )

    def broken(_: object) -> None:
        raise RuntimeError("the device is gone")

    server.model.engine.engine.step_listener = broken
    gate.set()
    with pytest.raises(openai.APIError, match="the device is gone"):
        list(stream)
    health = server.get("/health")
    assert health.status_code == 503
    assert health.json()["error"]["code"] == "engine_stopped"
    assert server.post("/v1/completions", json={"prompt": "x"}).status_code == 503


def test_numbers_that_are_not_finite_end_one_request_alone(start: Start) -> None:
    server = start()
    want = server.client.completions.create(model="letters", prompt="x", temperature=0)
    other = server.client.completions.create(
        model="letters", prompt="x", temperature=0, stream=True
    )
    whole = server.post("/v1/completions", json={"prompt": "x!"})
    assert whole.status_code == 500
    assert whole.json()["error"]["code"] == "non_finite_logits"
    assert whole.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="not finite"):
        list(server.client.completions.create(model="letters", prompt="x!", stream=True))
    assert "".join(chunk.choices[0].text for chunk in other) == want.choices[0].text
    assert server.get("/health").status_code == 200


def test_a_lower_priority_value_goes_first(start: Start) -> None:
    gate = threading.Event()
    config = EngineConfig(max_num_seqs=1, scheduling_policy="priority")
    server = start(lambda: letter_model(config, gate=gate, delay=0.03))
    ended: list[int] = []

    def ask(priority: int) -> None:
        server.client.completions.create(
            model="letters", prompt="x", max_tokens=3, extra_body={"priority": priority}
        )
        ended.append(priority)

    asking = [threading.Thread(target=ask, args=(priority,)) for priority in (0, 5, 3, 4)]
    submitted = server.model.engine._streams
    for count, thread in enumerate(asking, 1):
        thread.start()
        server.wait_until(lambda count=count: len(submitted) == count)  # type: ignore[misc]
    gate.set()
    for thread in asking:
        thread.join()
    assert server.model.engine.stats().num_preemptions == 0
    assert ended == [0, 3, 4, 5]


def test_a_list_of_prompts_is_taken_whole_or_not_at_all(start: Start) -> None:
    server = start(lambda: letter_model(delay=0.01))
    answer = server.post("/v1/completions", json=LONG | {"prompt": [[97], [98], [99999]]})
    assert answer.status_code == 400
    server.wait_until(lambda: server.model.engine.stats().finished == {"abort": 2})
    assert server.blocks_in_use() == 0
    assert server.model.engine.stats().steps < 200
