"""The span of a request that a server's engine has answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import openai
import pytest

from stoker.telemetry.tracing.export import open_tracing
from tests.server.conftest import RunningServer, running
from tests.server.doubles import letter_model

from .collector import ERROR, PATIENCE_S, SERVER, Collector, Span, collecting

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "theirs=1"}
SECRET = "the prompt that nobody may read"


class Traced:
    """A server whose spans a collector gets."""

    def __init__(
        self, server: RunningServer, collector: Collector, flush: Callable[[], None]
    ) -> None:
        self.server = server
        self.client = server.client
        self.collector = collector
        self._flush = flush

    def spans(self) -> list[Span]:
        """Those made since the last time: of whatever was answered there is one."""
        self._flush()
        spans, self.collector.spans = self.collector.spans, []
        return spans


@pytest.fixture(scope="module")
def traced() -> Iterator[Traced]:
    with collecting() as collector:
        tracing = open_tracing(collector.url, service="stoker", environ={})
        assert tracing is not None
        with running(lambda: letter_model(tracing=tracing)) as server:
            yield Traced(server, collector, tracing.flush)
        tracing.close()


def chat(client: openai.OpenAI, **more: object) -> object:
    return client.chat.completions.create(
        model="letters",
        messages=[{"role": "user", "content": SECRET}],
        max_tokens=5,
        **more,  # type: ignore[call-overload]
    )


def test_it_is_a_child_of_the_callers_span(traced: Traced) -> None:
    began = time.time_ns()
    answer = traced.client.chat.completions.create(
        model="letters",
        messages=[{"role": "user", "content": SECRET}],
        max_tokens=5,
        temperature=0.5,
        seed=3,
        extra_headers=CALLER,
    )
    (span,) = traced.spans()
    assert (span.name, span.kind, span.service) == ("llm_request", SERVER, "stoker")
    assert (span.trace_id, span.parent, span.trace_state) == (TRACE, PARENT, "theirs=1")
    assert began <= span.start <= span.end <= time.time_ns()
    told = span.attributes
    latencies = {name: told.pop(name) for name in list(told) if ".latency." in name}
    assert answer.usage is not None
    assert told == {
        "gen_ai.provider.name": "stoker",
        "gen_ai.operation.name": "chat",
        "url.path": "/v1/chat/completions",
        "gen_ai.request.id": answer.id,
        "gen_ai.request.model": "letters",
        "gen_ai.response.model": "letters",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.request.n": 1,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.seed": 3,
        "gen_ai.usage.num_sequences": 1,
        "gen_ai.usage.prompt_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.completion_tokens": 5,
        "gen_ai.usage.output_tokens": 5,
        "stoker.num_preemptions": 0,
    }
    part = {name.removeprefix("gen_ai.latency."): value for name, value in latencies.items()}
    assert set(part) == {
        "e2e",
        "time_in_queue",
        "time_to_first_token",
        "time_in_model_prefill",
        "time_in_model_decode",
        "time_in_model_inference",
    }
    # An OTLP time is in nanoseconds; a latency is a float of seconds.
    assert part["e2e"] == pytest.approx((span.end - span.start) / 1e9, abs=1e-6)
    first = part["time_in_queue"] + part["time_in_model_prefill"]
    assert part["time_to_first_token"] == pytest.approx(first)
    inference = part["time_in_model_prefill"] + part["time_in_model_decode"]
    assert part["time_in_model_inference"] == pytest.approx(inference)
    assert 0 < part["time_to_first_token"] <= part["e2e"]


def test_streams_completions_and_lists_of_prompts(traced: Traced) -> None:
    with openai.OpenAI(
        base_url=traced.client.base_url, api_key="none", default_headers=CALLER
    ) as client:
        for _ in chat(client, stream=True):  # type: ignore[attr-defined]
            pass
        several = client.completions.create(
            model="letters", prompt=["one", "two"], max_tokens=2, n=2
        )
    streamed, *others = traced.spans()
    assert {span.trace_id for span in (streamed, *others)} == {TRACE}
    assert streamed.attributes["gen_ai.usage.completion_tokens"] == 5
    assert {span.attributes["gen_ai.request.id"] for span in others} == {
        f"{several.id}-0",
        f"{several.id}-1",
    }
    assert [span.attributes["gen_ai.usage.completion_tokens"] for span in others] == [4, 4]
    assert {span.attributes["gen_ai.operation.name"] for span in others} == {"text_completion"}


def test_who_brings_no_trace_begins_one(traced: Traced) -> None:
    chat(traced.client)
    chat(traced.client, extra_headers={"traceparent": "00-nonsense-01"})
    one, other = traced.spans()
    assert (one.parent, other.parent) == ("", "")
    assert len({one.trace_id, other.trace_id, TRACE}) == 3


def test_a_caller_that_does_not_sample_gets_no_span(traced: Traced) -> None:
    chat(traced.client, extra_headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert traced.spans() == []


def test_a_client_that_leaves() -> None:
    with collecting() as collector:
        tracing = open_tracing(collector.url, service="stoker", environ={})
        assert tracing is not None
        with running(lambda: letter_model(tracing=tracing, delay=0.1)) as slow:
            long = {"max_tokens": 900, "ignore_eos": True}  # a minute and a half
            stream = chat(slow.client, stream=True, extra_body=long)
            next(iter(stream))  # type: ignore[call-overload]
            stream.close()  # type: ignore[attr-defined]
            end = time.monotonic() + PATIENCE_S
            while not collector.spans:
                assert time.monotonic() < end
                tracing.flush()
        tracing.close()
    (span,) = collector.spans
    assert span.attributes["gen_ai.response.finish_reasons"] == ["abort"]
    assert span.status != ERROR


def test_an_answer_that_fails(traced: Traced) -> None:
    with pytest.raises(openai.InternalServerError):
        traced.client.completions.create(model="letters", prompt="boom!", max_tokens=5)
    (span,) = traced.spans()
    assert (span.status, span.attributes["error.type"]) == (ERROR, "generation_failed")
    assert "gen_ai.latency.time_to_first_token" not in span.attributes


def test_what_the_engine_refuses_leaves_nothing_behind(traced: Traced) -> None:
    with pytest.raises(openai.BadRequestError):
        traced.client.completions.create(model="letters", prompt="x" * 5000, max_tokens=5)
    assert traced.spans() == []
    tracer = traced.server.model.tracer
    assert tracer is not None
    assert tracer._asked == {}


def test_no_prompt_and_no_answer_is_sent(traced: Traced) -> None:
    assert traced.collector.bodies
    assert not any(SECRET.encode() in body for body in traced.collector.bodies)
