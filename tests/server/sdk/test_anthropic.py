"""Every Anthropic route through the anthropic SDK, against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.server.conftest import RunningServer

QUESTION: list[MessageParam] = [{"role": "user", "content": "What comes next?"}]
FIELDS: dict[str, Any] = {
    "model": "letters",
    "max_tokens": 40,
    "messages": QUESTION,
    "system": "Be brief.",
    "extra_body": {"temperature": 0},
}


@pytest.fixture
def client(server: RunningServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    (block,) = message.content
    assert block.type == "text"
    return block.text


def test_messages(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**FIELDS)
    with client.messages.stream(**FIELDS) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert streamed == text_of(final) == text_of(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens
    kinds = [event.type for event in client.messages.create(**FIELDS, stream=True)]
    assert [kind for kind in kinds if kind not in ("content_block_delta", "ping")] == [
        *("message_start", "content_block_start", "content_block_stop"),
        *("message_delta", "message_stop"),
    ]


def test_count_tokens(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="letters", messages=QUESTION, system="Be brief.")
    usage = client.messages.create(**FIELDS).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="other"):
        client.messages.create(**(FIELDS | {"model": "other"}))
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**(FIELDS | {"max_tokens": 0}))
    assert caught.value.request_id


async def test_the_asynchronous_client(server: RunningServer) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="none", max_retries=0
    ) as client:

        async def ask(number: int) -> str:
            asked: list[MessageParam] = [{"role": "user", "content": f"Number {number}"}]
            async with client.messages.stream(**(FIELDS | {"messages": asked})) as stream:
                return await stream.get_final_text()

        together = await asyncio.gather(*map(ask, range(8)))
        assert together == [await ask(number) for number in range(8)]
