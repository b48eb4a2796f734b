"""Chat templates against Transformers, and what they are protected from."""

from typing import Any

import pytest

from stoker.errors import InvalidRequest, TemplateError
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from tests.model.text_data import GOLDEN, bytelevel, default_model, golden

DATA = golden("templates.json")
HELLO = [{"role": "user", "content": "Hello"}]
CONTENTS = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def case_name(case: dict[str, Any]) -> str:
    flags = ("tools" if case["tools"] else "", "prompt" if case["add_generation_prompt"] else "")
    return " ".join([case["template"], case["conversation"], *filter(None, flags)])


def check_case(case: dict[str, Any], source: str) -> None:
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    messages = DATA["conversations"][case["conversation"]]
    tools = DATA["tools"] if case["tools"] else None
    prompt = case["add_generation_prompt"]
    if isinstance(case["text"], str):
        text = template.render(messages, tools, add_generation_prompt=prompt)
        assert text == case["text"]
    else:
        with pytest.raises(TemplateError, match=case["text"]["error"]) as caught:
            template.render(messages, tools, add_generation_prompt=prompt)
        assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "case", [c for c in DATA["cases"] if c["template"] != "smollm2"], ids=case_name
)
def test_same_text_as_transformers(case: dict[str, Any]) -> None:
    check_case(case, (GOLDEN / "templates" / f"{case['template']}.jinja").read_text())


@pytest.mark.model
def test_default_model_same_text_as_transformers() -> None:
    source = Tokenizer.load(default_model()).chat_template
    assert source is not None
    cases = [c for c in DATA["cases"] if c["template"] == "smollm2"]
    assert len(cases) == 12
    for case in cases:
        check_case(case, source)


def test_no_template_says_how_to_give_one() -> None:
    with pytest.raises(TemplateError, match="--chat-template"):
        ChatTemplate(None).render(HELLO)


def test_of_a_tokenizer() -> None:
    tokenizer = bytelevel()
    template = ChatTemplate.of(tokenizer, "{{ bos_token }}|{{ eos_token }}")
    assert template.render(HELLO) == "<s>|<|im_end|>"
    with pytest.raises(TemplateError, match="no chat template"):
        ChatTemplate.of(tokenizer).render(HELLO)


def test_tool_template_only_with_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools | length }} tools"})
    assert template.render(HELLO) == "plain"
    assert template.render(HELLO, []) == "plain"
    assert template.render(HELLO, DATA["tools"]) == "1 tools"
    assert ChatTemplate("{{ tools is none }}").render(HELLO) == "True"


def test_variables_reach_the_template() -> None:
    template = ChatTemplate("{% if enable_thinking %}think{% else %}no{% endif %}")
    assert template.render(HELLO, enable_thinking=True) == "think"
    assert template.render(HELLO) == "no"


def test_developer_is_system_unless_the_template_knows_it() -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert ChatTemplate(CONTENTS).render(messages) == "[system:x]"
    knowing = CONTENTS + "{# developer #}"
    assert ChatTemplate(knowing).render(messages) == "[developer:x]"
    assert messages[0]["role"] == "developer"


def test_parts_become_text_where_text_is_expected() -> None:
    assert ChatTemplate(CONTENTS).render([{"role": "user", "content": PARTS}]) == "[user:a\nb]"


def test_parts_stay_parts_where_the_template_loops_over_them() -> None:
    loop = (
        "{% for m in messages %}{% set content = m['content'] %}"
        "{% for p in content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(loop)
    assert template.render([{"role": "user", "content": PARTS}]) == "<a><b>"
    assert template.render([{"role": "user", "content": "ab"}]) == "<ab>"


def test_a_template_that_tells_text_from_parts_gets_both() -> None:
    both = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
    )
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": PARTS},
        {"role": "user", "content": "c"},
    ]
    assert ChatTemplate(both).render(messages) == "<a><b>c"


def test_html_is_not_escaped_and_unicode_is_kept() -> None:
    template = ChatTemplate("{{ messages[0] | tojson }}{{ messages[0].content }}")
    text = template.render([{"role": "user", "content": "<é & 'x'>"}])
    assert text == '{"role": "user", "content": "<é & \'x\'>"}<é & \'x\'>'


def test_messages_are_checked_first() -> None:
    with pytest.raises(InvalidRequest) as caught:
        ChatTemplate(CONTENTS).render([*HELLO, {"role": "robot", "content": ""}])
    assert caught.value.param == "messages[1].role"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{% for %}", r"not valid Jinja \(line 1\)"),
        ("\n\n{{ x | no_such_filter }}", "No filter named 'no_such_filter'"),
        ("x" * (2 << 20), "longer than"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "chat template"),
    ],
)
def test_bad_source(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no such role') }}", "refused the messages: no such role"),
        ("{{ messages[0].content + 1 }}", "failed: TypeError"),
        ("{{ messages[5].content.strip() }}", "no element 5"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{% include 'other' %}", "chat template"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "too deeply"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_a_template_that_fails(source: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(source).render(HELLO)


def test_a_failure_leaves_the_template_usable() -> None:
    template = ChatTemplate("{{ raise_exception('x') if fail else 'fine' }}")
    with pytest.raises(TemplateError):
        template.render(HELLO, fail=True)
    assert template.render(HELLO) == "fine"
