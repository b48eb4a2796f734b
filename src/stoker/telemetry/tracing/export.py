"""Where spans go: an OTLP collector, over HTTP, in batches, from a thread of their own.

What the `OTEL_…` variables of the environment say holds: headers, certificates, compression,
time limit, sampler, batch sizes, resource attributes.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stoker import __version__
from stoker.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Tracer

log = logging.getLogger(__name__)

FLUSH_S = 5.0
"""How long the end of a process waits for the collector to take the last spans."""

_PROTOCOL = "http/protobuf"
_PATH = "/v1/traces"


class Tracing:
    """A tracer, and the thread that sends what it makes. `open_tracing` makes one."""

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        self._provider = provider
        self._exporter = exporter
        self.tracer: Tracer = provider.get_tracer("stoker", __version__)

    def flush(self) -> None:
        """Send what has been made so far; waits until the collector has it or refused it."""
        self._provider.force_flush()

    def close(self, within: float = FLUSH_S) -> None:
        """Send the last spans, for at most so many seconds."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(within)
        if closing.is_alive():
            self._exporter.shutdown()  # ends its waiting for another try


def open_tracing(
    endpoint: str | None, *, service: str, environ: Mapping[str, str] = os.environ
) -> Tracing | None:
    """Send spans to `endpoint`, or where the environment's `OTEL_EXPORTER_OTLP_…` says; None when
    neither names a collector. `service` is the name of this one, unless the environment has one.

    Raises `ConfigError` when `endpoint` cannot be used. What only the environment asks for, which
    may be meant for other programs too, is left out with a warning.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if endpoint is not None:
        _check(environ)
        return _open(collector_url(endpoint), service)
    if environ.get("OTEL_TRACES_EXPORTER") == "none" or not (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    ):
        return None
    try:
        _check(environ)
    except ConfigError as problem:
        log.warning("no traces, though OTEL_EXPORTER_OTLP_ENDPOINT is set: %s", problem)
        return None
    return _open(None, service)


def _check(environ: Mapping[str, str]) -> None:
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", _PROTOCOL
    )
    if protocol != _PROTOCOL:
        raise ConfigError(
            f"traces are sent as {_PROTOCOL}, and OTEL_EXPORTER_OTLP_TRACES_PROTOCOL (or "
            f"OTEL_EXPORTER_OTLP_PROTOCOL) asks for {protocol}: set it to {_PROTOCOL} and give the "
            "collector's HTTP port, as a rule 4318"
        )
    if not _is_installed():
        raise ConfigError(
            "traces need OpenTelemetry, which is not installed: pip install 'stoker[otel]'"
        )


def _is_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def collector_url(endpoint: str) -> str:
    """The address that takes spans: of an address without a path, the usual one.

    Raises `ConfigError` when it is none.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(
            f"traces cannot be sent to {endpoint!r}: expected a collector's address, like "
            f"http://127.0.0.1:4318{_PATH}"
        )
    return endpoint.rstrip("/") + _PATH if parts.path in ("", "/") else endpoint


def _open(url: str | None, service: str) -> Tracing:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    exporter = _exporter(url)
    provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider, exporter)


def _resource(service: str) -> Resource:
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        return resource.merge(Resource({"service.name": service}))
    return resource


def _exporter(url: str | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    # It would write a line for every try; once is enough.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)

    class Exporter(SpanExporter):
        """OTLP over HTTP; says once that the collector is away, and once that it is back."""

        def __init__(self) -> None:
            self._otlp: SpanExporter = OTLPSpanExporter(endpoint=url)
            self._away = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = self._otlp.export(spans)
            away = result is not SpanExportResult.SUCCESS
            if away and not self._away:
                log.warning("the collector of traces does not take them; they are dropped")
            elif self._away and not away:
                log.info("the collector of traces takes them again")
            self._away = away
            return result

        def shutdown(self) -> None:
            self._otlp.shutdown()

    return Exporter()
