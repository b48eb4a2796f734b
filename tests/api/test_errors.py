"""Errors as clients read them: status, type, code, the field's place, and when to retry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from stoker.api.errors import ApiError, from_exception, from_validation, internal_error
from stoker.api.openai import ChatCompletionRequest, CompletionRequest
from stoker.errors import (
    ContextOverflow,
    EngineOverloaded,
    EngineStopped,
    InvalidRequest,
    ModelCorrupt,
    ModelNotFound,
    StokerError,
    TemplateError,
)


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (InvalidRequest("no", param="n"), 400, "invalid_request_error", "n", None),
        (
            ContextOverflow("9 > 8", param="prompt"),
            400,
            "invalid_request_error",
            "prompt",
            "context_length_exceeded",
        ),
        (
            TemplateError("bad", param="messages"),
            400,
            "invalid_request_error",
            "messages",
            None,
        ),
        (
            ModelNotFound("none"),
            404,
            "invalid_request_error",
            "model",
            "model_not_found",
        ),
        (
            EngineOverloaded("full", retry_after=2.5),
            429,
            "rate_limit_error",
            None,
            "engine_overloaded",
        ),
        (EngineStopped("gone"), 503, "service_unavailable", None, "engine_stopped"),
        (ModelCorrupt("torn"), 500, "server_error", None, None),
    ],
)
def test_every_error_of_the_tree_has_its_status(
    error: StokerError, status: int, kind: str, param: str | None, code: str | None
) -> None:
    found = from_exception(error)
    assert found.status == status
    assert json.loads(found.body()) == {
        "error": {"message": str(error), "type": kind, "param": param, "code": code}
    }


def test_overload_says_when_to_come_back_in_whole_seconds_and_in_milliseconds() -> None:
    headers = from_exception(EngineOverloaded("full", retry_after=2.5)).headers
    assert headers == {"retry-after": "3", "retry-after-ms": "2500"}


def test_a_fault_of_ours_is_not_retried_and_names_only_the_request() -> None:
    error = internal_error("req-7")
    assert error.headers["x-should-retry"] == "false"
    assert "req-7" in str(error)


def explain(
    kind: type[ChatCompletionRequest | CompletionRequest], body: dict[str, Any]
) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(json.dumps(body))
    return from_validation(caught.value.errors(), body)


USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [USER, {"role": "wizard", "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
            "messages[0].content[0].text",
        ),
        ({"messages": [USER], "temperature": "hot"}, "temperature"),
        ({"messages": [USER], "temperature": 2.01}, "temperature"),
        ({"messages": [USER], "temperature": float("nan")}, "temperature"),
        ({"messages": [USER], "top_p": 0}, "top_p"),
        ({"messages": [USER], "top_p": float("inf")}, "top_p"),
        ({"messages": [USER], "n": 0}, "n"),
        ({"messages": [USER], "n": True}, "n"),
        ({"messages": [USER], "max_tokens": 0}, "max_tokens"),
        ({"messages": [USER], "stop": ["a", ""]}, "stop[1]"),
        ({"messages": [USER], "logit_bias": {"50": 101}}, "logit_bias.50"),
        ({"messages": [USER], "seed": 2**64}, "seed"),
        ({"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        ({"messages": [USER], "stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, "tools[0].function"),
        ({"messages": [USER], "response_format": {"type": "xml"}}, "response_format.type"),
        ({"messages": [USER], "continue_final_message": True}, "continue_final_message"),
    ],
)
def test_a_wrong_chat_field_is_named_as_the_caller_wrote_it(
    body: dict[str, Any], param: str
) -> None:
    error = explain(ChatCompletionRequest, {"model": "m", **body})
    assert error.status == 400
    assert error.info.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [1, "two"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "best_of": 3}, "best_of"),
        ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ],
)
def test_a_wrong_completion_field_is_named(body: dict[str, Any], param: str) -> None:
    assert explain(CompletionRequest, body).info.param == param


def test_fields_that_change_nothing_are_accepted_and_so_is_null() -> None:
    request = ChatCompletionRequest.model_validate_json(
        json.dumps(
            {
                "model": "m",
                "messages": [USER],
                "user": "u",
                "store": False,
                "metadata": {"a": "b"},
                "tools": None,
                "tool_choice": "auto",
                "response_format": {"type": "text"},
                "temperature": None,
                "stop": "end",
            }
        )
    )
    assert request.temperature is None
    assert request.stop == ["end"]
