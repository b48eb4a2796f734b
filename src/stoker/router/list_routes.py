"""Engines' list routes: how requests become one, and its answer many again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from stoker.router.ask import Answer
from stoker.router.config import EngineKind


@dataclass(frozen=True, slots=True)
class ListRoute:
    """What a route for single requests has for lists of them."""

    path: bytes
    """Where a list is sent."""
    field: str
    """The body's field that holds the list, and of a single request its only item."""
    item: type
    """What an item is."""
    answers: str
    """The field of the answer that holds one entry, with its `index`, for each item."""
    kinds: frozenset[EngineKind]
    """The engines that have it, and count the tokens of all its items."""

    def takes(self, fields: Mapping[str, Any]) -> bool:
        """Whether a request can be part of a list: one item, one answer, whole."""
        return (
            isinstance(fields.get(self.field), self.item)
            and not fields.get("stream")
            and fields.get("n") in (None, 1)
            and fields.get("best_of") in (None, 1)
        )

    def shape(self, fields: Mapping[str, Any]) -> bytes:
        """Equal for requests that may share a list: all that differs is their item."""
        return msgspec.json.encode({**fields, self.field: None}, order="sorted")

    def join(self, requests: Sequence[Mapping[str, Any]]) -> bytes:
        """The body of the list."""
        items = [fields[self.field] for fields in requests]
        return msgspec.json.encode({**requests[0], self.field: items})

    def take_apart(self, answer: Answer, count: int) -> list[Answer] | None:
        """The answer to each item of a list; None if they are not all there.

        An engine counts the tokens of the list as a whole, so the parts have no `usage`.
        """
        try:
            body = msgspec.json.decode(answer.body)
            entries = sorted(body[self.answers], key=lambda entry: int(entry["index"]))
        except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, ValueError):
            return None
        if [entry["index"] for entry in entries] != list(range(count)):
            return None
        parts = []
        for entry in entries:
            own = body | {self.answers: [entry | {"index": 0}], "usage": None}
            parts.append(Answer(200, answer.headers, msgspec.json.encode(own)))
        return parts


# llama.cpp takes lists of prompts, but tells the usage of the first alone.
_NATIVE_AND_VLLM: frozenset[EngineKind] = frozenset(("native", "vllm"))

LIST_ROUTES: Mapping[bytes, ListRoute] = {
    b"/v1/completions": ListRoute(
        b"/v1/completions", "prompt", str, "choices", _NATIVE_AND_VLLM | {"openai"}
    ),
    b"/v1/chat/completions": ListRoute(
        b"/v1/chat/completions/batch", "messages", list, "choices", _NATIVE_AND_VLLM
    ),
    b"/v1/embeddings": ListRoute(
        b"/v1/embeddings", "input", str, "data", _NATIVE_AND_VLLM | {"openai"}
    ),
}
