"""A grammar in which a model can write its tool calls only as they are meant to be.

Written in llguidance's Lark. The arguments of each function follow its schema, and what stands
around them is spelt as the model was trained to. What may announce a call in the middle of an
answer (`<tool_call>`) ends free text at once: from there on it is a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from stoker.api.structured import Function
from stoker.api.tool_calls import ToolFormat
from stoker.engine.structured.source import SourceError, lark_text, schema_text
from stoker.errors import InvalidRequest
from stoker.model.tokenizer import Tokenizer

MAX_CALLS = 16
"""Most calls of one answer, so that a weak model does not call for ever."""

_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


def tool_grammar(
    tool_format: ToolFormat,
    functions: Sequence[Function],
    tokenizer: Tokenizer,
    *,
    required: bool,
    parallel: bool,
    otherwise: dict[str, Any] | None = None,
) -> str:
    """Calls of `functions`; unless they are `required`, free text as well, or instead of them
    JSON after the schema `otherwise` (as `schema_text` checked it).

    Raises:
        InvalidRequest: the parameters of a function are no JSON schema.
    """
    if otherwise is not None and tool_format.trigger is None:
        schema = _one_of(tool_format, functions, otherwise)
        return f"start: %json {json.dumps(schema, ensure_ascii=False)}\n"
    writer = _Writer(tool_format, tokenizer, parallel=parallel)
    lines = [
        _start(writer, required=required, otherwise=otherwise is not None),
        f"calls: {writer.calls}",
        f"unit: {writer.unit}",
        f"call: {writer.call}",
        "one: " + " | ".join(f"one_{i}" for i in range(len(functions))),
        f"upto[lazy]: TEXT {writer.trigger}" if writer.trigger else "upto: TEXT",
        "TEXT: /(?s:.*)/",
        # Text that does not begin as a call does.
        r"PLAIN: /([^\s{\[](?s:.*))?/",
    ]
    for i, function in enumerate(functions):
        before, after = writer.around(function.name)
        lines.append(f"one_{i}: {before} arguments_{i} {after}")
        arguments = json.dumps(_parameters(i, function), ensure_ascii=False)
        lines.append(f"arguments_{i}: %json {arguments}")
    if otherwise is not None:
        lines.append(f"otherwise: %json {json.dumps(otherwise, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _start(writer: _Writer, *, required: bool, otherwise: bool) -> str:
    if required:
        return "start: calls"
    if otherwise:
        return "start: calls | otherwise"
    if not writer.trigger:
        return "start: calls | PLAIN"
    # A special token ends free text by itself, a mark in the text by a lazy lexeme.
    before = f"TEXT {writer.trigger}" if writer.trigger_is_token else "upto"
    return f"start: ({before} unit)* TEXT" if writer.parallel else f"start: TEXT | {before} unit"


class _Writer:
    """The parts of a format as Lark expressions."""

    def __init__(self, tool_format: ToolFormat, tokenizer: Tokenizer, *, parallel: bool) -> None:
        self.parallel = parallel
        self._format = tool_format
        self._tokenizer = tokenizer
        trigger = tool_format.trigger
        self.trigger = "" if trigger is None else lark_text(trigger, tokenizer)
        self.trigger_is_token = self.trigger.startswith("<[")
        each_has_trigger = trigger is not None and trigger in tool_format.call_opening
        self.call = f"{self.trigger} one" if each_has_trigger else "one"
        """One call."""
        row = "call"
        if parallel:
            row = f"call ({self._spell(tool_format.between)} call){{0,{MAX_CALLS - 1}}}"
        opening = self._spell(tool_format.opening)
        after_trigger = self._spell(tool_format.opening[1:])
        closing = self._spell(tool_format.closing)
        self.unit = "one" if each_has_trigger else f"{after_trigger} {row} {closing}"
        """What comes after the trigger."""
        self.calls = f"{opening} {row} {closing}"
        """All calls of an answer that has nothing else."""
        if opening and trigger is None:
            self.calls = f"call | {self.calls}" if parallel else "call"
        optional = self._spell((tool_format.optional_opening,))
        if optional.startswith("<["):
            self.calls = f"({optional})? ({self.calls})"

    def around(self, name: str) -> tuple[str, str]:
        """What goes before and after the arguments, without a trigger."""
        before, after = self._format.call_pieces(name)
        if before[0] == self._format.trigger:
            before = before[1:]
        return self._spell(before), self._spell(after)

    def _spell(self, pieces: Iterable[str]) -> str:
        return " ".join(lark_text(piece, self._tokenizer) for piece in pieces if piece)


def _one_of(
    tool_format: ToolFormat, functions: Sequence[Function], otherwise: dict[str, Any]
) -> dict[str, Any]:
    """A schema of one call or of `otherwise`, for calls that are nothing but JSON: where both
    begin alike, the parser would know only the first of two schemas."""
    schemas = {f"call_{i}": _parameters(i, function) for i, function in enumerate(functions)}
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function.name},
                tool_format.arguments_key: {"$ref": f"#/$defs/{name}"},
            },
            "required": ["name", tool_format.arguments_key],
            "additionalProperties": False,
        }
        for name, function in zip(schemas, functions, strict=True)
    ]
    schemas["otherwise"] = otherwise
    return {
        "x-guidance": otherwise["x-guidance"],
        "$defs": {name: _moved(schema, f"#/$defs/{name}") for name, schema in schemas.items()},
        "anyOf": [*calls, {"$ref": "#/$defs/otherwise"}],
    }


def _moved(value: Any, place: str) -> Any:
    """A schema with its references to itself as they are when it stands at `place`."""
    if isinstance(value, list):
        return [_moved(member, place) for member in value]
    if not isinstance(value, dict):
        return value
    return {
        key: place + member[1:]
        if key == "$ref" and isinstance(member, str) and member.startswith("#")
        else _moved(member, place)
        for key, member in value.items()
        if key != "x-guidance"
    }


def _parameters(index: int, function: Function) -> dict[str, Any]:
    schema = _NO_ARGUMENTS if function.parameters is None else function.parameters
    try:
        text = schema_text({"type": "object", **schema}, strict=bool(function.strict))
    except SourceError as error:
        field = f"tools[{index}].function.parameters"
        raise InvalidRequest(f"{field} is refused: {error}", param=field) from None
    checked: dict[str, Any] = json.loads(text)
    return checked
