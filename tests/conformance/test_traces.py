"""vLLM's own spans are part of the trace that the router hands on."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.cli.fleet import running
from tests.telemetry.tracing.collector import SERVER, collecting

from .peers import vllm

pytestmark = pytest.mark.conformance

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_vllms_span_has_the_routers_for_a_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    engine = vllm()
    with collecting() as collector:
        # vLLM sends to the address as it is, over gRPC if not told otherwise.
        engine["args"] += ["--otlp-traces-endpoint", f"{collector.url}/v1/traces"]
        engine["env"] |= {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
        traces = {"endpoint": collector.url}
        with running(tmp_path, [engine], patience=300, traces=traces) as fleet:
            fleet.all_healthy()
            answer = httpx.post(
                f"{fleet.url}/v1/completions",
                json={"model": "smollm2", "prompt": "The sea is", "max_tokens": 4},
                headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
                timeout=120,
            )
            assert answer.status_code == 200, answer.text
            collector.wait_for(router_request=1, engine_request=1, llm_request=1)
    (request,) = collector.named("router_request")
    (attempt,) = collector.named("engine_request")
    (theirs,) = collector.named("llm_request")
    assert (request.trace_id, request.parent) == (TRACE, PARENT)
    assert (attempt.trace_id, attempt.parent) == (TRACE, request.span_id)
    assert (theirs.trace_id, theirs.parent) == (TRACE, attempt.span_id)
    assert theirs.kind == SERVER
    assert theirs.attributes["gen_ai.usage.completion_tokens"] == 4
    assert attempt.attributes["stoker.engine.kind"] == "vllm"
