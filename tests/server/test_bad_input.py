"""Every way a request can be wrong: an OpenAI-shaped error that names the field, never a 5xx."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.server.conftest import RunningServer

USER = {"role": "user", "content": "hi"}
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def raw(body: dict[str, Any]) -> bytes:
    return json.dumps({"model": "letters", **body}).encode()


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        (CHAT, b"{", None, None),
        (CHAT, b"", None, None),
        (CHAT, b"[]", None, None),
        (CHAT, b'{"messages": [{"role": "user", "content": "\xff"}]}', None, None),
        (CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', None, None),
        (CHAT, b"[" * 100_000, None, None),
        (CHAT, b'{"messages": 1' + b"0" * 10_000 + b"}", None, None),
        (CHAT, raw({"messages": []}), "messages", None),
        (CHAT, raw({"messages": [{"role": "wizard", "content": "x"}]}), "messages[0].role", None),
        (CHAT, raw({"messages": [{"role": "user"}]}), "messages[0].content", None),
        (
            CHAT,
            raw({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
            None,
        ),
        (CHAT, raw({"messages": [{"role": "user", "content": "refuse"}]}), "messages", None),
        (CHAT, raw({"messages": [USER], "temperature": float("nan")}), "temperature", None),
        (CHAT, raw({"messages": [USER]})[:-1] + b', "top_p": 1e999}', "top_p", None),
        (CHAT, b'{"messages": [{"role": "user", "content": "x"}]}', "model", None),
        (CHAT, raw({"messages": [USER], "frequency_penalty": 3}), "frequency_penalty", None),
        (CHAT, raw({"messages": [USER], "min_tokens": 9, "max_tokens": 3}), "min_tokens", None),
        (CHAT, raw({"messages": [USER], "logit_bias": {"999999": 1}}), "logit_bias", None),
        (CHAT, raw({"messages": [USER], "stop_token_ids": [999]}), "stop_token_ids", None),
        (CHAT, raw({"messages": [USER], "tools": [{}]}), "tools[0].type", None),
        (
            CHAT,
            raw({"messages": [USER], "max_tokens": 5000}),
            "max_tokens",
            "context_length_exceeded",
        ),
        (
            CHAT,
            raw({"messages": [USER], "max_completion_tokens": 5000}),
            "max_completion_tokens",
            "context_length_exceeded",
        ),
        (
            CHAT,
            raw({"messages": [{"role": "user", "content": "x" * 2000}]}),
            "messages",
            "context_length_exceeded",
        ),
        (TEXT, raw({"prompt": "x" * 2000}), "prompt", "context_length_exceeded"),
        (TEXT, raw({"prompt": ""}), "prompt", None),
        (TEXT, raw({"prompt": [99999]}), "prompt", None),
        (TEXT, raw({"prompt": "x", "suffix": "y"}), "suffix", "unsupported_parameter"),
        (
            TEXT,
            raw({"prompt": "x", "allowed_token_ids": [97], "structured_outputs": {"regex": "b"}}),
            None,
            "structured_output_failed",
        ),
        ("/tokenize", raw({}), "prompt", None),
        ("/detokenize", raw({"tokens": ["a"]}), "tokens[0]", None),
    ],
)
def test_wrong_requests_get_a_400_that_names_the_field(
    server: RunningServer, path: str, body: bytes, param: str | None, code: str | None
) -> None:
    answer = server.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]
    assert answer.headers["x-request-id"]


def test_context_overflow_names_both_numbers(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.completions.create(model="letters", prompt="x" * 2000)
    assert caught.value.code == "context_length_exceeded"
    assert "2000" in str(caught.value)
    assert "1024" in str(caught.value)


def test_errors_in_streams_come_before_the_stream(server: RunningServer) -> None:
    with pytest.raises(openai.BadRequestError):
        server.client.completions.create(model="letters", prompt="x" * 2000, stream=True)


def test_an_unknown_model_is_a_404(server: RunningServer) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        server.client.chat.completions.create(
            model="gpt-9", messages=[{"role": "user", "content": "hi"}]
        )
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        server.client.models.retrieve("gpt-9")


def test_unknown_routes_and_methods_have_openai_bodies(server: RunningServer) -> None:
    missing = server.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "unknown_url"
    without_v1 = server.post("/chat/completions", json={})
    assert without_v1.status_code == 404
    assert "Did you mean /v1/chat/completions?" in without_v1.json()["error"]["message"]
    several = server.post("/v1/responses/resp_1")
    assert several.headers["allow"] == "DELETE, GET"
    wrong = server.get(CHAT)
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_a_body_that_is_not_declared_json_is_refused(server: RunningServer) -> None:
    answer = server.post(CHAT, content=raw({"messages": [USER]}), headers={"content-type": "x/y"})
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


def test_the_engine_goes_on_for_others(server: RunningServer) -> None:
    """Bad requests among good ones: the good answers are what they are alone."""
    want = server.client.completions.create(model="letters", prompt="Once", temperature=0)
    stream = server.client.completions.create(
        model="letters", prompt="Once", temperature=0, stream=True
    )
    for body in (b"{", raw({"prompt": "x" * 2000}), raw({"prompt": [99999]})):
        server.post(TEXT, content=body, headers={"content-type": "application/json"})
    assert "".join(chunk.choices[0].text for chunk in stream) == want.choices[0].text


def test_messages_without_content_are_refused(server: RunningServer) -> None:
    body = {"model": "letters", "messages": [{"role": "user", "content": []}]}
    answer = server.post("/v1/messages/count_tokens", json=body)
    assert answer.status_code == 400
    assert "messages" in answer.json()["error"]["message"]
