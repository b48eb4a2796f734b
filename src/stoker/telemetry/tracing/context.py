"""A caller's trace, as its `traceparent` and `tracestate` tell (W3C Trace Context)."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()
FIELDS = frozenset((b"traceparent", b"tracestate"))


def read_context(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The caller's trace; an empty context if it has none, or none that is valid. Names of
    `headers` are in lower case."""
    carrier: dict[str, str] = {}
    for name, value in headers:
        if name in FIELDS:
            key, text = name.decode(), value.decode("latin-1")
            # Several fields of one name are one list.
            carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
    return _propagator.extract(carrier, context=Context())


def context_headers(context: Context) -> list[tuple[bytes, bytes]]:
    """The fields that make whoever is asked a part of the trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context=context)
    return [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]
