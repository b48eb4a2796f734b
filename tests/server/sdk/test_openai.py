"""Every OpenAI route through openai-python, against a running server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.server.conftest import RunningServer, running

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What comes next?"}]
ASKED: set[tuple[str, str]] = set()
"""Method and path of all that was asked here."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running() as found:
        yield found
        found.wait_until(lambda: found.blocks_in_use() == 0)


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[openai.OpenAI]:
    def note(request: Any) -> None:
        ASKED.add((request.method, request.url.path))

    with (
        openai.DefaultHttpxClient(event_hooks={"request": [note]}, timeout=60) as http,
        openai.OpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http
        ) as client,
    ):
        yield client


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["letters"]
    assert client.models.retrieve("letters").id == "letters"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_chat(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="letters", messages=QUESTION, temperature=0, max_completion_tokens=30, n=2
    )
    text = [""] * 2
    reasons: dict[int, str | None] = {}
    usage = None
    for chunk in client.chat.completions.create(
        model="letters",
        messages=QUESTION,
        temperature=0,
        max_completion_tokens=30,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    ):
        usage = chunk.usage
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert text == [choice.message.content for choice in whole.choices]
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage is not None
    assert whole.usage is not None
    assert usage.prompt_tokens == whole.usage.prompt_tokens
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_chat_stream_helper(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "letters", "messages": QUESTION, "temperature": 0}
    with client.chat.completions.stream(**fields) as stream:
        final = stream.get_final_completion()
    whole = client.chat.completions.create(**fields)
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_chat_raw_response_carries_the_request_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="letters", messages=QUESTION, max_tokens=1, extra_headers={"x-request-id": "mine"}
    )
    assert raw.request_id == "mine"


def test_chat_lists(client: openai.OpenAI) -> None:
    answer = client.post(
        "/chat/completions/batch",
        cast_to=ChatCompletion,
        body={"model": "letters", "messages": [QUESTION, QUESTION], "temperature": 0},
    )
    one, two = answer.choices
    assert one.message.content == two.message.content
    assert (one.index, two.index) == (0, 1)


def test_completions(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "letters", "prompt": "Once", "temperature": 0}
    whole = client.completions.create(**fields, logprobs=2, echo=True)
    pieces = client.completions.create(**fields, logprobs=2, echo=True, stream=True)
    assert "".join(p.choices[0].text for p in pieces if p.choices) == whole.choices[0].text
    assert whole.choices[0].text.startswith("Once")
    assert whole.choices[0].logprobs is not None


def test_responses(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "letters", "input": "What comes next?", "temperature": 0}
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        assert stream.get_final_response().output_text == whole.output_text
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    items = client.responses.input_items.list(whole.id).data
    assert [item.type for item in items] == ["message"]
    counted = client.responses.input_tokens.count(model="letters", input="What comes next?")
    assert whole.usage is not None
    assert counted.input_tokens == whole.usage.input_tokens
    following = client.responses.create(**fields, previous_response_id=whole.id)
    assert following.usage is not None
    assert following.usage.input_tokens > whole.usage.input_tokens
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_a_background_response_is_cancelled_or_ends(client: openai.OpenAI) -> None:
    begun = client.responses.create(model="letters", input="Hm?", background=True)
    ended = client.responses.cancel(begun.id)
    assert ended.status in ("cancelled", "completed")
    again = list(client.responses.retrieve(begun.id, stream=True))
    assert again[0].type == "response.created"


def test_embeddings(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="letters", input=["sea", "boat"])
    assert [len(item.embedding) for item in answer.data] == [4, 4]
    assert answer.usage.prompt_tokens == 7


def test_tokenize_and_detokenize(client: openai.OpenAI, server: RunningServer) -> None:
    root = f"{server.url}/"
    tokens = client.post(
        f"{root}tokenize", cast_to=object, body={"model": "letters", "prompt": "Once"}
    )
    assert isinstance(tokens, dict)
    assert tokens["count"] == 4
    text = client.post(
        f"{root}detokenize",
        cast_to=object,
        body={"model": "letters", "tokens": tokens["tokens"]},
    )
    assert text == {"prompt": "Once"}
    described = client.get(f"{root}tokenizer_info", cast_to=object)
    assert isinstance(described, dict)
    assert described


def test_probes(client: openai.OpenAI, server: RunningServer) -> None:
    for path in ("health", "ping", "load", "version"):
        assert client.get(f"{server.url}/{path}", cast_to=object), path
    metrics = client.get(f"{server.url}/metrics", cast_to=str)
    assert "vllm:num_requests_running" in metrics


async def test_the_asynchronous_client(server: RunningServer) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0
    ) as client:

        async def ask(number: int) -> str:
            stream = await client.chat.completions.create(
                model="letters",
                messages=[{"role": "user", "content": f"Number {number}"}],
                temperature=0,
                stream=True,
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        together = await asyncio.gather(*map(ask, range(8)))
        assert together == [await ask(number) for number in range(8)]


def test_every_route_was_asked(server: RunningServer, client: openai.OpenAI) -> None:
    """The description's routes, Anthropic's apart, are all above."""
    if len(ASKED) < 5:
        pytest.skip("only meaningful after the whole file")
    app = httpx.get(f"{server.url}/openapi.json").json()
    missing = []
    for path, methods in app["paths"].items():
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path) + "$")
        for method in methods:
            asked = any(m == method.upper() and pattern.match(p) for m, p in ASKED)
            if not asked and not path.startswith("/v1/messages"):
                missing.append(f"{method} {path}")
    assert missing == []
