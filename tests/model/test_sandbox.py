"""Templates that try to get out, to run for ever or to fill the memory."""

import re

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.model import sandbox_limits
from stoker.model.sandbox import LimitExceeded, TemplateEnvironment

ENVIRONMENT = TemplateEnvironment()
PLAIN = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)


def render(source: str, **variables: object) -> str:
    template = ENVIRONMENT.compile_bounded(source)
    return ENVIRONMENT.render_bounded(template, variables)


@pytest.mark.parametrize(
    "source",
    [
        # loops
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}" + "x" * 5000 + "{% endfor %}",
        "{% for a in range(300) recursive %}{{ loop(range(300)) if loop.depth < 9 }}{% endfor %}",
        "{% macro m(n) %}{{ m(n - 1) if n }}{{ m(n - 1) if n }}{% endmacro %}{{ m(60) }}",
        "{% macro m() %}" + "x" * 9000 + "{% endmacro %}"
        "{% for a in range(99999) %}{% set b = m() %}{% endfor %}",
        "{% for a in range(9999) %}{% for b in range(9999) if false %}{% endfor %}{% endfor %}",
        # one step
        "{{ 'a' * 1000000000 }}",
        "{{ 1000000000 * 'a' }}",
        "{{ [1] * 1000000000 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.rjust(width) }}",
        "{{ '1'.zfill(1000000000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%.1000000000f' | format(1.5) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '{x:1000000000}'.format_map({'x': 1}) }}",
        "{{ strftime_now('%1000000000Y') }}",
        "{{ ('a' * 90000).replace('a', 'b' * 90000) }}",
        "{{ ('a' * 90000) | replace('a', 'b' * 90000) }}",
        "{{ ('a' * 90000).join(range(90000) | list) }}",
        "{{ range(90000) | join('a' * 90000) }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ ('\\n' * 90000) | indent('a' * 90000) }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        # doubling
        *(
            "{% set n = namespace(x="
            + start
            + ") %}{% for i in range(99) %}"
            + step
            + "{% endfor %}"
            for start, step in [
                ("'a'", "{% set n.x = n.x + n.x %}"),
                ("'a'", "{% set n.x = n.x ~ n.x %}"),
                ("'a'", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
                ("2", "{% set n.x = n.x * n.x %}"),
                ("[1]", "{% set n.x = n.x + n.x %}"),
                ("[1]", "{% set n.x = [n.x, n.x] %}"),
                ("1", "{% set n.x = (n.x, n.x) %}"),
                ("1", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
                ("1", "{% set n.x = dict(a=n.x, b=n.x) %}"),
            ]
        ),
        # output
        "{% for i in range(9999) %}{{ 'a' * 99999 }}{% endfor %}",
    ],
)
def test_limits(source: str) -> None:
    with pytest.raises(LimitExceeded):
        render(source, width=1_000_000_000)


def test_time_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_limits, "MAX_SECONDS", -1.0)
    with pytest.raises(LimitExceeded, match="too long"):
        render("{% for x in range(9) %}{% endfor %}")


def test_a_namespace_that_holds_itself_many_times_prints_quickly() -> None:
    source = (
        "{% set n = namespace(a=1) %}{% for i in range(99) %}"
        "{% set n.a = namespace(x=n.a, y=n.a) %}{% endfor %}{{ n }}"
    )
    assert render(source) == "<Namespace>"


def test_range_is_limited() -> None:
    with pytest.raises(OverflowError):
        render("{% for a in range(100001) %}{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ messages.append(1) }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ''.encode() }}",
        "{{ (5).to_bytes(1000000000, 'big') }}",
        "{{ 'a'.expandtabs(1000000000) }}",
        "{{ 'a'.center(1000000000) }}",
        "{{ lipsum() }}",
        "{{ 'x' | attr('__class__') }}",
        "{% for x in messages | map(attribute='__class__') %}{{ x.mro() }}{% endfor %}",
    ],
)
def test_nothing_of_python_is_reachable(source: str) -> None:
    with pytest.raises((jinja2.TemplateError, jinja2.exceptions.SecurityError)):
        render(source + "{{ nothing.here }}", messages=[1])


