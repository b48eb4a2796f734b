"""Token counts as engines report them, read from answers as they pass."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct):
    """What a request took, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Wire(msgspec.Struct):
    """The usage fields of OpenAI's chat and completions, of Responses and of Anthropic."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None


class _Nested(msgspec.Struct):
    usage: _Wire | None = None


class _Answer(msgspec.Struct):
    usage: _Wire | None = None
    response: _Nested | None = None


_decoder = msgspec.json.Decoder(_Answer)
_USAGE = b'"usage"'
_DATA = b"data:"


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole answer; None if it has none."""
    if _USAGE not in body:
        return None
    try:
        answer = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    wire = answer.usage
    if wire is None and answer.response is not None:
        wire = answer.response.usage
    if wire is None:
        return None
    details = wire.prompt_tokens_details or wire.input_tokens_details
    cached = wire.cache_read_input_tokens or (details.cached_tokens if details else None)
    return Usage(
        prompt_tokens=wire.prompt_tokens or wire.input_tokens or 0,
        completion_tokens=wire.completion_tokens or wire.output_tokens or 0,
        cached_tokens=cached or 0,
    )


def read_stream_usage(tail: bytes) -> Usage | None:
    """The usage in the last pieces of an event stream; None if there is none."""
    at = tail.rfind(_USAGE)
    while at >= 0:
        start = tail.rfind(_DATA, 0, at)
        if start < 0:
            return None
        end = tail.find(b"\n", at)
        usage = read_usage(tail[start + len(_DATA) : end if end >= 0 else None])
        if usage is not None:
            return usage
        at = tail.rfind(_USAGE, 0, start)
    return None
