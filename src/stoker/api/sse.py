"""Server-sent events as bytes, made cheaply: a stream sends one per token.

What does not change between two events of a stream (id, model, time) is serialised once; an
event is then that prefix, the new text as JSON, and a constant end.
"""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring_ascii

DONE = b"data: [DONE]\n\n"
"""Ends a stream; openai-python stops reading here."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: clients ignore it, proxies see that the connection lives."""

json_string: Callable[[str], str] = encode_basestring_ascii
"""A string as JSON, quotes included: ASCII only, so never half a character or a line end."""


def event(data: bytes) -> bytes:
    """One event with `data`, which holds no line end."""
    return b"data: " + data + b"\n\n"


class ChunkWriter:
    """Writes a stream's chunks: `{id, object, created, model, choices, usage?}`."""

    def __init__(self, *, answer_id: str, kind: str, created: int, model: str) -> None:
        """`kind`: the chunk's `object`."""
        self._start = (
            f'data: {{"id":{json_string(answer_id)},"object":{json_string(kind)},'
            f'"created":{created},"model":{json_string(model)},"choices":['
        )

    def chunk(self, choice: str, usage: str | None = None) -> str:
        """One event with a choice (or none), and token counts where asked for; all JSON."""
        if usage is None:
            return f"{self._start}{choice}]}}\n\n"
        return f'{self._start}{choice}],"usage":{usage}}}\n\n'


def named_event(name: str, data: str) -> bytes:
    """One event of kind `name` with `data`, JSON without a line end."""
    return f"event: {name}\ndata: {data}\n\n".encode()
