"""Tool calls and reasoning, as openai-python sees them: streamed as whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from stoker.api.openai import ChatMessage, ToolCall
from stoker.server.config import ServerConfig
from stoker.server.tools import in_words
from tests.server.conftest import RunningServer
from tests.server.doubles import CHATML, letter_model

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is it like?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 10},
        "unit": {"$ref": "#/$defs/unit"},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"unit": {"enum": ["C", "F"]}},
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "Weather.", "parameters": WEATHER},
    },
    {"type": "function", "function": {"name": "get_time"}},
]
SCHEMAS = {"get_weather": WEATHER, "get_time": {"type": "object", "maxProperties": 0}}

WITH_TOOLS = "{% if tools %}Tools: {{ tools | tojson }}\n{% endif %}" + CHATML
TEMPLATES = {
    "hermes": WITH_TOOLS + "{# <tool_call> #}",
    "mistral": WITH_TOOLS + "{# [TOOL_CALLS] #}",
    "mistral_args": WITH_TOOLS + "{# [TOOL_CALLS] [ARGS] #}",
    "llama3_json": WITH_TOOLS + "{# <|python_tag|> #}",
    "json": CHATML,
}
Start = Callable[..., RunningServer]


@dataclass
class Message:
    """What a client makes of an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reason: str | None = None


def ask(server: RunningServer, **fields: Any) -> Message:
    """The message, which must be the same streamed and whole."""
    body: dict[str, Any] = {"model": "letters", "messages": MESSAGES, "tools": TOOLS, "seed": 1}
    body |= fields
    choice = server.client.chat.completions.create(**body).choices[0]
    whole = Message(
        choice.message.content or "",
        getattr(choice.message, "reasoning", ""),
        [
            (call.function.name, call.function.arguments)
            for call in choice.message.tool_calls or []
            if call.type == "function"
        ],
        choice.finish_reason,
    )
    assert getattr(choice.message, "reasoning_content", "") == whole.reasoning
    streamed = Message()
    for chunk in server.client.chat.completions.create(**body, stream=True):
        (part,) = chunk.choices
        streamed.content += part.delta.content or ""
        streamed.reasoning += getattr(part.delta, "reasoning", "")
        assert getattr(part.delta, "reasoning_content", "") == getattr(part.delta, "reasoning", "")
        for call in part.delta.tool_calls or []:
            assert call.function is not None
            if call.id is not None:
                assert call.type == "function"
                assert call.index == len(streamed.calls)
                assert call.function.name is not None
                streamed.calls.append((call.function.name, ""))
            name, arguments = streamed.calls[call.index]
            assert call.function.arguments is not None
            streamed.calls[call.index] = (name, arguments + call.function.arguments)
        assert streamed.reason is None
        streamed.reason = part.finish_reason
    assert streamed == whole
    return whole


def check_calls(message: Message) -> None:
    assert message.reason == "tool_calls"
    assert message.calls
    assert message.content == ""
    for name, arguments in message.calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("form", sorted(TEMPLATES))
def test_a_required_call_is_always_valid(start: Start, form: str) -> None:
    server = start(partial(letter_model, template=TEMPLATES[form]))
    seen: set[str] = set()
    for seed in range(6):
        message = ask(server, seed=seed, tool_choice="required", parallel_tool_calls=False)
        check_calls(message)
        assert len(message.calls) == 1
        seen |= {name for name, _ in message.calls}
    assert seen == set(SCHEMAS)


@pytest.mark.parametrize("form", sorted(TEMPLATES))
def test_a_named_call(start: Start, form: str) -> None:
    server = start(partial(letter_model, template=TEMPLATES[form]))
    named = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(3):
        message = ask(server, seed=seed, tool_choice=named)
        check_calls(message)
        assert [name for name, _ in message.calls] == ["get_weather"]


