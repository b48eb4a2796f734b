"""vLLM behind our router: its spans are part of the caller's trace, through the router's."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.fleet import running
from tests.conformance.test_mixed_fleet import vllm
from tests.telemetry.tracing.collector import collecting

pytestmark = pytest.mark.conformance

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_vllm_joins_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    with collecting() as collector:
        address = f"{collector.url}/v1/traces"
        engine = vllm()
        engine["args"] = [*engine["args"], "--otlp-traces-endpoint", address]
        protocol = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
        engine["env"] = engine["env"] | protocol
        traces = {"endpoint": address}
        with running(tmp_path, [engine], patience=300, traces=traces) as fleet:
            fleet.all_healthy()
            answer = httpx.post(
                f"{fleet.url}/v1/completions",
                json={"model": "smollm2", "prompt": "Hello", "max_tokens": 4},
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
                timeout=120,
            )
            assert answer.status_code == 200, answer.text
            collector.wait_for(router_request=1, engine_request=1, llm_request=1)
        (request,) = collector.named("router_request")
        (attempt,) = collector.named("engine_request")
        theirs = [span for span in collector.named("llm_request") if span.trace_id == TRACE]
        assert [span.parent for span in theirs] == [attempt.span_id]
        assert (request.parent, attempt.parent) == (PARENT, request.span_id)
        # The same names mean the same there.
        (span,) = theirs
        assert span.attributes["gen_ai.usage.completion_tokens"] == 4
        assert span.attributes["gen_ai.latency.e2e"] > 0
