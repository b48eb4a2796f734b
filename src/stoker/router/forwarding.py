"""What changes in a message as it passes: as little as HTTP and the engine's names require."""

from __future__ import annotations

from stoker.router.engines.handle import EngineHandle
from stoker.router.request import Features, Request, with_model, with_usage_asked
from stoker.router.upstream import ResponseHead
from stoker.router.wire import NOT_FORWARDED, NOT_RETURNED, end_to_end, join_headers

_OURS = NOT_FORWARDED | {b"authorization", b"x-request-id"}
_OURS_AND_KEY = _OURS | {b"x-api-key"}
_TRACE = frozenset((b"traceparent", b"tracestate"))
_BODILESS = frozenset((b"GET", b"DELETE"))
# Of one client's head, those written for so many engines are remembered.
_MOST_HEADS = 256


def request_head(
    engine: EngineHandle,
    request: Request,
    length: int,
    *,
    with_key: bool,
    trace_fields: bytes | None = None,
) -> bytes:
    """The head of the request to `engine`, for a body of `length` bytes.

    `with_key`: whether the client's key is meant for the engine, not for the router;
    `trace_fields`: how the router itself says which trace the request is part of, if it does.
    """
    memo = request.memo
    if memo.sent_with_key is not with_key:
        memo.sent_with_key = with_key
        memo.sent_heads.clear()
    parts = memo.sent_heads.get(engine)
    if parts is None:
        if len(memo.sent_heads) >= _MOST_HEADS:
            memo.sent_heads.clear()
        own_trace = trace_fields is not None
        parts = _parts_of_head(engine, request, with_key=with_key, own_trace=own_trace)
        memo.sent_heads[engine] = parts
    before_id, after_id = parts
    if trace_fields:
        after_id = b"\r\n%b%b" % (trace_fields, after_id[2:])
    if not length and request.method in _BODILESS:
        return b"%b%b%b\r\n" % (before_id, request.id, after_id)
    return b"%b%b%bcontent-length: %d\r\n\r\n" % (before_id, request.id, after_id, length)


def _parts_of_head(
    engine: EngineHandle, request: Request, *, with_key: bool, own_trace: bool
) -> tuple[bytes, bytes]:
    """What precedes a request's id in its head to `engine`, and what follows but for the length:
    the same for all requests with one client's head."""
    ours = _OURS if with_key else _OURS_AND_KEY
    if own_trace:
        ours |= _TRACE
    passing = end_to_end(request.headers, request.fields.get(b"connection"), ours)
    authorization = engine.authorization
    if authorization is None and with_key:
        authorization = request.fields.get(b"authorization")
    before_id = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%bx-request-id: " % (
        request.method,
        engine.path_prefix,
        request.target,
        engine.host_header,
        join_headers(passing),
    )
    key = b"authorization: %b\r\n" % authorization if authorization is not None else b""
    return before_id, b"\r\n" + key


def asks_usage(engine: EngineHandle, features: Features) -> bool:
    """Whether the router asks, on its own account, what a stream used. llama.cpp's streams tell
    it anyway, in their `timings`."""
    return features.lacks_usage and engine.ask_usage and engine.kind != "llama_cpp"


def request_body(engine: EngineHandle, features: Features, body: bytes) -> bytes:
    """The client's own bytes, unless the engine knows the model by another name, or a stream
    would not tell what it used."""
    if not features.is_json:
        return body
    if features.lacks_usage and asks_usage(engine, features):
        body = with_usage_asked(body, features.stream_options)
    if features.model is None:
        return body
    served = engine.models.get(features.model)
    if served is None or served.own_name == features.asked_model:
        return body
    return with_model(body, served.own_name)


def returned_fields(head: ResponseHead, *, with_limits: bool) -> bytes:
    """The fields of an engine's answer that pass to the client, as they are written.

    `with_limits`: also an engine's own `x-ratelimit-…`.
    """
    fields = head.returned if with_limits else head.returned_without_limits
    if fields is None:
        passing = end_to_end(head.headers, head.fields.get(b"connection"), NOT_RETURNED)
        if with_limits:
            fields = head.returned = join_headers(passing)
        else:
            kept = [field for field in passing if not field[0].startswith(b"x-ratelimit-")]
            fields = head.returned_without_limits = join_headers(kept)
    return fields


def is_event_stream(head: ResponseHead) -> bool:
    """Whether the body is made of server-sent events."""
    return head.fields.get(b"content-type", b"").startswith(b"text/event-stream")


def content_length(head: ResponseHead) -> int | None:
    length = head.fields.get(b"content-length")
    return None if length is None else int(length)
