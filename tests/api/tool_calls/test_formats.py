"""Every form of tool calls: exact results, and the same ones however the text is cut."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.api.tool_calls import FORMATS, Content, Delta, ToolCall, format_of_template

NAMES = ("f", "get_weather")


@dataclass
class Parsed:
    """What a client puts together from the deltas of an answer."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        match delta:
            case Content(text):
                assert text
                self.content += text
            case ToolCall(index, arguments, None, None):
                assert arguments
                assert index == len(self.calls) - 1
                self.calls[index] = (self.calls[index][0], self.calls[index][1] + arguments)
            case ToolCall(index, arguments, name, identifier):
                assert name is not None
                assert identifier is not None
                assert index == len(self.calls)
                self.calls.append((name, arguments))
                self.ids.append(identifier)
            case _:
                raise AssertionError(delta)


def parse(form: str, pieces: list[str]) -> Parsed:
    parser = FORMATS[form].parser(NAMES)
    parsed = Parsed()
    for piece in pieces:
        for delta in parser.feed(piece):
            parsed.add(delta)
    for delta in parser.finish():
        parsed.add(delta)
    assert parser.num_calls == len(parsed.calls)
    return parsed


def cut(text: str, where: set[int]) -> list[str]:
    ends = [0, *sorted(place for place in where if place < len(text)), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends)]


F1 = '{"name": "f", "arguments": {"a": [1, {"b": "}"}], "c": "\\"é\\n"}}'
A1 = '{"a": [1, {"b": "}"}], "c": "\\"é\\n"}'
F2 = '{"name": "get_weather", "arguments": {}}'
TAG, END = "<tool_call>", "</tool_call>"

