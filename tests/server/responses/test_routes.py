"""Responses, as openai-python sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseOutputText, ResponseStreamEvent
from pydantic import BaseModel

from stoker.server.config import ServerConfig
from tests.server.conftest import RunningServer
from tests.server.doubles import CHATML, letter_model

Start = Callable[..., RunningServer]
PATH = "/v1/responses"
QUESTION = "What comes next?"
TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
HERMES = CHATML + "{# <tool_call> #}{{ tools }}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


def create(server: RunningServer, **fields: Any) -> Response:
    body: dict[str, Any] = {"model": "letters", "input": QUESTION, "temperature": 0} | fields
    response: Response = server.client.responses.create(**body)
    return response


def events(server: RunningServer, **fields: Any) -> list[ResponseStreamEvent]:
    body: dict[str, Any] = {"model": "letters", "input": QUESTION, "temperature": 0} | fields
    found = list(server.client.responses.create(**body, stream=True))
    assert [event.sequence_number for event in found] == list(range(len(found)))
    return found


def without_ids(response: Response) -> dict[str, Any]:
    """What must be the same in two responses to the same request."""
    fields = response.model_dump(exclude={"id", "created_at", "completed_at", "usage"})
    for item in fields["output"]:
        item.pop("id")
        item.pop("call_id", None)
    return fields


def text_part(response: Response) -> ResponseOutputText:
    """The only part of the only item."""
    (item,) = response.output
    assert item.type == "message"
    (part,) = item.content
    assert part.type == "output_text"
    return part


def last(found: list[ResponseStreamEvent]) -> Response:
    event = found[-1]
    assert event.type in ("response.completed", "response.incomplete", "response.failed")
    return event.response


def test_a_streamed_response_is_the_whole_one_in_pieces(server: RunningServer) -> None:
    whole = create(server)
    found = events(server)
    assert whole.status == "completed"
    assert whole.completed_at is not None
    assert whole.output_text
    assert without_ids(last(found)) == without_ids(whole)
    deltas = [event for event in found if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == whole.output_text
    kinds = [event.type for event in found if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert whole.usage is not None
    assert whole.usage.output_tokens == len(whole.output_text) + 1  # the end token
    assert whole.usage.total_tokens == whole.usage.input_tokens + whole.usage.output_tokens


def test_the_sdk_can_follow_the_stream(server: RunningServer) -> None:
    with server.client.responses.stream(model="letters", input=QUESTION, temperature=0) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == create(server).output_text


def test_the_answer_is_that_of_chat_completions(server: RunningServer) -> None:
    response = create(server, instructions="Be brief.")
    chat = server.client.chat.completions.create(
        model="letters",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
        ],
        temperature=0,
    )
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert chat.usage is not None
    assert response.usage.input_tokens == chat.usage.prompt_tokens


def test_input_as_text_and_as_items_is_the_same(server: RunningServer) -> None:
    answers = [
        create(server, input=given).output_text
        for given in (
            QUESTION,
            [{"role": "user", "content": QUESTION}],
            [{"type": "message", "role": "user", "content": QUESTION}],
            [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        )
    ]
    assert answers == [answers[0]] * 4


def test_an_answer_that_is_cut_off_is_incomplete(server: RunningServer) -> None:
    response = create(server, max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.completed_at is None
    assert response.output[0].status == "incomplete"  # type: ignore[union-attr]
    found = events(server, max_output_tokens=3)
    assert found[-1].type == "response.incomplete"
    assert without_ids(last(found)) == without_ids(response)


def test_settings_are_told_back(server: RunningServer) -> None:
    response = create(
        server,
        top_p=0.5,
        metadata={"a": "b"},
        instructions="Be brief.",
        max_output_tokens=5,
        parallel_tool_calls=False,
        reasoning={"effort": "low"},
    )
    assert (response.temperature, response.top_p) == (0, 0.5)
    assert response.metadata == {"a": "b"}
    assert response.instructions == "Be brief."
    assert response.max_output_tokens == 5
    assert response.parallel_tool_calls is False
    assert response.reasoning is not None
    assert response.reasoning.effort == "low"
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "text"


def test_a_response_follows_another(server: RunningServer) -> None:
    first = create(server, instructions="Be brief.")
    second = create(server, input="And then?", previous_response_id=first.id)
    by_hand = create(
        server,
        input=[
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And then?"},
        ],
    )
    assert second.previous_response_id == first.id
    assert second.output_text == by_hand.output_text, "instructions are not carried over"
    third = create(server, input="And now?", previous_response_id=second.id)
    assert third.usage is not None
    assert second.usage is not None
    assert third.usage.input_tokens > second.usage.input_tokens + second.usage.output_tokens
    assert third.usage.input_tokens_details.cached_tokens >= 16


def test_a_streamed_response_can_be_followed_as_soon_as_it_ends(server: RunningServer) -> None:
    response = last(events(server))
    followed = create(server, input="And then?", previous_response_id=response.id)
    assert followed.status == "completed"


def test_stored_responses_can_be_fetched_and_deleted(server: RunningServer) -> None:
    client = server.client
    response = create(server)
    assert client.responses.retrieve(response.id) == response
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(response.id)
    assert caught.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_a_response_that_is_not_stored_is_gone(server: RunningServer) -> None:
    response = create(server, store=False)
    assert json.loads(response.model_dump_json())["store"] is False
    with pytest.raises(openai.NotFoundError):
        server.client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError) as caught:
        create(server, previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_input_items_are_those_of_the_whole_conversation(server: RunningServer) -> None:
    first = create(server)
    second = create(server, input="And then?", previous_response_id=first.id)
    items = server.client.responses.input_items
    found = list(items.list(second.id, order="asc", limit=2))
    texts = [item.to_dict()["content"][0]["text"] for item in found]  # type: ignore[index]
    assert texts == [QUESTION, first.output_text, "And then?"]
    assert [item.id for item in items.list(second.id)] == [item.id for item in found][::-1]
    page = items.list(second.id, order="asc", limit=2)
    assert (page.has_more, page.last_id) == (True, found[1].id)  # type: ignore[attr-defined]
    rest = items.list(second.id, order="asc", after=page.data[-1].id or "")
    assert [item.id for item in rest.data] == [found[2].id]


def test_logprobs_come_when_they_are_included(server: RunningServer) -> None:
    wanted: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    response = create(server, max_output_tokens=4, **wanted)
    part = text_part(response)
    assert part.logprobs is not None
    assert [entry.token for entry in part.logprobs] == list(part.text)
    assert [len(entry.top_logprobs) for entry in part.logprobs] == [2] * 4
    streamed = [
        entry.token
        for event in events(server, max_output_tokens=4, **wanted)
        if event.type == "response.output_text.delta"
        for entry in event.logprobs
    ]
    assert streamed == list(part.text)
    assert text_part(create(server)).logprobs == []


def test_calls_are_items_and_their_results_come_back(start: Start) -> None:
    server = start(partial(letter_model, template=HERMES, answer="Wait. " + CALL))
    response = create(server, tools=[TOOL])
    message, call = response.output
    assert message.type == "message"
    assert response.output_text == "Wait."
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    assert response.status == "completed"
    found = events(server, tools=[TOOL])
    assert without_ids(last(found)) == without_ids(response)
    assert [event.type for event in found if "arguments" in event.type][-1] == (
        "response.function_call_arguments.done"
    )
    pieces = [e.delta for e in found if e.type == "response.function_call_arguments.delta"]
    assert "".join(pieces) == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 C"}
    followed = create(server, tools=[TOOL], input=[result], previous_response_id=response.id)
    assert followed.status == "completed"
    kinds = [item.type for item in server.client.responses.input_items.list(followed.id)]
    assert kinds == ["function_call_output", "function_call", "message", "message"]


def test_a_named_tool_must_be_called(start: Start) -> None:
    server = start(partial(letter_model, template=HERMES))
    response = create(
        server,
        tools=[TOOL],
        tool_choice={"type": "function", "name": "get_weather"},
        temperature=1,
        extra_body={"seed": 3},
    )
    (call,) = response.output
    assert call.type == "function_call"
    assert list(json.loads(call.arguments)) == ["city"]


def test_reasoning_is_an_item_of_its_own(start: Start) -> None:
    template = CHATML + "{# </think> #}"
    server = start(
        partial(letter_model, template=template, answer="<think>\nHm.\n</think>\n\nYes.")
    )
    response = create(server)
    reasoning, message = response.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert [part.text for part in reasoning.content] == ["Hm."]
    assert message.type == "message"
    assert response.output_text == "Yes."
    found = events(server)
    assert without_ids(last(found)) == without_ids(response)
    assert "".join(e.delta for e in found if e.type == "response.reasoning_text.delta") == "Hm."


def test_the_sdk_parses_a_form(start: Start) -> None:
    class Place(BaseModel):
        city: str

    server = start(partial(letter_model, answer='{"city": "Oslo"}'))
    parsed = server.client.responses.parse(model="letters", input=QUESTION, text_format=Place)
    assert parsed.output_parsed == Place(city="Oslo")
    assert parsed.text is not None
    assert parsed.text.format is not None
    assert parsed.text.format.type == "json_schema"


def test_a_background_response_is_made_without_a_listener(server: RunningServer) -> None:
    begun = create(server, background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    responses = server.client.responses
    server.wait_until(lambda: responses.retrieve(begun.id).status == "completed")
    assert responses.retrieve(begun.id).output_text == create(server).output_text
    assert responses.cancel(begun.id).status == "completed", "it had ended"
    assert server.state.active == 0


def test_a_background_response_can_be_listened_to_again(start: Start) -> None:
    gate = threading.Event()
    server = start(partial(letter_model, gate=gate))
    responses = server.client.responses
    stream = responses.create(
        model="letters", input=QUESTION, temperature=0, background=True, stream=True
    )
    first = next(iter(stream))
    assert first.type == "response.created"
    stream.close()
    gate.set()
    again = list(responses.retrieve(first.response.id, stream=True, starting_after=1))
    assert [event.sequence_number for event in again] == list(range(2, len(again) + 2))
    assert again[-1].type == "response.completed"
    assert again[-1].response.output_text == create(server).output_text
    with pytest.raises(openai.BadRequestError):
        responses.retrieve(create(server).id, stream=True)


def test_a_background_response_can_be_cancelled(start: Start) -> None:
    server = start(partial(letter_model, delay=0.01))
    responses = server.client.responses
    stream = responses.create(
        model="letters",
        input=QUESTION,
        background=True,
        stream=True,
        max_output_tokens=900,
        extra_body={"ignore_eos": True},
    )
    seen: list[str] = []
    response_id = ""
    for event in stream:
        seen.append(event.type)
        if event.type == "response.created":
            response_id = event.response.id
        elif seen.count(event.type) == 1 and event.type == "response.output_text.delta":
            assert responses.retrieve(response_id).status == "in_progress"
            with pytest.raises(openai.BadRequestError):
                create(server, previous_response_id=response_id)
            cancelled = responses.cancel(response_id)
            assert cancelled.status == "cancelled"
            assert cancelled.output_text
    assert seen[-1] == "response.incomplete"
    server.wait_until(lambda: server.blocks_in_use() == 0)
    assert server.state.active == 0
    with pytest.raises(openai.BadRequestError):
        responses.cancel(create(server, max_output_tokens=1).id)


def test_deleting_a_background_response_ends_it(start: Start) -> None:
    server = start(partial(letter_model, delay=0.01))
    begun = create(server, background=True, max_output_tokens=900, extra_body={"ignore_eos": True})
    server.client.responses.delete(begun.id)
    server.wait_until(lambda: server.blocks_in_use() == 0)
    assert server.state.active == 0
    assert len(server.state.responses) == 0


def test_a_time_limit_fails_a_background_response(start: Start) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), request_timeout=0.05)
    server = start(partial(letter_model, gate=gate), config)
    begun = create(server, background=True)
    responses = server.client.responses
    server.wait_until(lambda: responses.retrieve(begun.id).status == "failed")
    gate.set()
    error = responses.retrieve(begun.id).error
    assert error is not None
    assert error.code == "server_error"
    assert "0.05 s" in error.message
    server.wait_until(lambda: server.blocks_in_use() == 0)


def test_a_failure_in_a_stream_is_an_error_event_and_a_failed_response(start: Start) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), request_timeout=0.05)
    server = start(partial(letter_model, gate=gate), config)
    body = {"model": "letters", "input": QUESTION, "stream": True}
    text = server.post(PATH, json=body).text
    *_, error, failed, done = [
        line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")
    ]
    assert done == "[DONE]"
    found = json.loads(error)
    assert (found["type"], found["code"]) == ("error", "request_timeout")
    assert found["error"]["code"] == "request_timeout"
    assert json.loads(failed)["type"] == "response.failed"
    assert json.loads(failed)["response"]["status"] == "failed"
    gate.clear()
    stream = server.client.responses.create(model="letters", input=QUESTION, stream=True)
    with pytest.raises(openai.APIError, match=r"0\.05 s"):
        list(stream)
    gate.set()


def test_a_client_that_leaves_its_stream_frees_its_blocks(start: Start) -> None:
    server = start(partial(letter_model, delay=0.01))
    body = {"model": "letters", "input": QUESTION, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", server.url + PATH, json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            if "output_text.delta" in line:
                break
        assert server.blocks_in_use() > 0
    server.wait_until(lambda: server.blocks_in_use() == 0)
    assert len(server.state.responses) == 0, "what nobody read is not kept"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", None),
        ({"input": []}, "input", None),
        ({"input": 5}, "input", None),
        ({"input": [{"role": "wizard", "content": "x"}]}, "input[0].role", None),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]", None),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0]",
            None,
        ),
        ({"input": "refuse"}, "input", None),
        ({"input": "x" * 2000}, "input", "context_length_exceeded"),
        ({"max_output_tokens": 5000}, "max_output_tokens", "context_length_exceeded"),
        ({"max_output_tokens": 0}, "max_output_tokens", None),
        ({"temperature": 3}, "temperature", None),
        ({"top_logprobs": 21}, "top_logprobs", None),
        ({"n": 2}, "n", None),
        ({"truncation": "auto"}, "truncation", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"background": True, "store": False}, "background", None),
        ({"previous_response_id": "x"}, "previous_response_id", "previous_response_not_found"),
        ({"metadata": {"a": 1}}, "metadata.a", None),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", None),
        ({"tool_choice": "required"}, "tool_choice", None),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "x"}}}},
            "text.format",
            None,
        ),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format", None),
    ],
)
def test_wrong_requests_get_a_400_that_names_the_field(
    server: RunningServer, fields: dict[str, Any], param: str, code: str | None
) -> None:
    body = {"model": "letters", "input": "hi"} | fields
    answer = server.post(PATH, json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_what_is_counted_is_what_is_used(server: RunningServer) -> None:
    counted = server.client.responses.input_tokens.count(model="letters", input=QUESTION)
    usage = create(server).usage
    assert usage is not None
    assert counted.input_tokens == usage.input_tokens
