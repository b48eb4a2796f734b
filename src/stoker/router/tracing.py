"""The router's spans: one for each request, and within it one for each engine it was sent to.

The engine is told of the latter, so that what it makes of the request is part of the caller's
trace.
"""

from __future__ import annotations

from time import monotonic

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from stoker.router.engines.handle import EngineHandle
from stoker.router.request import Request
from stoker.router.usage import Usage
from stoker.router.wire import Headers, join_headers
from stoker.telemetry.tracing.context import context_headers, read_context

REQUEST_SPAN = "router_request"
ATTEMPT_SPAN = "engine_request"


class RouterTracer:
    """Makes the spans of one router."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, request: Request) -> RequestTrace:
        """The trace of a request that has just come."""
        return RequestTrace(self._tracer, request)


class RequestTrace:
    """One request's part of a trace. `end` comes last."""

    __slots__ = ("_attempt", "_began", "_context", "_num_attempts", "_span", "_tracer")

    def __init__(self, tracer: Tracer, request: Request) -> None:
        self._tracer = tracer
        self._span = tracer.start_span(
            REQUEST_SPAN,
            context=read_context(request.headers),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method.decode("latin-1"),
                "url.path": request.path.decode("latin-1"),
                "stoker.request_id": request.id.decode("latin-1"),
            },
        )
        self._context: Context = set_span_in_context(self._span, Context())
        self._attempt: Span | None = None
        self._num_attempts = 0
        self._began = monotonic()

    def attempt(self, engine: EngineHandle, model: str | None, reason: str) -> None:
        """The request goes to `engine`, chosen for `reason`."""
        self._end_attempt(None)
        if self._num_attempts == 0:
            self._span.set_attribute("stoker.router.time_in_queue", monotonic() - self._began)
        self._num_attempts += 1
        self._attempt = self._tracer.start_span(
            ATTEMPT_SPAN,
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes={
                "server.address": engine.address.host,
                "server.port": engine.address.port,
                "stoker.engine.name": engine.name,
                "stoker.engine.kind": engine.kind,
                "stoker.router.reason": reason,
            },
        )
        if model is not None:
            self._attempt.set_attribute("gen_ai.request.model", model)

    def headers(self) -> bytes:
        """The fields that tell the engine of this trace, as they are written."""
        assert self._attempt is not None
        fields: Headers = context_headers(set_span_in_context(self._attempt, Context()))
        return join_headers(fields)

    def attempt_failed(self, reason: str) -> None:
        """The engine failed the request."""
        if self._attempt is not None:
            self._attempt.set_status(Status(StatusCode.ERROR, reason))
            self._end_attempt(None)

    def end(
        self, status: int, *, first_byte: float | None = None, usage: Usage | None = None
    ) -> None:
        """The client has its answer, of this HTTP status; `first_byte` seconds after the request
        was sent to the engine that gave it."""
        if self._attempt is not None and first_byte is not None:
            self._attempt.set_attribute("stoker.router.time_to_first_byte", first_byte)
        self._end_attempt(status)
        span = self._span
        span.set_attribute("stoker.router.attempts", self._num_attempts)
        if usage is not None:
            span.set_attribute("gen_ai.usage.prompt_tokens", usage.prompt_tokens)
            span.set_attribute("gen_ai.usage.completion_tokens", usage.completion_tokens)
        _note_status(span, status)
        span.end()

    def _end_attempt(self, status: int | None) -> None:
        if self._attempt is not None:
            if status is not None:
                _note_status(self._attempt, status)
            self._attempt.end()
            self._attempt = None


def _note_status(span: Span, status: int) -> None:
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
