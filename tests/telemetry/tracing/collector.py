"""A collector of traces: takes OTLP over HTTP, and keeps what it decodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

PATIENCE_S = 60.0
SERVER, CLIENT = WireSpan.SPAN_KIND_SERVER, WireSpan.SPAN_KIND_CLIENT
ERROR = Status.STATUS_CODE_ERROR


@dataclass(frozen=True)
class Span:
    """A span as it came over the wire."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent: str
    start: int
    end: int
    status: int
    attributes: dict[str, Any]
    service: str
    trace_state: str


@dataclass
class Collector:
    """What was received, and where to send more."""

    url: str = ""
    status: int = 200
    """What it answers with."""
    spans: list[Span] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, **counts: int) -> None:
        """Wait until there are so many spans of each name."""
        end = time.monotonic() + PATIENCE_S
        while any(len(self.named(name)) < count for name, count in counts.items()):
            assert time.monotonic() < end, f"{counts} expected, there are {self.spans}"
            time.sleep(0.01)

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for group in request.resource_spans:
            resource = {one.key: _value(one.value) for one in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [_span(one, resource["service.name"]) for one in scope.spans]


def _span(span: WireSpan, service: str) -> Span:
    return Span(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=span.status.code,
        attributes={one.key: _value(one.value) for one in span.attributes},
        service=service,
        trace_state=span.trace_state,
    )


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind) if kind is not None else None


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens, on a port of its own."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.paths.append(self.path)
            collector.headers.append({name.lower(): text for name, text in self.headers.items()})
            if collector.status == 200:
                collector.bodies.append(body)
                collector.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(collector.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