@pytest.mark.parametrize("form", sorted(TEMPLATES))
def test_parallel_calls(start: Start, form: str) -> None:
    server = start(partial(letter_model, template=TEMPLATES[form], max_position=8192))
    most = 0
    for seed in range(8):
        message = ask(server, seed=seed, tool_choice="required")
        check_calls(message)
        most = max(most, len(message.calls))
    assert 1 < most <= 16


OSLO = ("get_weather", '{"city": "Oslo", "unit": "C"}')
HERMES = (
    f'Let me see.\n<tool_call>\n{{"name": "get_weather", "arguments": {OSLO[1]}}}\n</tool_call>'
)


def test_auto_finds_calls_among_text(start: Start) -> None:
    server = start(partial(letter_model, template=TEMPLATES["hermes"], answer=HERMES))
    assert ask(server) == Message("Let me see.", "", [OSLO], "tool_calls")
    assert ask(server, tool_choice="auto", n=1).calls == [OSLO]
    cut = ask(server, max_tokens=70)
    assert cut.reason == "length"
    assert cut.calls[0][0] == "get_weather"
    assert OSLO[1].startswith(cut.calls[0][1])


def test_auto_forces_a_call_that_began_to_be_valid(start: Start) -> None:
    wrong = '<tool_call>\n{"name": "get_nothing", "arguments": {"town": 5}}'
    server = start(partial(letter_model, template=TEMPLATES["hermes"], answer=wrong))
    message = ask(server, parallel_tool_calls=False)
    assert len(message.calls) == 1
    name, arguments = message.calls[0]
    jsonschema.validate(json.loads(arguments), SCHEMAS[name])


def test_auto_leaves_plain_answers_alone(start: Start) -> None:
    answer = "It is <b>fine</b>: {1, 2}. "
    for template in TEMPLATES.values():
        server = start(partial(letter_model, template=template, answer=answer))
        assert ask(server) == Message(answer, "", [], "stop")


def test_none_means_none(start: Start) -> None:
    server = start(partial(letter_model, template=TEMPLATES["hermes"], answer=HERMES))
    assert ask(server, tool_choice="none") == Message(HERMES, "", [], "stop")
    body = {"model": "letters", "messages": MESSAGES}
    plain = server.client.chat.completions.create(**body)  # type: ignore[call-overload]
    with_none = server.client.chat.completions.create(  # type: ignore[call-overload]
        **body, tools=TOOLS, tool_choice="none"
    )
    assert with_none.usage.prompt_tokens == plain.usage.prompt_tokens


