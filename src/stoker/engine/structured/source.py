"""From what a request asks for to a grammar in llguidance's notation, with the limits on its size.

Grammars come from anyone who may send a request. What could take long or much memory to compile
is refused here by its size; what remains is bounded by the limits in `backend`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLMatcher

from stoker.engine.sampling_params import ReasoningSpan, StructuredOutputsParams
from stoker.engine.structured.closed import closed
from stoker.engine.structured.gbnf import GbnfError
from stoker.engine.structured.gbnf_to_lark import gbnf_to_lark
from stoker.model.tokenizer import Tokenizer

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

Grammar = dict[str, Any]
"""One of the grammars in llguidance's own JSON."""


class SourceError(ValueError):
    """What was asked for is no grammar, or too large a one."""


def grammar_source(params: StructuredOutputsParams, tokenizer: Tokenizer) -> str:
    """The grammar that `params` stands for.

    Raises:
        InvalidRequest: naming the field that is wrong.
    """
    try:
        body = _body(params, tokenizer)
    except SourceError as error:
        raise params.refused(str(error)) from None
    grammars = [body]
    if params.reasoning is not None:
        body["name"] = "body"
        grammars.insert(0, {"lark_grammar": _reasoning(params.reasoning, tokenizer)})
    return json.dumps({"grammars": grammars})


def schema_text(schema: object, *, strict: bool) -> str:
    """A JSON schema as llguidance takes it, also after `%json` in a Lark grammar.

    Objects that list their properties have no others; see `closed`.

    Raises:
        SourceError: it is no JSON schema, or too large.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(_text(schema))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"it is not valid JSON: {error}") from None
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise SourceError(f"a JSON schema is an object, got {type(schema).__name__}")
    _check_size(schema, MAX_DEPTH)
    options = {"whitespace_pattern": WHITESPACE, "lenient": not strict}
    try:
        text = json.dumps(
            {**closed(schema), "x-guidance": options}, ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise SourceError(f"it is not JSON: {error}") from None
    return _text(text)


def lark_text(text: str, tokenizer: Tokenizer) -> str:
    """Fixed text in a Lark rule; the text of a special token stands for that token."""
    token = tokenizer.token_to_id(text)
    if token is not None and token in tokenizer.special_ids:
        return f"<[{token}]>"
    return json.dumps(text, ensure_ascii=False)


def _body(params: StructuredOutputsParams, tokenizer: Tokenizer) -> Grammar:
    if params.json is not None:
        return {"json_schema": json.loads(schema_text(params.json, strict=params.strict))}
    if params.json_object is not None:
        if params.json_object is not True:
            raise SourceError("expected true")
        return {"json_schema": json.loads(schema_text({"type": "object"}, strict=True))}
    if params.regex is not None:
        (grammar,) = json.loads(LLMatcher.grammar_from_regex(_text(params.regex)))["grammars"]
        return {"lark_grammar": grammar["lark_grammar"]}
    if params.choice is not None:
        return {"lark_grammar": _choices(params.choice)}
    return {"lark_grammar": _lark(_text(params.grammar), tokenizer)}


def _reasoning(span: ReasoningSpan, tokenizer: Tokenizer) -> str:
    """Free text, then the body."""
    end = lark_text(span.end, tokenizer)
    # A lazy lexeme ends at the first place where it can, a token ends any lexeme.
    free = f"TEXT {end}" if end.startswith("<[") else "upto"
    if span.begin is not None:
        free = f"({lark_text(span.begin, tokenizer)} {free} SPACE?)?"
    else:
        free += " SPACE?"
    lines = [f"start: {free} @body", "TEXT: /(?s:.*)/", r"SPACE: /[ \t\r\n]{1,4}/"]
    if not end.startswith("<["):
        lines.append(f"upto[lazy]: TEXT {end}")
    return "\n".join(lines) + "\n"


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise SourceError(f"expected a string, got {type(value).__name__}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise SourceError("it holds a lone surrogate, which is not valid Unicode") from None
    if size > MAX_BYTES:
        raise SourceError(f"it has {size} bytes, more than the limit of {MAX_BYTES}")
    return value


def _check_size(value: object, depth: int) -> None:
    if depth == 0:
        raise SourceError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        if len(value) > MAX_PROPERTIES:
            raise SourceError(f"an object in it has more than {MAX_PROPERTIES} members")
        for member in value.values():
            _check_size(member, depth - 1)
    elif isinstance(value, list):
        for member in value:
            _check_size(member, depth - 1)


def _choices(choices: Sequence[Any]) -> str:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not choices:
        raise SourceError("expected a list of at least one string")
    if len(choices) > MAX_CHOICES:
        raise SourceError(f"it has {len(choices)} entries, more than {MAX_CHOICES}")
    texts = dict.fromkeys(_text(choice) for choice in choices)
    _text("".join(texts))
    # One terminal for all: as terminals of their own, "a" and "ab" would compete.
    options = " | ".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return f"start: CHOICE\nCHOICE: {options}\n"


def _lark(text: str, tokenizer: Tokenizer) -> str:
    if "::=" not in text:
        return text
    try:
        return gbnf_to_lark(text, tokenizer.token_to_id)
    except GbnfError as error:
        raise SourceError(f"it is not valid GBNF: {error}") from None
