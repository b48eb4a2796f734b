"""Compiling: the kinds of grammar, the cache, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from stoker.engine.sampling_params import ReasoningSpan, StructuredOutputsParams
from stoker.engine.structured import GrammarBackend, MaskPool
from stoker.engine.structured.backend import LIMITS
from stoker.errors import InvalidRequest
from stoker.model.tokenizer import Tokenizer
from tests.engine.doubles import EOS
from tests.engine.structured.drivers import (
    NUM_WORDS,
    accepts,
    allowed,
    byte_backend,
    compiled,
    random_text,
)
from tests.model.text_data import bytelevel, sentencepiece

BACKEND = byte_backend()


@pytest.mark.parametrize(
    "regex",
    [
        "abc",
        "^abc$",
        "a*",
        "(cat|dog)s?",
        r"\d{3}-[^\d\s]{2}",
        r"[A-Z][a-z]+( [A-Z][a-z]+)*",
        'a/b"c',
        r"(?i)yes|no",
        "",
        r"[ぁ-ゟ]{2,3}",
    ],
)
def test_a_regex_matches_the_whole_text(regex: str) -> None:
    grammar = compiled(BACKEND, regex=regex)
    answers = [random_text(grammar, seed, limit=100) for seed in range(10)]
    assert any(answer is not None for answer in answers)
    for answer in answers:
        assert answer is None or re.fullmatch(regex, answer), answer


def test_choice_allows_the_choices_and_nothing_else() -> None:
    choices = ["yes", "no", "no way", 'quo"te\n', "日本", "no"]
    grammar = compiled(BACKEND, choice=choices)
    assert all(accepts(grammar, choice) for choice in choices)
    assert not any(accepts(grammar, text) for text in ("", "y", "yesno", "no w", "No"))


def test_lark() -> None:
    grammar = compiled(
        BACKEND,
        grammar="""
            start: greeting ("," NAME)* "!"
            greeting: "hello" | "bye"
            NAME: /[a-z]+/
            %ignore / /
        """,
    )
    assert accepts(grammar, "hello, ann , bob!")
    assert not accepts(grammar, "hello ann!")


def test_lark_with_a_schema_inside() -> None:
    grammar = compiled(BACKEND, grammar='start: "<call>" body "</call>"\nbody: %json {"const": 1}')
    assert accepts(grammar, "<call>1</call>")
    assert not accepts(grammar, "<call>2</call>")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"json": "{"}, "not valid JSON"),
        ({"json": "[]"}, "a JSON schema is an object, got list"),
        ({"json": 3}, "a JSON schema is an object, got int"),
        ({"json": {"type": "text"}}, "Invalid type: text"),
        ({"json": {"not": {}}}, "not"),
        ({"json": {"enum": []}}, "Unsatisfiable"),
        ({"json": False}, "Unsatisfiable"),
        ({"json": {"$ref": "http://example.com/x"}}, "http://example.com/x"),
        ({"json": {"$ref": "#"}}, "no text at all matches it"),
        ({"json": {"a": float("nan")}}, "it is not JSON"),
        ({"json": {"a": {1, 2}}}, "it is not JSON"),
        ({"json_object": False}, "expected true"),
        ({"regex": "["}, "unclosed character class"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"regex": 3}, "expected a string, got int"),
        ({"regex": "\ud800"}, "lone surrogate"),
        ({"choice": []}, "at least one string"),
        ({"choice": "yes"}, "at least one string"),
        ({"choice": ["a", 1]}, "expected a string, got int"),
        ({"grammar": "start: nothing"}, 'unknown name: "nothing"'),
        ({"grammar": "start: start"}, "no text at all matches it"),
        ({"grammar": "rot: /a/"}, "start"),
        ({"grammar": 'root ::= "a'}, "not valid GBNF: line 1"),
    ],
)
def test_refusals_name_the_field_and_the_reason(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(reason)) as caught:
        compiled(BACKEND, **params)
    (kind,) = params
    assert caught.value.param == f"structured_outputs.{kind}"


def _nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "params",
    [
        {"regex": "a" * 300_000},
        {"regex": "(" * 5000 + "a" + ")" * 5000},
        {"grammar": "start: " + "(" * 20_000 + '"a"' + ")" * 20_000},
        {"grammar": "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000},
        {"choice": ["a" * 100] * 20_000},
        {"choice": ["a" * 1000 + str(i) for i in range(1000)]},
        {"json": _nested(100)},
        {"json": '{"items":' * 100_000 + "{}" + "}" * 100_000},
        {"json": {"type": "object", "properties": {f"p{i}": {} for i in range(10_000)}}},
        {"json": {"enum": [f"a long value, number {i}" for i in range(20_000)]}},
        {  # 4⁶ combinations
            "json": {
                "allOf": [
                    {"anyOf": [{"type": "object", "required": [f"{i}{j}"]} for j in range(4)]}
                    for i in range(6)
                ]
            }
        },
    ],
    ids=lambda params: str(params)[:40],
)
def test_what_would_cost_too_much_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        compiled(BACKEND, **params)


def test_an_object_of_many_optional_properties_works() -> None:
    properties = {f"p{i}": {"type": "null"} for i in range(1500)}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    assert accepts(compiled(BACKEND, json=schema), '{"p3": null, "p1499": null}')


def _chain(length: int) -> dict[str, Any]:
    links = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(length)}
    return {"$defs": links | {f"d{length}": {"type": "null"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "params",
    [
        {"json": _chain(1000)},
        {"json": {"type": "integer", "multipleOf": 2**31 - 1}},
        {
            "grammar": "start: T0\n"
            + "\n".join(f'T{i}: T{i + 1} "a"' for i in range(6000))
            + '\nT6000: "x"'
        },
        {
            "grammar": 'start: "a" <[256]> T\nT: '
            + " & ".join(f"/(?s:.*)a(?s:.){{{i}}}b(?s:.*)/" for i in range(30))
        },
    ],
    ids=["chain of references", "multiple of a prime", "chain of terminals", "intersection"],
)
def test_what_the_compiler_would_not_survive_is_refused(params: dict[str, Any]) -> None:
    """Overflowing stacks, hours of work and gigabytes of memory, in a process that may die."""
    with pytest.raises(InvalidRequest, match=r"too much time or memory|exhausted"):
        compiled(BACKEND, **params)
    assert accepts(compiled(BACKEND, regex="still [a-z]+"), "still here")


def test_a_chain_of_references_of_a_sane_length_works() -> None:
    assert accepts(compiled(BACKEND, json=_chain(60)), "[" * 3 + "]" * 3)


def test_a_grammar_that_needs_too_much_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS, "max_lexer_states", 500)
    matcher = compiled(byte_backend(), regex="(.*a.{30}){3}").matcher()
    for i in range(5000):
        allowed(matcher)
        if matcher.is_finished or not matcher.accept(ord("ab"[(i * i // 7) % 2])):
            break
    assert matcher.is_finished
    assert matcher.error is not None
    assert "too many states" in matcher.error
    assert "\n" not in matcher.error
    assert allowed(matcher) == {EOS}


def test_an_answer_has_a_budget_of_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    grammar = compiled(BACKEND, regex="[a-z]*")
    monkeypatch.setattr("stoker.engine.structured.matcher.ANSWER_SECONDS", -1.0)
    monkeypatch.setattr("stoker.engine.structured.matcher.TOKEN_SECONDS", 0.1)
    matcher = grammar.matcher()
    assert matcher.accept(ord("a"))
    allowed(matcher)
    assert matcher.is_finished
    assert matcher.error == "the grammar takes too long to follow"
    assert grammar.matcher().fork().error is None
    richer = grammar.matcher()
    for _ in range(11):
        assert richer.accept(ord("a"))
    allowed(richer)
    assert richer.error is None


def test_grammars_are_compiled_once() -> None:
    backend = byte_backend()
    first = compiled(backend, json={"type": "integer"})
    assert compiled(backend, json='{"type": "integer"}') is first
    assert compiled(backend, json={"type": "number"}) is not first


def test_the_cache_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.engine.structured.backend.CACHED_GRAMMARS", 2)
    backend = byte_backend()
    a, b = compiled(backend, choice=["a"]), compiled(backend, choice=["b"])
    assert compiled(backend, choice=["a"]) is a
    compiled(backend, choice=["c"])
    assert compiled(backend, choice=["a"]) is a
    assert compiled(backend, choice=["b"]) is not b


def test_matchers_are_independent() -> None:
    grammar = compiled(BACKEND, regex="ab|cd")
    one, two = grammar.matcher(), grammar.matcher()
    assert one.accept(ord("a"))
    fork = one.fork()
    assert one.accept(ord("b"))
    assert one.is_finished
    assert not fork.is_finished
    assert allowed(fork) == {ord("b")}
    assert two.mask is not None
    assert allowed(two) == {ord("a"), ord("c")}


def test_rollback() -> None:
    matcher = compiled(BACKEND, regex="abc").matcher()
    for token in b"abc":
        assert matcher.accept(token)
    assert matcher.is_finished
    assert matcher.rollback(2)
    assert not matcher.is_finished
    assert allowed(matcher) == {ord("b")}


def test_a_refused_token_is_an_error_that_stays() -> None:
    matcher = compiled(BACKEND, regex="abc").matcher()
    assert not matcher.accept(ord("x"))
    assert matcher.is_finished
    assert matcher.error is not None
    assert allowed(matcher) == {EOS}


def test_a_limit_holds_in_every_mask() -> None:
    limit = np.full(NUM_WORDS, 0xFFFFFFFF, np.uint32)
    limit[ord("a") // 32] &= ~np.uint32(1 << ord("a") % 32)
    matcher = compiled(BACKEND, regex="[ab]{2}").matcher(limit)
    assert matcher.mask is not None
    assert np.flatnonzero(matcher.mask).tolist() == [ord("b") // 32]
    assert matcher.accept(ord("b"))
    assert allowed(matcher) == {ord("b")}
    assert allowed(matcher.fork()) == {ord("b")}


def test_the_pool_fills_what_is_missing() -> None:
    pool = MaskPool(EOS + 1)
    grammar = compiled(BACKEND, regex="a[bc]d")
    matchers = [grammar.matcher() for _ in range(3)]
    assert all(matcher.accept(ord("a")) for matcher in matchers[:2])
    kept = matchers[2].mask
    pool.start(matchers)
    pool.wait()
    assert matchers[2].mask is kept
    for matcher in matchers[:2]:
        assert matcher.mask is not None
        assert (matcher.mask == compiled_mask(ord("b"), ord("c"))).all()
    pool.wait()
    pool.close()


def compiled_mask(*tokens: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    mask = np.zeros(NUM_WORDS, np.uint32)
    for token in tokens:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


@pytest.mark.parametrize(
    "tokenizer",
    [bytelevel(), sentencepiece(), sentencepiece(space_prefix=False)],
    ids=["bytelevel", "sentencepiece", "sentencepiece without prefix"],
)
def test_real_vocabularies_spell_the_answer(tokenizer: Tokenizer) -> None:
    """Byte-level and SentencePiece tokenizers; more logits than tokens; forced text."""
    vocab_size = tokenizer.vocab_size + 37
    backend = GrammarBackend(tokenizer, vocab_size)
    text = '{"name":"Zoë ☃","ok":true}'
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "ok": {"const": True}},
        "required": ["name", "ok"],
    }
    matcher = backend.compile(StructuredOutputsParams(json=schema)).matcher()
    spelled: list[int] = []
    mask = np.empty(-(-vocab_size // 32), np.uint32)
    while not matcher.is_finished:
        matcher.fill_mask(mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        candidates = np.flatnonzero(bits).tolist()
        assert candidates
        assert all(tokenizer.token_bytes(token) for token in candidates)
        assert not tokenizer.special_ids & set(candidates)
        rest = text.encode()[len(b"".join(map(tokenizer.token_bytes, spelled))) :]
        token = max(
            (t for t in candidates if rest.startswith(tokenizer.token_bytes(t))),
            key=lambda t: len(tokenizer.token_bytes(t)),
        )
        assert matcher.accept(token)
        spelled.append(token)
    assert b"".join(map(tokenizer.token_bytes, spelled)).decode() == text


def test_a_model_without_an_end_token_is_refused() -> None:
    class Endless:
        special_ids: frozenset[int] = frozenset()
        eos_token_ids: frozenset[int] = frozenset()

        def token_bytes(self, token: int) -> bytes:
            return bytes([token])

        def token_to_id(self, text: str) -> None:
            return None

    backend = GrammarBackend(Endless(), 256)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="end token"):
        compiled(backend, regex="a")


@pytest.mark.parametrize(
    ("span", "good", "bad"),
    [
        (
            ReasoningSpan("</think>"),
            ["so </think>[1]", "</think>\n\n[1, 2]", "a </thin b\n</think> []"],
            ["[1]", "so", "so </think>x", "so </think>\n\n\n\n\n\n[1]"],
        ),
        (
            ReasoningSpan("</think>", begin="<think>"),
            ["[1]", "<think>\nso\n</think>\n\n[1]"],
            ["so</think>[1]", "<think>[1]", "<think></think>"],
        ),
    ],
)
def test_reasoning_may_come_first(span: ReasoningSpan, good: list[str], bad: list[str]) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    grammar = compiled(BACKEND, json=schema, reasoning=span)
    assert [text for text in good if not accepts(grammar, text)] == []
    assert [text for text in bad if accepts(grammar, text)] == []
    for other in ({"regex": "\\[1?\\]"}, {"grammar": 'root ::= "[" "1"? "]"'}, {"choice": ["[1]"]}):
        assert accepts(compiled(BACKEND, reasoning=span, **other), good[0].replace("[1, 2]", "[1]"))


def test_a_mark_that_is_a_special_token_stands_for_the_token() -> None:
    span = ReasoningSpan("</s>")
    tokenizer = bytelevel()
    end = tokenizer.token_to_id("</s>")
    assert end is not None
    backend = GrammarBackend(tokenizer, tokenizer.vocab_size)
    matcher = backend.compile(StructuredOutputsParams(choice=["a"], reasoning=span)).matcher()
    for token in tokenizer.encode("free </s", add_special_tokens=False):
        assert matcher.accept(token)
    assert matcher.accept(end)
    assert not matcher.is_finished
    assert matcher.accept(tokenizer.encode("a", add_special_tokens=False)[0])
    assert matcher.is_finished


def test_errors_name_the_field_the_constraint_came_from() -> None:
    with pytest.raises(
        InvalidRequest, match=r"^response_format is refused: Invalid type"
    ) as caught:
        compiled(BACKEND, json={"type": "text"}, field="response_format")
    assert caught.value.param == "response_format"
