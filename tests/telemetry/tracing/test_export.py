"""Where spans go, and what happens when nobody is there to take them."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from stoker.errors import ConfigError
from stoker.telemetry.tracing import export
from stoker.telemetry.tracing.export import open_tracing

from .collector import collecting

CONTEXT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_an_address_without_a_path_gets_the_usual_one() -> None:
    with collecting() as collector:
        for endpoint in (collector.url, f"{collector.url}/", f"{collector.url}/otlp/v1/traces"):
            tracing = open_tracing(endpoint, service="me", environ={})
            assert tracing is not None
            tracing.tracer.start_span("one").end()
            tracing.close()
        assert collector.paths == ["/v1/traces", "/v1/traces", "/otlp/v1/traces"]
        assert [span.name for span in collector.spans] == ["one"] * 3
        assert {span.service for span in collector.spans} == {"me"}
        assert collector.headers[0]["content-type"] == "application/x-protobuf"


def test_the_environment_alone_turns_traces_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        monkeypatch.setenv(CONTEXT, collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
        monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
        tracing = open_tracing(None, service="me")
        assert tracing is not None
        tracing.tracer.start_span("one").end()
        tracing.close()
        assert collector.paths == ["/v1/traces"]
        assert collector.headers[0]["x-tenant"] == "blue"
        assert [span.service for span in collector.spans] == ["theirs"]


@pytest.mark.parametrize(
    ("endpoint", "environ"),
    [
        (None, {}),
        (None, {CONTEXT: "http://h:4318", "OTEL_TRACES_EXPORTER": "none"}),
        (None, {CONTEXT: ""}),
        ("http://h:4318", {"OTEL_SDK_DISABLED": "True"}),
    ],
)
def test_off(endpoint: str | None, environ: dict[str, str]) -> None:
    assert open_tracing(endpoint, service="me", environ=environ) is None


@pytest.mark.parametrize("endpoint", ["localhost:4318", "grpc://h:4317", "http://", "/v1/traces"])
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"expected a collector's address, like http://127"):
        open_tracing(endpoint, service="me", environ={})


def test_another_protocol_is_refused_where_it_was_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", CONTEXT: "http://h:4317"}
    with pytest.raises(ConfigError, match=r"asks for grpc: set it to http/protobuf"):
        open_tracing("http://h:4318", service="me", environ=wrong)
    assert open_tracing(None, service="me", environ=wrong) is None
    assert "asks for grpc" in caplog.text


def test_without_opentelemetry_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def not_there(name: str) -> ModuleSpec | None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(export, "find_spec", not_there)
    with pytest.raises(ConfigError, match=r"pip install 'stoker\[otel\]'"):
        open_tracing("http://h:4318", service="me", environ={})
    assert open_tracing(None, service="me", environ={CONTEXT: "http://h:4318"}) is None
    assert "stoker[otel]" in caplog.text


def test_the_sdk_is_not_imported_while_traces_are_off() -> None:
    # FastAPI imports the small package of interfaces where it finds it; that is its own affair.
    program = (
        "import sys; import stoker.server.app, stoker.server.load, stoker.router.server\n"
        "from stoker.telemetry.tracing.export import open_tracing\n"
        "assert open_tracing(None, service='me', environ={}) is None\n"
        "print([name for name in sys.modules if name.split('.')[:2] in "
        "(['opentelemetry', 'sdk'], ['opentelemetry', 'exporter'])])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_collector_that_refuses_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with collecting() as collector:
        tracing = open_tracing(collector.url, service="me", environ={})
        assert tracing is not None
        for status in (400, 400, 200, 200):
            collector.status = status
            tracing.tracer.start_span("one").end()
            tracing.flush()
        tracing.close()
        assert len(collector.spans) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "the collector of traces does not take them; they are dropped",
        "the collector of traces takes them again",
    ]


def test_a_dead_collector_does_not_hold_up_the_end() -> None:
    with collecting() as collector:
        url = collector.url
    tracing = open_tracing(url, service="me", environ={})
    assert tracing is not None
    tracing.tracer.start_span("one").end()
    tracing.close(within=0.1)  # would go on trying for a minute
