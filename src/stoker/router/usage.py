"""Token counts as engines report them, read from answers as they pass."""

from __future__ import annotations

import re

import msgspec


class Usage(msgspec.Struct):
    """What a request took, in tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Timings(msgspec.Struct):
    """What llama.cpp says at the end of a stream, asked or not."""

    prompt_n: int = 0
    cache_n: int = 0
    predicted_n: int = 0


class _Wire(msgspec.Struct):
    """The usage fields of OpenAI's chat and completions, of Responses and of Anthropic."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Nested(msgspec.Struct):
    usage: _Wire | None = None


class _Answer(msgspec.Struct):
    usage: _Wire | None = None
    response: _Nested | None = None
    """Responses' last event."""
    message: _Nested | None = None
    """Anthropic's first."""
    timings: _Timings | None = None


_decoder = msgspec.json.Decoder(_Answer)
_wire_decoder = msgspec.json.Decoder(_Wire)
_USAGE = b'"usage"'
_TIMINGS = b'"timings"'
_OBJECT = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_DATA = b"data:"


def read_usage(body: bytes) -> Usage | None:
    """The usage of a whole answer, or of an event; None if it has none."""
    # From the end, where it usually stands.
    if body.rfind(_USAGE) < 0 and body.rfind(_TIMINGS) < 0:
        return None
    try:
        answer = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    wire = answer.usage
    if wire is None:
        nested = answer.response or answer.message
        if nested is not None:
            wire = nested.usage
    if wire is not None:
        return _usage(wire)
    timings = answer.timings
    if timings is None:
        return None
    return Usage(timings.prompt_n + timings.cache_n, timings.predicted_n, timings.cache_n)


def _usage(wire: _Wire) -> Usage:
    details = wire.prompt_tokens_details or wire.input_tokens_details
    read, written = wire.cache_read_input_tokens, wire.cache_creation_input_tokens
    cached = read or (details.cached_tokens if details else None)
    # Anthropic's input_tokens are without those read from a cache or written to it.
    prompt = (wire.prompt_tokens or wire.input_tokens or 0) + (read or 0) + (written or 0)
    completion = wire.completion_tokens or wire.output_tokens or 0
    if prompt < 0 or completion < 0:
        prompt, completion = max(prompt, 0), max(completion, 0)
    if not cached:
        return Usage(prompt, completion)
    return Usage(prompt, completion, min(max(cached, 0), prompt))


def read_stream_usage(tail: bytes, begin: bytes = b"") -> Usage | None:
    """The usage in the last pieces of an event stream; None if there is none. What the last
    event leaves out stands in the first pieces (Anthropic's prompt)."""
    last = _last_usage(tail)
    if last is not None and not last.prompt_tokens and b'"message_start"' in begin:
        first = _last_usage(begin)
        if first is not None:
            last.prompt_tokens, last.cached_tokens = first.prompt_tokens, first.cached_tokens
    return last


def read_partial_usage(part: bytes) -> Usage | None:
    """The usage in a piece of an answer too long to be kept."""
    for found in reversed(_OBJECT.findall(part)):
        try:
            return _usage(_wire_decoder.decode(found))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return None


def _last_usage(tail: bytes) -> Usage | None:
    at = max(tail.rfind(_USAGE), tail.rfind(_TIMINGS))
    while at >= 0:
        start = tail.rfind(_DATA, 0, at)
        if start < 0:
            return None
        end = tail.find(b"\n", at)
        usage = read_usage(tail[start + len(_DATA) : end if end >= 0 else None])
        if usage is not None:
            return usage
        at = max(tail.rfind(_USAGE, 0, start), tail.rfind(_TIMINGS, 0, start))
    return None
