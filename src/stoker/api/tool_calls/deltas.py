"""What parsers make of an answer's text, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model wrote before its answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call begins (`id` and `name` are set), or more of its arguments."""

    index: int
    """Which call of the answer, from 0."""
    arguments: str = ""
    """A piece of the JSON text of the arguments."""
    name: str | None = None
    id: str | None = None


Delta = Content | Reasoning | ToolCall


def merge(deltas: list[Delta]) -> list[Delta]:
    """The same with neighbours joined: one piece of text, one of each call."""
    merged: list[Delta] = []
    for delta in deltas:
        last = merged[-1] if merged else None
        match last, delta:
            case Content(), Content():
                merged[-1] = Content(last.text + delta.text)
            case Reasoning(), Reasoning():
                merged[-1] = Reasoning(last.text + delta.text)
            case ToolCall(), ToolCall() if last.index == delta.index:
                merged[-1] = ToolCall(
                    last.index, last.arguments + delta.arguments, last.name, last.id
                )
            case _:
                merged.append(delta)
    return merged
