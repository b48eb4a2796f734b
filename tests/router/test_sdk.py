"""Every route of the router's description, through openai-python and the anthropic SDK, with a real
server behind it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.conformance.serving import routed
from tests.server.conftest import running

QUESTION: Any = [{"role": "user", "content": "What comes next?"}]
LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/completions",
    "body": {"model": "letters", "prompt": "Once", "max_tokens": 3, "temperature": 0},
}


class Clients:
    """Both SDKs at one router, and what they asked."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self.asked: set[tuple[str, str]] = set()
        hooks: Any = {"request": [self._note]}
        self.openai = stack.enter_context(
            openai.OpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                max_retries=0,
                http_client=openai.DefaultHttpxClient(event_hooks=hooks, timeout=60),
            )
        )
        self.anthropic = stack.enter_context(
            anthropic.Anthropic(
                base_url=url,
                api_key="none",
                max_retries=0,
                http_client=anthropic.DefaultHttpxClient(event_hooks=hooks, timeout=60),
            )
        )

    def _note(self, request: Any) -> None:
        self.asked.add((request.method, request.url.path))

    def get(self, path: str, cast_to: Any = object) -> Any:
        return self.openai.get(f"{self.url}{path}", cast_to=cast_to)

    def post(self, path: str, body: object) -> Any:
        return self.openai.post(f"{self.url}{path}", body=body, cast_to=object)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with (
        running() as engine,
        routed(engine.url, tmp_path_factory.mktemp("router"), drain=1) as (url, _),
        ExitStack() as stack,
    ):
        yield Clients(url, stack)


def test_every_route_answers_the_sdks(clients: Clients) -> None:
    chats(clients)
    responses(clients)
    messages(clients)
    files_and_batches(clients)
    of_the_router_alone(clients)
    missing = []
    for path, methods in clients.get("/openapi.json")["paths"].items():
        pattern = re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path) + "$")
        for method in methods:
            if not any(m == method.upper() and pattern.match(p) for m, p in clients.asked):
                missing.append(f"{method} {path}")
    assert missing == []


def chats(clients: Clients) -> None:
    client = clients.openai
    fields: Any = {"model": "letters", "messages": QUESTION, "max_tokens": 5, "temperature": 0}
    whole = client.chat.completions.create(**fields).choices[0].message.content
    chunks = client.chat.completions.create(**fields, stream=True)
    assert whole
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    lists = clients.post("/v1/chat/completions/batch", fields | {"messages": [QUESTION, QUESTION]})
    assert [choice["message"]["content"] for choice in lists["choices"]] == [whole, whole]
    prompt: Any = {"model": "letters", "prompt": "Once", "max_tokens": 5, "temperature": 0}
    text = client.completions.create(**prompt).choices[0].text
    pieces = client.completions.create(**prompt, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == text
    assert len(client.embeddings.create(model="letters", input=["a", "b"]).data) == 2
    tokens = clients.post("/tokenize", {"model": "letters", "prompt": "Once"})["tokens"]
    assert clients.post("/detokenize", {"model": "letters", "tokens": tokens}) == {"prompt": "Once"}


def responses(clients: Clients) -> None:
    client = clients.openai
    fields: Any = {"model": "letters", "input": "Hm?", "temperature": 0}
    whole = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        assert stream.get_final_response().output_text == whole.output_text
    assert client.responses.retrieve(whole.id).output_text == whole.output_text
    assert client.responses.input_items.list(whole.id).data
    assert client.responses.input_tokens.count(model="letters", input="Hm?").input_tokens > 0
    begun = client.responses.create(**fields, background=True)
    assert client.responses.cancel(begun.id).id == begun.id
    assert list(client.responses.retrieve(begun.id, stream=True))
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def messages(clients: Clients) -> None:
    client = clients.anthropic
    fields: Any = {"model": "letters", "messages": QUESTION, "max_tokens": 5}
    fields |= {"extra_body": {"temperature": 0}}
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        assert stream.get_final_text() == whole.content[0].text
    counted = client.messages.count_tokens(model="letters", messages=QUESTION)
    cached = whole.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == whole.usage.input_tokens + cached
    with pytest.raises(anthropic.NotFoundError, match="other"):
        client.messages.create(**(fields | {"model": "other"}))


def files_and_batches(clients: Clients) -> None:
    client = clients.openai
    content = json.dumps(LINE).encode()
    file = client.files.create(file=("a.jsonl", content), purpose="batch")
    assert client.files.retrieve(file.id).bytes == len(content)
    assert client.files.content(file.id).read() == content
    assert [one.id for one in client.files.list()] == [file.id]
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
    )
    assert client.batches.retrieve(batch.id).id == batch.id
    assert [one.id for one in client.batches.list()] == [batch.id]
    assert client.files.delete(file.id).deleted
    try:
        client.batches.cancel(batch.id)
    except openai.ConflictError:  # it was done before, or nearly so
        status = client.batches.retrieve(batch.id).status
        assert status in ("finalizing", "completed", "failed")


def of_the_router_alone(clients: Clients) -> None:
    assert [model.id for model in clients.openai.models.list()] == ["letters"]
    assert clients.openai.models.retrieve("letters").id == "letters"
    with pytest.raises(openai.NotFoundError):
        clients.openai.models.retrieve("other")
    assert clients.get("/health")["status"] == "ok"
    assert clients.get("/ready") == {"ready": True, "models": {"letters": True}}
    assert "stoker_router_active_requests" in clients.get("/metrics", str)
    assert clients.get("/models/status")["native"]["available"]
    assert clients.get("/usage")["total"]["requests"] > 0
    prompt = {"prompt": "Once", "max_tokens": 5, "temperature": 0}
    text = clients.post("/generate", prompt)["text"]
    raw = clients.openai.post(
        f"{clients.url}/generate/stream", body=prompt | {"stream": True}, cast_to=str
    )
    events = [json.loads(line.removeprefix("data: ")) for line in raw.split("\n\n") if line]
    assert "".join(event.get("token", "") for event in events) == text
    assert events[-1] == {"done": True}
    chat = {"model": "letters", "messages": QUESTION, "max_tokens": 5}
    assert clients.post("/batch", {"requests": [chat, chat]})["succeeded"] == 2


def test_a_body_too_deep_to_read_is_a_400(clients: Clients) -> None:
    body = b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    for path in ("/generate", "/batch", "/v1/batches", "/v1/completions"):
        answer = httpx.post(f"{clients.url}{path}", content=body, timeout=60)
        assert answer.status_code == 400, path
        assert "not valid JSON" in answer.json()["error"]["message"]
