"""A span for each request that an engine has finished, named and described as vLLM's is.

The attributes are vLLM's, and beside them those of OpenTelemetry's conventions for generative AI
that have other names there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from stoker.engine.sampling_params import SamplingParams
from stoker.engine.stats import FinishedRequest, StepStats
from stoker.telemetry.tracing.context import read_context

SPAN = "llm_request"


@dataclass(frozen=True, slots=True)
class _Caller:
    """Whose request this task works on."""

    context: Context
    path: str


_NOBODY = _Caller(Context(), "")
_caller: ContextVar[_Caller] = ContextVar("caller", default=_NOBODY)


class RequestTracer:
    """Makes the spans of one engine's requests.

    `calling` and `submitted` are for the event loop; `record`, for the thread of the engine.
    """

    def __init__(self, tracer: Tracer, model_name: str) -> None:
        self._tracer = tracer
        self._model_name = model_name
        self._asked: dict[str, tuple[_Caller, SamplingParams]] = {}
        """Who asked for what, of the requests that the engine has."""

    @contextmanager
    def calling(self, headers: Iterable[tuple[bytes, bytes]], path: str) -> Iterator[None]:
        """Within: requests are part of the trace that `headers` tell of."""
        token = _caller.set(_Caller(read_context(headers), path))
        try:
            yield
        finally:
            _caller.reset(token)

    def submitted(self, request_id: str, params: SamplingParams) -> None:
        """The engine is about to get a request."""
        self._asked[request_id] = (_caller.get(), params)

    def refused(self, request_id: str) -> None:
        """The engine did not take it."""
        self._asked.pop(request_id, None)

    def record(self, step: StepStats) -> None:
        """Make the spans of the requests that a step has brought to their end."""
        for request in step.finished:
            caller, params = self._asked.pop(request.request_id, (_NOBODY, None))
            self._make(request, caller, params)

    def _make(
        self, request: FinishedRequest, caller: _Caller, params: SamplingParams | None
    ) -> None:
        end = time.time_ns()
        span = self._tracer.start_span(
            SPAN,
            context=caller.context,
            kind=SpanKind.SERVER,
            start_time=end - round(request.e2e_time * 1e9),
        )
        if span.is_recording():
            span.set_attributes(self._told(request))
            if caller.path:
                span.set_attributes(_of_call(caller.path))
            if params is not None:
                span.set_attributes(_of_params(params))
            if request.finish_reason == "error":
                span.set_attribute("error.type", "generation_failed")
                span.set_status(Status(StatusCode.ERROR))
        span.end(end)

    def _told(self, request: FinishedRequest) -> dict[str, AttributeValue]:
        told: dict[str, AttributeValue] = {
            "gen_ai.provider.name": "stoker",
            "gen_ai.request.id": request.request_id,
            "gen_ai.request.model": self._model_name,
            "gen_ai.response.model": self._model_name,
            "gen_ai.response.finish_reasons": [request.finish_reason],
            "gen_ai.request.n": request.n,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.usage.num_sequences": request.n,
            "gen_ai.usage.prompt_tokens": request.num_prompt_tokens,
            "gen_ai.usage.input_tokens": request.num_prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": request.num_cached_tokens,
            "gen_ai.usage.completion_tokens": request.num_generation_tokens,
            "gen_ai.usage.output_tokens": request.num_generation_tokens,
            "gen_ai.latency.e2e": request.e2e_time,
            "gen_ai.latency.time_in_queue": request.queue_time,
            "stoker.num_preemptions": request.num_preemptions,
        }
        if request.num_generation_tokens:
            first_token = request.queue_time + request.prefill_time
            told |= {
                "gen_ai.latency.time_to_first_token": first_token,
                "gen_ai.latency.time_in_model_prefill": request.prefill_time,
                "gen_ai.latency.time_in_model_decode": request.decode_time,
                "gen_ai.latency.time_in_model_inference": request.inference_time,
            }
        return told


def _of_call(path: str) -> dict[str, AttributeValue]:
    operation = "text_completion" if path == "/v1/completions" else "chat"
    return {"url.path": path, "gen_ai.operation.name": operation}


def _of_params(params: SamplingParams) -> dict[str, AttributeValue]:
    told: dict[str, AttributeValue] = {
        "gen_ai.request.temperature": params.temperature,
        "gen_ai.request.top_p": params.top_p,
    }
    if params.seed is not None:
        told["gen_ai.request.seed"] = params.seed
    return told
