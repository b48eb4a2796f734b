"""The default model, through the real server and the openai SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

from stoker.engine.config import EngineConfig
from stoker.server.config import ServerConfig
from stoker.server.load import load_model
from tests.model.text_data import default_model
from tests.server.conftest import RunningServer, running

pytestmark = pytest.mark.model

CAPITAL = "What is the capital of France?"
STREAMS = 64


@contextmanager
def smollm2(*, enable_prefix_caching: bool = True) -> Iterator[RunningServer]:
    path = str(default_model())
    config = EngineConfig(max_model_len=1024, enable_prefix_caching=enable_prefix_caching)
    with running(
        lambda: load_model(path, config, served_name="smollm2"),
        ServerConfig(served_names=("smollm2",)),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with smollm2() as found:
        yield found


def test_it_knows_the_capital_of_france(server: RunningServer) -> None:
    answer = server.client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": CAPITAL}], temperature=0
    )
    assert answer.choices[0].message.content is not None
    assert "Paris" in answer.choices[0].message.content
    streamed = server.client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": CAPITAL}],
        temperature=0,
        stream=True,
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed)
    assert text == answer.choices[0].message.content


@pytest.mark.parametrize("enable_prefix_caching", [True, False])
async def test_sixty_four_streams_are_each_what_they_are_alone(enable_prefix_caching: bool) -> None:
    with smollm2(enable_prefix_caching=enable_prefix_caching) as server:
        stats = server.model.engine.stats
        most = 0

        async def answer(client: openai.AsyncOpenAI, number: int) -> tuple[str, str | None]:
            nonlocal most
            asked = f"Tell me about the number {number}. " + "It is a number. " * (number % 7)
            stream = await client.chat.completions.create(
                model="smollm2",
                messages=[{"role": "user", "content": asked}],
                temperature=(0.0, 1.0)[number % 2],
                seed=number,
                max_tokens=4 + number * 5 % 29,
                stream=True,
            )
            text, reason = "", None
            async for chunk in stream:
                most = max(most, stats().num_running)
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason or reason
            return text, reason

        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120
        ) as client:
            together = await asyncio.gather(*(answer(client, n) for n in range(STREAMS)))
            assert most > STREAMS // 2
            alone = [await answer(client, number) for number in range(STREAMS)]
        assert together == alone
        assert {reason for _, reason in together} <= {"stop", "length"}
        assert len({text for text, _ in together}) > STREAMS // 2
        server.wait_until(lambda: server.state.active == 0)
        found = stats()
        assert (found.num_used_blocks, found.num_running, found.num_waiting) == (0, 0, 0)
        assert sum(found.finished.values()) == 2 * STREAMS
