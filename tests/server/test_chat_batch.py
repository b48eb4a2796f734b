"""Several conversations in one request."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.server.conftest import RunningServer
from tests.server.doubles import letter_model
from tests.server.responses.test_routes import Start

PATH = "/v1/chat/completions/batch"
CONVERSATIONS = [
    [{"role": "user", "content": text}] for text in ("One.", "Two, and more.", "Three?")
]


def test_every_conversation_is_answered_as_if_alone(server: RunningServer) -> None:
    fields: dict[str, Any] = {"model": "letters", "temperature": 0, "logprobs": True}
    alone = [
        server.post("/v1/chat/completions", json={**fields, "messages": messages}).json()
        for messages in CONVERSATIONS
    ]
    batch = server.post(PATH, json={**fields, "messages": CONVERSATIONS}).json()
    assert batch["object"] == "chat.completion"
    want = [answer["choices"][0] | {"index": i} for i, answer in enumerate(alone)]
    assert batch["choices"] == want
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert batch["usage"][count] == sum(answer["usage"][count] for answer in alone)


def test_forms_of_answers(start: Start) -> None:
    server = start(partial(letter_model, answer="no"))
    body = {
        "model": "letters",
        "messages": CONVERSATIONS,
        "structured_outputs": {"choice": ["yes", "no"]},
    }
    answer = server.post(PATH, json=body).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["no"] * 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [[]]}, "messages[0]"),
        ({"messages": [CONVERSATIONS[0], [{"role": "user", "content": "refuse"}]]}, "messages[1]"),
        ({"messages": [CONVERSATIONS[0], [{"role": "wizard", "content": "x"}]]}, None),
        ({"messages": [[{"role": "user", "content": "x" * 2000}]]}, "messages"),
        ({"stream": True}, "stream"),
        ({"n": 2}, "n"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_one_wrong_conversation_refuses_all(
    server: RunningServer, fields: dict[str, Any], param: str | None
) -> None:
    body = {"model": "letters", "messages": CONVERSATIONS} | fields
    answer = server.post(PATH, json=body)
    assert answer.status_code == 400
    found = answer.json()["error"]["param"]
    assert found == (param or "messages[1][0].role")
    server.wait_until(lambda: server.blocks_in_use() == 0)