CASES: list[tuple[str, str, str, list[tuple[str, str]]]] = [
    ("hermes", "", "", []),
    ("hermes", " plain\ntext \n", " plain\ntext \n", []),
    ("hermes", f"{TAG}\n{F1}\n{END}", "", [("f", A1)]),
    ("hermes", f"{TAG}{F1}{END}", "", [("f", A1)]),
    ("hermes", f"{TAG}\n{F1}\n{END}\n{TAG}\n{F2}\n{END}\n", "", [("f", A1), ("get_weather", "{}")]),
    ("hermes", f"Let me see.\n\n{TAG}\n{F2}\n{END}", "Let me see.", [("get_weather", "{}")]),
    ("hermes", f"One.\n{TAG}{F2}{END}\n Two.", "One.\nTwo.", [("get_weather", "{}")]),
    ("hermes", f"\n{TAG}{F2}{END} Two. ", "Two. ", [("get_weather", "{}")]),
    ("hermes", f"{TAG}{F1}{F2}{END}", "", [("f", A1), ("get_weather", "{}")]),
    ("hermes", f'{TAG}{{"arguments": {{"x": 1}}, "name": "f"}}{END}', "", [("f", '{"x": 1}')]),
    ("hermes", f'{TAG}{{"name": "f"}}{END}', "", [("f", "{}")]),
    ("hermes", f'{TAG}{{"name": "f", "arguments": null}}{END}', "", [("f", "{}")]),
    (
        "hermes",
        f'{TAG}{{"name": "f", "arguments": "{{\\"a\\": 1}}"}}{END}',
        "",
        [("f", '{"a": 1}')],
    ),
    ("hermes", f'{TAG}{{"id": 7, "type": "function", "name": "f"}}{END}', "", [("f", "{}")]),
    # Cut off: what was announced stays a call, what was not is content.
    ("hermes", f'{TAG}{{"name": "f", "arguments": {{"a": 1', "", [("f", '{"a": 1')]),
    ("hermes", f'{TAG}{{"name": "f", "argum', f'{TAG}{{"name": "f", "argum', []),
    ("hermes", "text <tool_ca", "text <tool_ca", []),
    ("hermes", f"{TAG}\n{F1}", "", [("f", A1)]),
    ("hermes", f"{TAG}\n{F1}\n</tool", "</tool", [("f", A1)]),
    # No calls: content, to the last character.
    ("hermes", f"{TAG}{{oops}}{END} x", f"{TAG}{{oops}}{END} x", []),
    ("hermes", f'{TAG}{{"name": "g"}}{END}', f'{TAG}{{"name": "g"}}{END}', []),
    ("hermes", f'{TAG}{{"name": 5}}{END}', f'{TAG}{{"name": 5}}{END}', []),
    ("hermes", f'{TAG}{{"other": "f"}}{END}', f'{TAG}{{"other": "f"}}{END}', []),
    (
        "hermes",
        f'{TAG}{{"name": "f", "arguments": [1]}}',
        f'{TAG}{{"name": "f", "arguments": [1]}}',
        [],
    ),
    ("hermes", f"{TAG} {END}", f"{TAG} {END}", []),
    ("hermes", f"a {TAG}x{TAG}{F2}{END}", f"a {TAG}x", [("get_weather", "{}")]),
    # Announced, then no JSON any more: the rest is content.
    ("hermes", f'{TAG}{{"name": "f", "arguments": {{"a": oops}}}}', "oops}}", [("f", '{"a": ')]),
    ("mistral", f"[TOOL_CALLS][{F1}, {F2}]", "", [("f", A1), ("get_weather", "{}")]),
    ("mistral", f"[TOOL_CALLS] [ {F1} ,{F2} ]", "", [("f", A1), ("get_weather", "{}")]),
    ("mistral", f"Sure.[TOOL_CALLS]{F1}", "Sure.", [("f", A1)]),
    ("mistral", '[TOOL_CALLS][{"name": "g"}]', '[TOOL_CALLS][{"name": "g"}]', []),
    ("mistral", "[TOOL_CALLS][]", "[TOOL_CALLS][]", []),
    ("mistral_args", f"[TOOL_CALLS]f[ARGS]{A1}", "", [("f", A1)]),
    (
        "mistral_args",
        f"[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS]{A1}[TOOL_CALLS]get_weather[ARGS]{{}}",
        "",
        [("f", A1), ("get_weather", "{}")],
    ),
    ("mistral_args", "[TOOL_CALLS]get_weat", "[TOOL_CALLS]get_weat", []),
    ("mistral_args", "[TOOL_CALLS]g[ARGS]{}", "[TOOL_CALLS]g[ARGS]{}", []),
    ("mistral_args", "[TOOL_CALLS]f[ARGS]x", "[TOOL_CALLS]f[ARGS]x", []),
    ("llama3_json", F1.replace("arguments", "parameters"), "", [("f", A1)]),
    ("llama3_json", f"<|python_tag|>{F1}; {F2}", "", [("f", A1), ("get_weather", "{}")]),
    ("llama3_json", '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    ("llama3_json", f"Then {F1}", f"Then {F1}", []),
    ("llama3_json", "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    ("llama3_json", f"{F2} ok", "ok", [("get_weather", "{}")]),
    ("json", F1, "", [("f", A1)]),
    ("json", f" [{F1},\n{F2}]\n", "", [("f", A1), ("get_weather", "{}")]),
    ("json", f"```json\n[{F2}]\n```", "", [("get_weather", "{}")]),
    ("json", f"{F1}\n{F2}", "", [("f", A1), ("get_weather", "{}")]),
    ("json", '```json\n{"x": 1}\n```', '```json\n{"x": 1}\n```', []),
    ("json", "[1, 2]", "[1, 2]", []),
    ("json", "words", "words", []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), CASES)
def test_parses(form: str, text: str, content: str, calls: list[tuple[str, str]]) -> None:
    whole = parse(form, [text])
    assert (whole.content, whole.calls) == (content, calls)
    by_character = parse(form, list(text))
    assert (by_character.content, by_character.calls) == (content, calls)


@given(st.sampled_from(CASES), st.sets(st.integers(1, 150)))
def test_cuts_make_no_difference(case: tuple[str, str, str, Any], where: set[int]) -> None:
    form, text, content, calls = case
    parsed = parse(form, cut(text, where))
    assert (parsed.content, parsed.calls) == (content, calls)


PARTS = [
    *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "```json"),
    *("```", '{"name": "f", "arguments": ', '{"a": 1', '"name"', '"f"', "f", '"arguments"'),
    *(F1, F2, A1, "{", "}", "[", "]", ",", ":", ";", " ", "\n", "word", '"', "1", "null"),
]


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.sampled_from(PARTS), max_size=9).map("".join),
    st.sets(st.integers(1, 200)),
)
def test_any_text_is_parsed_alike_and_nothing_is_lost(
    form: str, text: str, where: set[int]
) -> None:
    whole = parse(form, [text])
    pieces = parse(form, cut(text, where))
    assert (pieces.content, pieces.calls) == (whole.content, whole.calls)
    if not whole.calls:
        assert whole.content == text
    for name, arguments in whole.calls:
        assert name in NAMES
        assert arguments.startswith("{")


