"""The part that a model writes before its answer, between `<think>` and `</think>`."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.api.tool_calls.deltas import Content, Delta, Reasoning, merge

_SPACE = " \t\r\n"


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What a model puts around its reasoning."""

    begin: str
    end: str

    def opened_by(self, prompt: str) -> bool:
        """Whether the prompt ends with the beginning mark, so that the answer is inside."""
        return prompt.rstrip(_SPACE).endswith(self.begin)

    def closed_by(self, prompt: str) -> bool:
        """Whether the prompt ends with the end mark, so that there is no reasoning to come."""
        return prompt.rstrip(_SPACE).endswith(self.end)


MARKS = {
    "think": ReasoningMarks("<think>", "</think>"),
    "think_brackets": ReasoningMarks("[THINK]", "[/THINK]"),
}
"""By name, as `--reasoning-parser` takes it."""


def marks_of_template(template: str | None) -> ReasoningMarks | None:
    """The marks in a chat template's text; None: its model does not reason in the open."""
    for marks in MARKS.values():
        if template is not None and marks.end in template:
            return marks
    return None


class ReasoningParser:
    """Splits an answer into reasoning and content, however the text is cut."""

    def __init__(self, marks: ReasoningMarks, *, is_open: bool = False) -> None:
        """`is_open`: the prompt ended with the beginning mark."""
        self._marks = marks
        self._is_reasoning: bool | None = True if is_open else None
        """None: not known yet, as nothing or only the beginning of the mark has come."""
        self._text = ""
        self._at_start = True

    def feed(self, text: str) -> list[Delta]:
        """What `text` adds."""
        self._text += text
        return self._advance(at_end=False)

    def finish(self) -> list[Delta]:
        """What was held back, when the text has ended."""
        return self._advance(at_end=True)

    @property
    def is_reasoning(self) -> bool:
        """Whether the answer proper has not begun."""
        return self._is_reasoning is not False

    def _advance(self, *, at_end: bool) -> list[Delta]:
        deltas: list[Delta] = []
        if self._is_reasoning is None:
            self._find_beginning(at_end)
        if self._is_reasoning:
            deltas += self._reason(at_end)
        if self._is_reasoning is False and self._text:
            deltas += self._answer()
        return merge(deltas)

    def _find_beginning(self, at_end: bool) -> None:
        begin = self._marks.begin
        text = self._text.lstrip(_SPACE)
        if text.startswith(begin):
            self._is_reasoning = True
            self._text = text[len(begin) :]
        elif at_end or not begin.startswith(text):
            self._is_reasoning = False
            self._at_start = False  # an answer without reasoning is left as it is

    def _reason(self, at_end: bool) -> list[Delta]:
        end = self._text.find(self._marks.end)
        if end >= 0:
            reasoning = self._text[:end].rstrip(_SPACE)
            self._text = self._text[end + len(self._marks.end) :]
        elif at_end:
            reasoning, self._text = self._text.rstrip(_SPACE), ""
        else:
            keep = _held_back(self._text, self._marks.end)
            cut = len(self._text) - keep
            reasoning, self._text = self._text[:cut], self._text[cut:]
        if self._at_start:
            reasoning = reasoning.lstrip(_SPACE)
            self._at_start = not reasoning
        if end >= 0:
            self._is_reasoning = False
            self._at_start = True
        return [Reasoning(reasoning)] if reasoning else []

    def _answer(self) -> list[Delta]:
        text, self._text = self._text, ""
        if self._at_start:
            text = text.lstrip(_SPACE)
            self._at_start = not text
        return [Content(text)] if text else []


def _held_back(text: str, mark: str) -> int:
    """Characters at the end that may be white space before the mark, or its beginning."""
    held = 0
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            held = length
            break
    before = text[: len(text) - held]
    return held + len(before) - len(before.rstrip(_SPACE))
