"""The forms of tool calls by name, how each is written, and which one a chat template asks for."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stoker.api.tool_calls.formats import (
    ARGS,
    PYTHON_TAG,
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_CALLS,
    HermesParser,
    JsonParser,
    Llama3JsonParser,
    MistralParser,
)
from stoker.api.tool_calls.parser import ToolCallParser

Pieces = tuple[str, ...]
"""Text, cut so that what may be one special token stands alone."""


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One form of tool calls: how to read it, and how it is written, for constrained answers.

    All calls: `opening`, each call with `between` in between, `closing`.
    One call: `call_opening`, its name as `name_form` has it, its arguments, `call_closing`.
    """

    name: str
    parser: type[ToolCallParser]
    call_opening: Pieces = ()
    call_closing: Pieces = ()
    arguments_key: str | None = "arguments"
    """The member of the call's object that holds the arguments; None: name and arguments stand
    side by side with `[ARGS]` between."""
    optional_opening: str = ""
    """A special token that some models put before all calls."""
    opening: Pieces = ()
    between: Pieces = ()
    closing: Pieces = ()

    @property
    def trigger(self) -> str | None:
        """What announces calls in the middle of an answer; None: calls are the whole answer."""
        first = (self.opening + self.call_opening)[:1]
        return first[0] if first and first[0] in (TOOL_CALL, TOOL_CALLS) else None

    @property
    def marks(self) -> frozenset[str]:
        """Everything in it that is a special token of some models."""
        pieces = {*self.opening, *self.call_opening, *self.call_closing, self.optional_opening}
        if self.arguments_key is None:
            pieces.add(ARGS)
        return frozenset(pieces)

    def call_pieces(self, name: str) -> tuple[Pieces, Pieces]:
        """What goes before and after the arguments of a call of `name`."""
        if self.arguments_key is None:
            return (*self.call_opening, name, ARGS), self.call_closing
        head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{self.arguments_key}": '
        return (*self.call_opening, head), ("}", *self.call_closing)


FORMATS = {
    tool_format.name: tool_format
    for tool_format in (
        ToolFormat(
            "hermes",
            HermesParser,
            call_opening=(TOOL_CALL, "\n"),
            call_closing=("\n", TOOL_CALL_END),
            between=("\n",),
        ),
        ToolFormat(
            "mistral",
            MistralParser,
            opening=(TOOL_CALLS, "["),
            between=(", ",),
            closing=("]",),
        ),
        ToolFormat("mistral_args", MistralParser, call_opening=(TOOL_CALLS,), arguments_key=None),
        ToolFormat(
            "llama3_json",
            Llama3JsonParser,
            arguments_key="parameters",
            optional_opening=PYTHON_TAG,
            between=("; ",),
        ),
        ToolFormat("json", JsonParser, opening=("[",), between=(", ",), closing=("]",)),
    )
}
"""By name, as `--tool-call-parser` takes it."""


def format_of_template(template: str | None) -> ToolFormat:
    """The form a chat template teaches its model, by the marks in its text.

    A template that has none gets `json`.
    """
    text = template or ""
    if TOOL_CALLS in text:
        return FORMATS["mistral_args" if ARGS in text else "mistral"]
    if TOOL_CALL in text:
        return FORMATS["hermes"]
    if PYTHON_TAG in text or ('"parameters"' in text and "ipython" in text):
        return FORMATS["llama3_json"]
    return FORMATS["json"]