ARGUMENTS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=4,
)


@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.tuples(st.sampled_from(NAMES), ARGUMENTS), min_size=1, max_size=3),
    st.booleans(),
    st.sets(st.integers(1, 300)),
)
def test_reads_what_the_form_says_is_written(
    form: str, calls: list[tuple[str, dict[str, Any]]], ascii_only: bool, where: set[int]
) -> None:
    tool_format = FORMATS[form]
    written = []
    for name, arguments in calls:
        before, after = tool_format.call_pieces(name)
        value = json.dumps(arguments, ensure_ascii=ascii_only)
        written.append("".join(before) + value + "".join(after))
    text = "".join(tool_format.opening) + "".join(tool_format.between).join(written)
    parsed = parse(form, cut(text + "".join(tool_format.closing), where))
    assert parsed.content == ""
    assert [(name, json.loads(arguments)) for name, arguments in parsed.calls] == calls


def test_arguments_are_passed_on_as_they_come() -> None:
    parser = FORMATS["hermes"].parser(NAMES)
    assert parser.feed('Well. <tool_call>\n{"name": "f", "argu') == [Content("Well.")]
    (start,) = parser.feed('ments": {"ci')
    assert isinstance(start, ToolCall)
    assert (start.index, start.name, start.arguments) == (0, "f", '{"ci')
    assert start.id is not None
    assert parser.feed('ty": "Par') == [ToolCall(0, 'ty": "Par')]
    assert parser.feed('is"}}\n</to') == [ToolCall(0, 'is"}')]
    assert parser.feed("ol_call>") == []
    assert parser.finish() == []


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_ids_are_unique_and_as_long_as_templates_want(form: str) -> None:
    text = f"[TOOL_CALLS][{F1}, {F2}]" if form.startswith("mistral") else f"[{F1}, {F2}]"
    if form == "hermes":
        text = f"{TAG}{F1}{F2}{END}"
    if form == "llama3_json":
        text = f"{F1};{F2}"
    first, second = parse(form, [text]).ids
    assert first != second
    if form.startswith("mistral"):
        assert len(first) == 9
        assert first.isalnum()
    else:
        assert first.startswith("call_")


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% for tool in tools %}<tool_call>", "hermes"),
        ("[AVAILABLE_TOOLS] [TOOL_CALLS] [", "mistral"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral_args"),
        ("<|python_tag|>{{ x }}", "llama3_json"),
        ('Environment: ipython {"name": name, "parameters": {}}', "llama3_json"),
        ("{{ messages[0].content }}", "json"),
        (None, "json"),
    ],
)
def test_the_template_tells_the_form(template: str | None, name: str) -> None:
    assert format_of_template(template).name == name
