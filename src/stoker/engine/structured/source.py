"""From what a request asks for to a grammar in llguidance's notation, with the limits on its size.

Grammars come from anyone who may send a request. What could take long or much memory to compile
is refused here by its size; what remains is bounded by the limits in `backend`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from llguidance import LLMatcher

from stoker.engine.sampling_params import StructuredOutputsParams
from stoker.engine.structured.gbnf import GbnfError
from stoker.engine.structured.gbnf_to_lark import gbnf_to_lark
from stoker.errors import InvalidRequest

MAX_BYTES = 256 * 1024
"""Largest schema, expression or grammar, as text."""
MAX_PROPERTIES = 2000
"""Most properties of one object; compiling takes time that grows with their square."""
MAX_DEPTH = 96
"""Deepest nesting of a JSON schema."""
MAX_CHOICES = 10_000

WHITESPACE = r"[\x20\x09]{1,8}|\r?\n[\x20\x09]{0,40}"
"""White space between the parts of JSON: a few spaces, or a line end with its indentation.
JSON allows any amount, which weak models use up to the last token."""

_GBNF_RULE = re.compile(r"::=")


def grammar_source(params: StructuredOutputsParams, token_id: Callable[[str], int | None]) -> str:
    """The grammar that `params` stands for. `token_id` finds a special token by its text.

    Raises:
        InvalidRequest: naming the field of `structured_outputs` that is wrong.
    """
    if params.json is not None:
        return _from_schema(params.json, strict=params.strict)
    if params.json_object is not None:
        if params.json_object is not True:
            raise wrong("json_object", "expected true")
        return _from_schema({"type": "object"}, strict=True)
    if params.regex is not None:
        return LLMatcher.grammar_from_regex(_text("regex", params.regex))
    if params.choice is not None:
        return _from_choice(params.choice)
    return _from_grammar(_text("grammar", params.grammar), token_id)


def wrong(kind: str, reason: str) -> InvalidRequest:
    """An error of one field of `structured_outputs`."""
    return InvalidRequest(
        f"structured_outputs.{kind} is refused: {reason}", param=f"structured_outputs.{kind}"
    )


def _text(kind: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong(kind, f"expected a string, got {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise wrong(kind, "it holds a lone surrogate, which is not valid Unicode") from None
    if size > MAX_BYTES:
        raise wrong(kind, f"it has {size} bytes, more than the limit of {MAX_BYTES}")
    return value


def _from_schema(schema: object, *, strict: bool) -> str:
    if isinstance(schema, str):
        try:
            schema = json.loads(_text("json", schema))
        except (ValueError, RecursionError) as error:
            raise wrong("json", f"it is not valid JSON: {error}") from None
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise wrong("json", f"a JSON schema is an object, got {type(schema).__name__}")
    _check_size(schema, MAX_DEPTH)
    try:
        text = _text("json", json.dumps(schema, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise wrong("json", f"it is not JSON: {error}") from None
    grammar: str = LLMatcher.grammar_from_json_schema(
        text, overrides={"whitespace_pattern": WHITESPACE, "lenient": not strict}
    )
    return grammar


def _check_size(value: object, depth: int) -> None:
    if depth == 0:
        raise wrong("json", f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        if len(value) > MAX_PROPERTIES:
            raise wrong("json", f"an object in it has more than {MAX_PROPERTIES} members")
        for member in value.values():
            _check_size(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _check_size(member, depth - 1)


def _from_choice(choices: Sequence[Any]) -> str:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        raise wrong("choice", "expected a list of at least one string")
    if len(choices) > MAX_CHOICES:
        raise wrong("choice", f"it has {len(choices)} entries, more than {MAX_CHOICES}")
    texts = dict.fromkeys(_text("choice", choice) for choice in choices)
    _text("choice", "".join(texts))
    # One terminal for all: as terminals of their own, "a" and "ab" would compete.
    options = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return LLMatcher.grammar_from_lark(f"start: CHOICE\nCHOICE: {options}\n")


def _from_grammar(text: str, token_id: Callable[[str], int | None]) -> str:
    if _GBNF_RULE.search(text) is None:
        return LLMatcher.grammar_from_lark(text)
    try:
        return LLMatcher.grammar_from_lark(gbnf_to_lark(text, token_id))
    except GbnfError as error:
        raise wrong("grammar", f"it is not valid GBNF: {error}") from None