def test_a_response_format_beside_tools(start: Start) -> None:
    server = start(partial(letter_model, template=TEMPLATES["json"], answer='{"a": 5}'))
    form = {
        "type": "json_schema",
        "json_schema": {
            "name": "a",
            "schema": {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        },
    }
    message = ask(server, response_format=form)
    assert (json.loads(message.content), message.calls) == ({"a": 5}, [])
    check_calls(ask(server, response_format=form, tool_choice="required"))
    call = f'{{"name": "get_weather", "arguments": {OSLO[1]}}}'
    server = start(partial(letter_model, template=TEMPLATES["json"], answer=call))
    assert ask(server, response_format=form).calls == [OSLO]
    server = start(partial(letter_model, template=TEMPLATES["hermes"], answer='{"a": 5}'))
    assert ask(server, response_format=form).content == '{"a": 5}'


THINKING = TEMPLATES["hermes"] + "{# </think> #}"
OPEN = THINKING.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
CLOSED = OPEN.replace("<think>\n{% endif", "<think>\n\n</think>\n\n{% endif")


def test_reasoning_is_split_out(start: Start) -> None:
    server = start(
        partial(letter_model, template=THINKING, answer="<think>\nHm.\n</think>\n\nYes.")
    )
    assert ask(server, tools=openai.omit) == Message("Yes.", "Hm.", [], "stop")


def test_reasoning_that_the_prompt_began(start: Start) -> None:
    server = start(partial(letter_model, template=OPEN, answer=f"Hm.\n</think>\n\n{HERMES}"))
    assert ask(server) == Message("Let me see.", "Hm.", [OSLO], "tool_calls")
    assert ask(server, max_tokens=3) == Message("", "Hm.", [], "length")


def test_reasoning_before_a_form(start: Start) -> None:
    thought = "So: <tool_call> is a mark.</think>\n\nno form"
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    server = start(partial(letter_model, template=OPEN, answer=thought))
    message = ask(server, tools=openai.omit, response_format=form)
    assert message.reasoning == "So: <tool_call> is a mark."
    assert message.content in ("true", "false")
    required = ask(server, tool_choice="required")
    assert required.reasoning == message.reasoning
    check_calls(Message(required.content, "", required.calls, required.reason))
    server = start(partial(letter_model, template=CLOSED, answer="no thoughts"))
    message = ask(server, tools=openai.omit, response_format=form)
    assert (message.reasoning, message.content) in (("", "true"), ("", "false"))


def test_parsers_can_be_chosen(start: Start) -> None:
    config = ServerConfig(
        served_names=("letters",), tool_call_parser="hermes", reasoning_parser="think"
    )
    server = start(partial(letter_model, answer=f"<think>Hm.</think>{HERMES}"), config)
    assert ask(server) == Message("Let me see.", "Hm.", [OSLO], "tool_calls")
    config = ServerConfig(served_names=("letters",), reasoning_parser="none")
    server = start(partial(letter_model, template=THINKING, answer="<think>Hm.</think>"), config)
    assert ask(server, tools=openai.omit).content == "<think>Hm.</think>"


def test_log_probabilities_of_every_token_are_streamed(start: Start) -> None:
    server = start(partial(letter_model, template=TEMPLATES["hermes"], answer=HERMES))
    tokens = [
        entry.token
        for chunk in server.client.chat.completions.create(
            model="letters", messages=MESSAGES, tools=TOOLS, logprobs=True, stream=True
        )
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content or []
    ]
    assert "".join(tokens) == HERMES + "<|im_end|>"


def test_a_conversation_with_results_goes_on(start: Start) -> None:
    history: Any = [
        *MESSAGES,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "get_time", "arguments": "{}"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    for template in TEMPLATES.values():
        server = start(partial(letter_model, template=template, answer="Noon."))
        assert ask(server, messages=history).content == "Noon."


def test_tools_in_words() -> None:
    messages = [
        ChatMessage(role="system", content="Be brief."),
        ChatMessage(role="user", content="Time?"),
        ChatMessage(
            role="assistant",
            tool_calls=[
                ToolCall.model_validate({"id": "c", "function": {"name": "t", "arguments": "{}"}})
            ],
        ),
        ChatMessage(role="tool", tool_call_id="c", content="12:00"),
    ]
    told = in_words(messages, [{"type": "function", "function": {"name": "t"}}])
    assert [message.role for message in told] == ["system", "user", "assistant", "user"]
    assert isinstance(told[0].content, str)
    assert told[0].content.startswith("Be brief.\n\n")
    assert '{"name": "t"}' in told[0].content
    assert told[2].content == '{"name": "t", "arguments": {}}'
    assert told[3].content == "Result of t: 12:00"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any", "tools": TOOLS}, "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": TOOLS},
            "tool_choice",
        ),
        ({"tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "search"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
                ]
            },
            "tools",
        ),
        ({"tools": TOOLS, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    server: RunningServer, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.client.chat.completions.create(model="letters", messages=MESSAGES, extra_body=fields)
    assert caught.value.param == param


def test_arguments_that_nobody_described_are_not_invented(start: Start) -> None:
    described = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    answer = '{"name": "f", "arguments": {"a": true, "b": 1}}'
    server = start(partial(letter_model, answer=answer))
    for parameters, arguments in (
        (described, {"a": True}),
        ({**described, "additionalProperties": True}, {"a": True, "b": 1}),
    ):
        tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
        ((name, text),) = ask(server, tools=tools, tool_choice="auto").calls
        assert (name, json.loads(text)) == ("f", arguments)