@pytest.mark.parametrize("name", ["batch", "center", "slice", "sum", "urlize", "xmlattr"])
def test_withheld_filters_are_unknown(name: str) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError, match=name):
        ENVIRONMENT.compile_bounded(f"{{{{ x | {name} }}}}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for x in items %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{% endfor %}",
        "{% for x in items %}{{ loop.previtem }}{{ x }}{{ loop.nextitem }}{% endfor %}",
        "{% for x in items if x > 1 %}{{ x }}{% else %}none{% endfor %}",
        "{% for x in [] %}{{ x }}{% else %}none{% endfor %}",
        "{% for x in missing %}{{ x }}{% else %}none{% endfor %}",
        "{% for k, v in table.items() %}{{ k }}={{ v }};{% endfor %}",
        "{% for k, v in table | dictsort %}{{ k }}={{ v }};{% endfor %}",
        "{% for x in tree recursive %}{{ x.n }}({{ loop(x.c) if x.c }}){% endfor %}",
        "{% for c in 'abc' %}{{ loop.cycle('o', 'e') }}{{ c }}{% endfor %}",
        "{% for x in items | select('odd') %}{{ x }}{% endfor %}",
        "{{ items | map('string') | join('+') }}{{ items[1:] }}{{ items[::-1] | list }}",
        "{% set a, b = 1, (2, 3) %}{{ a ~ b ~ none ~ true ~ 1.5 }}{{ (a, b) }}",
        "{{ 'a' ~ 'b' ~ ('c' | upper) }}{{ '%s-%05.1f' % ('x', 2.25) }}{{ '%d%%' | format(5) }}",
        "{{ 'x={:>5}|{y}'.format('a', y=2) }}{{ 7 // 2 }}{{ 2 ** 10 }}{{ 'ab' * 3 }}{{ [1] * 2 }}",
        "{% macro m(a, b='d') %}<{{ a }}{{ b }}{{ caller() if caller }}>{% endmacro %}"
        "{{ m(1) }}{{ m(1, b=2) }}{% call m(3) %}inner{% endcall %}",
        "{% set n = namespace(a=0) %}{% for x in items %}{% set n.a = n.a + x %}{% endfor %}"
        "{{ n.a }}",
        "{{ 'a\nb' | indent(2) }}{{ 'aXbX' | replace('X', 'YY') }}{{ 'aXbX'.replace('X', '', 1) }}",
        "{% set x %}block {{ items }}{% endset %}{{ x | trim | length }}",
        "{% if items is sequence and table is mapping and 'a' in table %}yes{% endif %}",
        "{{ items | first }}{{ items | last }}{{ items | length }}{{ missing | default('d') }}",
        "{% filter upper %}shout {{ items }}{% endfilter %}",
        "  {% if true %}\n  x\n  {% endif %}\ny\n",
    ],
)
def test_ordinary_templates_are_as_in_plain_jinja(source: str) -> None:
    tree = [{"n": 1, "c": [{"n": 2, "c": []}, {"n": 3, "c": []}]}]
    variables = {"items": [1, 2, 3], "table": {"b": 2, "a": 1}, "tree": tree}
    assert render(source, **variables) == PLAIN.from_string(source).render(variables)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3)))
def test_values_print_as_in_plain_jinja(value: object) -> None:
    source = "{{ x }}|{{ x ~ x }}|{% for y in [x, x] %}{{ y }}{% endfor %}"
    assert render(source, x=value) == PLAIN.from_string(source).render(x=value)


def test_a_long_conversation_is_within_the_limits() -> None:
    source = (
        "{% set n = namespace(s='') %}{% for m in messages %}"
        "{{ '<' + m.role + '>' + m.content | trim + '\\n' }}{% endfor %}"
    )
    messages = [{"role": "user", "content": "x" * 2000} for _ in range(2000)]
    assert len(render(source, messages=messages)) == 2000 * 2007


def test_loop_controls_generation_blocks_and_the_clock() -> None:
    skip = "{% if x == 1 %}{% continue %}{% elif x == 4 %}{% break %}{% endif %}"
    assert render("{% for x in range(9) %}" + skip + "{{ x }}{% endfor %}") == "023"
    scoped = "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}"
    assert render(scoped) == "21"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", render("{{ strftime_now('%Y-%m-%d') }}"))


def test_json() -> None:
    value = {"b": "<é>", "a": [1, 2.5, None]}
    assert render("{{ v | tojson }}", v=value) == '{"b": "<é>", "a": [1, 2.5, null]}'
    assert render("{{ v | tojson(sort_keys=true, separators=(',', ':')) }}", v=value) == (
        '{"a":[1,2.5,null],"b":"<é>"}'
    )
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert render("{{ 'é' | tojson(ensure_ascii=true) }}") == '"\\u00e9"'
