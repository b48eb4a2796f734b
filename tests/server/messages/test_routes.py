"""Messages, as the anthropic SDK sees them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message, MessageParam, RawMessageStreamEvent

from stoker.server.config import ServerConfig
from stoker.server.keys import KeyRing
from tests.server.conftest import RunningServer
from tests.server.doubles import CHATML, letter_model

Start = Callable[..., RunningServer]
PATH = "/v1/messages"
QUESTION: list[MessageParam] = [{"role": "user", "content": "What comes next?"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
HERMES = CHATML + "{# <tool_call> #}{{ tools }}"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


@contextmanager
def client_of(server: RunningServer, key: str = "none") -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as client:
        yield client


@pytest.fixture
def clients() -> Iterator[Callable[[RunningServer], anthropic.Anthropic]]:
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(client_of(server))


@pytest.fixture
def client(server: RunningServer) -> Iterator[anthropic.Anthropic]:
    with client_of(server) as found:
        yield found


def create(client: anthropic.Anthropic, **fields: Any) -> Message:
    body: dict[str, Any] = {
        "model": "letters",
        "max_tokens": 200,
        "messages": QUESTION,
        "extra_body": {"temperature": 0},
    }
    message: Message = client.messages.create(**(body | fields))
    return message


def stream(client: anthropic.Anthropic, **fields: Any) -> tuple[Message, list[str]]:
    """The message that the SDK puts together, and the types of its events."""
    body: dict[str, Any] = {
        "model": "letters",
        "max_tokens": 200,
        "messages": QUESTION,
        "extra_body": {"temperature": 0},
    }
    found: list[RawMessageStreamEvent] = list(
        client.messages.create(**(body | fields), stream=True)
    )
    with client.messages.stream(**(body | fields)) as events:
        events.until_done()
        return events.get_final_message(), [event.type for event in found]


def same(one: Message, other: Message) -> bool:
    """Whether two messages are the same but for their ids, and what the prefix cache spared."""

    def fields(message: Message) -> dict[str, Any]:
        found = message.model_dump(
            include={"role", "model", "stop_reason", "stop_sequence", "content"}
        )
        for block in found["content"]:
            block.pop("id", None)
            block.pop("parsed_output", None)
        return found | {"output_tokens": message.usage.output_tokens, "input": _input(message)}

    return fields(one) == fields(other)


def _input(message: Message) -> int:
    return message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_streamed_message_is_the_whole_one_in_pieces(client: anthropic.Anthropic) -> None:
    whole = create(client)
    assert (whole.role, whole.type, whole.stop_reason) == ("assistant", "message", "end_turn")
    assert whole.usage.output_tokens == len(text_of(whole)) + 1  # the end token
    streamed, kinds = stream(client)
    assert same(streamed, whole)
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}


def test_the_answer_is_that_of_chat_completions(
    client: anthropic.Anthropic, server: RunningServer
) -> None:
    message = create(client, system="Be brief.")
    chat = server.client.chat.completions.create(
        model="letters",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What comes next?"},
        ],
        temperature=0,
    )
    assert text_of(message) == chat.choices[0].message.content
    assert chat.usage is not None
    assert _input(message) == chat.usage.prompt_tokens


def test_text_and_blocks_are_the_same(client: anthropic.Anthropic) -> None:
    blocks: Any = [{"type": "text", "text": "What comes next?"}]
    plain = create(client, system="Be brief.")
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    assert same(
        create(client, messages=[{"role": "user", "content": blocks}], system=system), plain
    )


def test_a_final_assistant_message_is_continued(
    client: anthropic.Anthropic, server: RunningServer
) -> None:
    prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nabc"
    want = server.client.completions.create(
        model="letters", prompt=prompt, temperature=0, max_tokens=8
    )
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "abc"}]
    assert text_of(create(client, messages=messages, max_tokens=8)) == want.choices[0].text


def test_why_a_message_ended(client: anthropic.Anthropic) -> None:
    whole = text_of(create(client))
    cut = create(client, max_tokens=3)
    assert (cut.stop_reason, text_of(cut)) == ("max_tokens", whole[:3])
    stop = whole[3:5]
    stopped = create(client, stop_sequences=["nowhere", stop])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
    assert text_of(stopped) == whole[:3]
    assert same(stream(client, stop_sequences=["nowhere", stop])[0], stopped)


def test_an_answer_may_fill_the_context(start: Start, clients: Any) -> None:
    server = start(partial(letter_model, answer="a" * 2000))
    message = create(clients(server), max_tokens=20_000)
    assert message.stop_reason == "model_context_window_exceeded"
    assert _input(message) + message.usage.output_tokens == server.model.max_model_len


def test_the_prefix_cache_is_told_apart(start: Start, clients: Any) -> None:
    client = clients(start())
    first = create(client, system="x" * 100)
    again = create(client, system="x" * 100)
    assert first.usage.cache_read_input_tokens == 0
    assert again.usage.cache_read_input_tokens is not None
    assert again.usage.cache_read_input_tokens >= 100
    assert same(first, again)


def test_calls_are_blocks_and_their_results_come_back(start: Start, clients: Any) -> None:
    client = clients(start(partial(letter_model, template=HERMES, answer="Wait. " + CALL)))
    message = create(client, tools=[TOOL])
    text, call = message.content
    assert text.type == "text"
    assert text.text == "Wait."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", {"city": "Oslo"})
    assert message.stop_reason == "tool_use"
    streamed, kinds = stream(client, tools=[TOOL])
    assert same(streamed, message)
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 C"}
    messages = [
        *QUESTION,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    followed = create(client, tools=[TOOL], messages=messages)
    assert _input(followed) > _input(message) + len("12 C")


@pytest.mark.parametrize(
    "choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "auto"}]
)
def test_tool_choice(start: Start, clients: Any, choice: dict[str, Any]) -> None:
    client = clients(start(partial(letter_model, template=HERMES)))
    message = create(client, tools=[TOOL], tool_choice=choice, max_tokens=900)
    calls = [block for block in message.content if block.type == "tool_use"]
    assert bool(calls) == (choice["type"] != "auto")
    for call in calls:
        assert list(call.input) == ["city"]
    assert message.stop_reason == ("tool_use" if calls else "end_turn")


def test_arguments_that_are_cut_off_are_an_empty_object(start: Start, clients: Any) -> None:
    client = clients(start(partial(letter_model, template=HERMES, answer=CALL)))
    message = create(client, tools=[TOOL], max_tokens=60)
    (call,) = message.content
    assert call.type == "tool_use"
    assert (call.input, message.stop_reason) == ({}, "max_tokens")


def test_reasoning_is_a_block_of_its_own(start: Start, clients: Any) -> None:
    template = CHATML + "{# </think> #}"
    answer = "<think>\nHm.\n</think>\n\nYes."
    client = clients(start(partial(letter_model, template=template, answer=answer)))
    message = create(client)
    thinking, text = message.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm."
    assert text.type == "text"
    assert text.text == "Yes."
    assert same(stream(client)[0], message)
    messages = [*QUESTION, {"role": "assistant", "content": message.content}, *QUESTION]
    assert create(client, messages=messages).stop_reason == "end_turn"


def test_a_form_for_the_answer(start: Start, clients: Any) -> None:
    client = clients(start())
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "schema": schema}}
    message = create(client, output_config=form)
    assert isinstance(json.loads(text_of(message))["ok"], bool)


def test_counting_tokens(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(
        model="letters", messages=QUESTION, system="Be brief.", tools=[TOOL]
    )
    used = create(client, system="Be brief.", tools=[TOOL])
    assert counted.input_tokens == _input(used)


def test_a_silent_stream_is_pinged(start: Start) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), keep_alive_interval=0.02)
    server = start(partial(letter_model, gate=gate), config)
    body = {"model": "letters", "max_tokens": 5, "messages": QUESTION, "stream": True}
    with httpx.stream("POST", server.url + PATH, json=body, timeout=30) as answer:
        lines = answer.iter_lines()
        assert [next(lines), next(lines)] == ["event: ping", 'data: {"type":"ping"}']
        gate.set()
        rest = list(lines)
    assert rest[-3:] == ["event: message_stop", 'data: {"type":"message_stop"}', ""]


# ── errors ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 2000}]}, "2019 tokens"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "reads text only"),
        ({"messages": [{"role": "user", "content": "refuse"}]}, "I will not."),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"top_k": -1}, "top_k"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"mcp_servers": [{}]}, "mcp_servers"),
    ],
)
def test_wrong_requests_are_invalid_request_errors(
    server: RunningServer, fields: dict[str, Any], named: str
) -> None:
    body = {"model": "letters", "max_tokens": 5, "messages": QUESTION} | fields
    body = {name: value for name, value in body.items() if value is not None}
    answer = server.post(PATH, json=body)
    assert answer.status_code == 400
    found = answer.json()
    assert (found["type"], found["error"]["type"]) == ("error", "invalid_request_error")
    assert named in found["error"]["message"]
    assert found["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]


def test_errors_are_of_the_sdk_s_classes(
    client: anthropic.Anthropic, server: RunningServer
) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(client, model="claude")
    assert missing.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "message": "The model 'claude' is not served here. Served: letters.",
        },
        "request_id": missing.value.request_id,
    }
    for answer, kind in (
        (server.get(PATH), "invalid_request_error"),
        (server.get(f"{PATH}/nothing"), "not_found_error"),
        (server.post(PATH, content=b"{"), "invalid_request_error"),
    ):
        assert answer.json()["error"]["type"] == kind


def test_keys_are_taken_as_the_sdk_sends_them(start: Start) -> None:
    server = start(keys=KeyRing(("secret",)))
    with client_of(server, "secret") as client:
        assert create(client).stop_reason == "end_turn"
    with client_of(server, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as no:
        create(client)
    assert isinstance(no.value.body, dict)
    assert no.value.body["error"]["type"] == "authentication_error"


def test_a_body_that_is_too_large(start: Start, clients: Any) -> None:
    server = start(config=ServerConfig(served_names=("letters",), max_body_bytes=1000))
    with pytest.raises(anthropic.RequestTooLargeError) as caught:
        create(clients(server), system="x" * 1000)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "request_too_large"


def test_a_failure_in_a_stream_is_an_error_event(start: Start, clients: Any) -> None:
    gate = threading.Event()
    config = ServerConfig(served_names=("letters",), request_timeout=0.05)
    server = start(partial(letter_model, gate=gate), config)
    events = clients(server).messages.create(
        model="letters", max_tokens=5, messages=QUESTION, stream=True
    )
    with pytest.raises(anthropic.APIStatusError) as caught:
        list(events)
    gate.set()
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "timeout_error"
    server.wait_until(lambda: server.blocks_in_use() == 0)
