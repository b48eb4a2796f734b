"""What the router reads of a request: how many answers it asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stoker.router.request import Features, Request, read_features


def features(path: bytes, **body: Any) -> Features:
    return read_features(Request(b"POST", path, [], json.dumps({"model": "m", **body}).encode()))


@pytest.mark.parametrize(
    ("body", "answers"),
    [
        ({"prompt": "a"}, 1),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"]}, 2),
        ({"prompt": ["a", "b", "c"], "n": 2}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": []}, 1),
        ({"prompt": ["[", '"]']}, 2),
    ],
)
def test_a_list_of_prompts_asks_for_an_answer_to_each(body: dict[str, Any], answers: int) -> None:
    found = features(b"/v1/completions", **body, max_tokens=10)
    assert found.answers == answers
    assert found.estimated_tokens == found.prompt_tokens + 10 * answers


def test_a_list_of_conversations_does_and_one_of_messages_does_not() -> None:
    chat = [{"role": "user", "content": "hi"}]
    assert features(b"/v1/chat/completions", messages=chat * 3).answers == 1
    assert features(b"/v1/chat/completions/batch", messages=[chat] * 3).answers == 3
