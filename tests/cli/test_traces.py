"""Traces of real processes: made, passed on, and not lost when they end."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.cli import fleet
from tests.cli.test_serve import checkpoint, serving
from tests.telemetry.tracing.collector import collecting

__all__ = ["checkpoint"]  # a fixture

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
ASKED = {"model": "tiny", "prompt": "Hello there", "max_tokens": 4}


def test_a_server_that_is_told_to_stop_sends_its_last_spans(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # nothing is sent before the end
    with collecting() as collector:
        arguments = (str(checkpoint), "--served-model-name", "tiny")
        with serving(*arguments, "--otlp-traces-endpoint", collector.url) as (url, process):
            key = {"authorization": "Bearer from-the-environment"}
            answer = httpx.post(
                f"{url}/v1/completions", json=ASKED, headers=CALLER | key, timeout=60
            )
            assert answer.status_code == 200
            assert collector.spans == []
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        (span,) = collector.spans
        assert (span.name, span.trace_id, span.parent) == ("llm_request", TRACE, PARENT)


def test_up_makes_one_trace_of_router_and_engine(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    engine = {"name": "one", "kind": "native", "model": str(checkpoint), "models": ["tiny"]}
    with collecting() as collector:
        traces = {"endpoint": collector.url}
        with fleet.running(tmp_path, [engine], traces=traces) as running:
            running.all_healthy()
            answer = httpx.post(
                f"{running.url}/v1/completions", json=ASKED, headers=CALLER, timeout=60
            )
            assert answer.status_code == 200, answer.text
        collector.wait_for(router_request=1, engine_request=1, llm_request=1)
        (request,) = collector.named("router_request")
        (attempt,) = collector.named("engine_request")
        (engine_span,) = collector.named("llm_request")
        assert {span.trace_id for span in collector.spans} == {TRACE}
        assert (request.parent, attempt.parent) == (PARENT, request.span_id)
        assert engine_span.parent == attempt.span_id
