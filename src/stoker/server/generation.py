"""What all routes that generate do alike: submit, wait, count, and judge how it ended."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from starlette.types import Receive

from stoker.api.errors import ApiError, timed_out, unavailable
from stoker.api.openai import FinishReason, PromptTokensDetails, Usage
from stoker.engine.async_engine import RequestStream
from stoker.engine.outputs import CompletionOutput, RequestOutput
from stoker.engine.sampling_params import SamplingParams, StructuredOutputsParams
from stoker.model.tokenizer import Tokenizer
from stoker.server.connection import while_connected
from stoker.server.state import ServedModel

_LONG_TEXT = 20_000
"""Characters from which tokenizing is worth a thread: it would hold up every stream."""


async def encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    """Token ids of `text`, without holding up the event loop."""
    if len(text) < _LONG_TEXT:
        return tokenizer.encode(text, add_special_tokens=add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens=add_special_tokens)


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


async def constrain(
    model: ServedModel, params: SamplingParams, wanted: StructuredOutputsParams | None
) -> None:
    """Have `params` ask for `wanted`, compiled without holding up the event loop.

    Raises:
        InvalidRequest: it cannot be compiled.
    """
    params.structured_outputs = wanted
    if wanted is not None:
        await asyncio.to_thread(model.engine.engine.prepare, params)


@dataclass(frozen=True, slots=True)
class EnginePrompt:
    """What the engine is asked to continue, and how."""

    token_ids: Sequence[int]
    params: SamplingParams


def submit(
    model: ServedModel,
    answer_id: str,
    prompts: Sequence[EnginePrompt],
    *,
    priority: int,
) -> list[RequestStream]:
    """One stream per prompt, all or none.

    Raises what `AsyncEngine.generate` raises.
    """
    streams: list[RequestStream] = []
    try:
        for index, prompt in enumerate(prompts):
            request_id = answer_id if len(prompts) == 1 else f"{answer_id}-{index}"
            streams.append(_generate(model, request_id, prompt, priority))
    except BaseException:
        for stream in streams:
            model.engine.abort(stream.request_id)
        raise
    return streams


def _generate(
    model: ServedModel, request_id: str, prompt: EnginePrompt, priority: int
) -> RequestStream:
    if model.tracer is not None:
        model.tracer.submitted(request_id, prompt.params)
    try:
        return model.engine.generate(
            prompt.token_ids, prompt.params, request_id=request_id, priority=priority
        )
    except BaseException:
        if model.tracer is not None:
            model.tracer.refused(request_id)
        raise


async def finished_outputs(
    streams: Sequence[RequestStream], receive: Receive, time_limit: float | None
) -> list[RequestOutput]:
    """The final output of each stream.

    Raises:
        ClientDisconnected: the client went first; the requests are aborted.
        ApiError: 504 after `time_limit` seconds, or as `check_ended` says.
    """

    async def last(stream: RequestStream) -> RequestOutput:
        output = [output async for output in stream][-1]
        for choice in output.outputs:
            check_ended(choice)
        return output

    async def all_of_them() -> list[RequestOutput]:
        try:
            async with asyncio.timeout(time_limit):
                return [await last(stream) for stream in streams]
        except TimeoutError:
            raise timed_out(time_limit or 0.0) from None

    try:
        return await while_connected(receive, all_of_them())
    finally:
        for stream in streams:
            await stream.aclose()


def check_ended(choice: CompletionOutput) -> None:
    """Raise for an answer that the engine did not bring to its end."""
    if choice.finish_reason == "abort":
        raise unavailable(
            "The server shut down before the answer was finished.", code="shutting_down"
        )
    if choice.finish_reason == "error" and isinstance(choice.stop_reason, str):
        raise ApiError(
            400,
            f"The answer cannot be finished in the form that was asked for: {choice.stop_reason}",
            code="structured_output_failed",
        )
    if choice.finish_reason == "error":
        raise ApiError(
            500,
            "The model produced numbers that are not finite; this answer cannot be finished.",
            kind="server_error",
            code="non_finite_logits",
            headers={"x-should-retry": "false"},
        )


def wire_reason(reason: str | None) -> FinishReason:
    """The engine's finish reason of an answer that `check_ended` let pass."""
    return cast(FinishReason, reason)


class UsageCount:
    """Token counts of a request that may have several prompts and answers."""

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[int, int]] = {}
        self._completion_tokens = 0

    def add(self, prompt_index: int, output: RequestOutput) -> None:
        """Take in an output (of a stream: a delta)."""
        if prompt_index not in self._prompts:
            self._prompts[prompt_index] = (len(output.prompt_token_ids), output.num_cached_tokens)
        for choice in output.outputs:
            self._completion_tokens += len(choice.token_ids)

    def usage(self) -> Usage:
        prompt_tokens = sum(length for length, _ in self._prompts.values())
        cached_tokens = sum(cached for _, cached in self._prompts.values())
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=self._completion_tokens,
            total_tokens=prompt_tokens + self._completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=cached_tokens),
        )
