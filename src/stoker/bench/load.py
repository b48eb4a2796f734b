"""Sending requests to a server at a rate, and noting when each token comes back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import numpy as np

from stoker.bench.dataset import SampleRequest
from stoker.client import ApiClient, ServerUnreachable
from stoker.router.sse import EventReader
from stoker.router.upstream import ResponseHead, UpstreamFailure

Backend = Literal["openai", "openai-chat"]
ENDPOINTS: Mapping[Backend, str] = {
    "openai": "/v1/completions",
    "openai-chat": "/v1/chat/completions",
}


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """How requests are sent."""

    model: str
    backend: Backend = "openai"
    endpoint: str = ENDPOINTS["openai"]
    request_rate: float = math.inf
    """Requests per second; infinite: all at once."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the times between requests: 1 is a Poisson process,
    less comes in bursts, more is more even."""
    max_concurrency: int | None = None
    ignore_eos: bool = False
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


@dataclass(slots=True)
class Outcome:
    """What became of one request. Times in seconds; `start` by `time.perf_counter`."""

    prompt_len: int
    start: float = 0.0
    ttft: float = 0.0
    """Sent → first token."""
    itl: list[float] = field(default_factory=list)
    """Between one piece of the stream and the next."""
    latency: float = 0.0
    """Sent → last token."""
    output_len: int = 0
    text: str = ""
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.error is None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    role: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class TimedStream:
    """Takes in a streamed answer and notes the times, in the moment its bytes come."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._status = 0
        self._reader = EventReader()
        self._refusal = b""
        self._last = 0.0
        self._pieces: list[str] = []
        self._num_pieces = 0

    def on_answer(self, head: ResponseHead, body: bytes) -> None:
        self.on_head(head)
        self.on_body(body)
        self.on_end()

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status

    def on_body(self, chunk: bytes) -> None:
        now = time.perf_counter()
        if self._status != 200:
            self._refusal += chunk[: 4096 - len(self._refusal)]
            return
        for data in self._reader.feed(chunk):
            if data != b"[DONE]":
                self._take(data, now)

    def on_end(self) -> None:
        outcome = self.outcome
        outcome.text = "".join(self._pieces)
        if outcome.error is None and self._status != 200:
            reason = self._refusal.decode("utf-8", "replace").strip()
            outcome.error = f"status {self._status}: {reason}"
        elif outcome.error is None and not self._num_pieces:
            outcome.error = "the stream ended without a token"
        outcome.output_len = outcome.output_len or self._num_pieces
        if not self.ended.done():
            self.ended.set_result(None)

    def on_failed(self, failure: UpstreamFailure) -> None:
        self.outcome.error = self.outcome.error or str(failure)
        self.on_end()

    def _take(self, data: bytes, now: float) -> None:
        outcome = self.outcome
        try:
            chunk = _decode_chunk(data)
        except msgspec.DecodeError as error:
            outcome.error = f"an event is not what the API sends: {error}"
            return
        if chunk.error:
            outcome.error = f"error in the stream: {json.dumps(chunk.error, default=str)}"
            return
        if chunk.usage is not None:
            outcome.output_len = chunk.usage.completion_tokens or outcome.output_len
            outcome.prompt_len = chunk.usage.prompt_tokens or outcome.prompt_len
        if not chunk.choices:
            return
        piece = _piece(chunk.choices[0])
        if piece is None:
            return
        if not self._num_pieces:
            outcome.ttft = now - outcome.start
        else:
            outcome.itl.append(now - self._last)
        self._num_pieces += 1
        self._pieces.append(piece)
        self._last = now
        outcome.latency = now - outcome.start


def _piece(choice: _Choice) -> str | None:
    """The text that a chunk brings; None for one that opens or closes the stream only. A token
    may bring no text: half a character."""
    delta = choice.delta
    if delta is None:
        return choice.text if choice.text or choice.finish_reason is None else None
    text = delta.content or delta.reasoning_content or delta.reasoning
    if text or delta.tool_calls:
        return text or ""
    return "" if delta.role is None and choice.finish_reason is None else None


def arrival_times(number: int, config: LoadConfig) -> list[float]:
    """When each request is sent, in seconds from the first. The gaps follow a gamma distribution
    and are scaled so that the whole takes exactly as long as the rate says."""
    if math.isinf(config.request_rate):
        return [0.0] * number
    if math.isinf(config.burstiness):
        gaps = np.ones(number)
    else:
        gaps = np.random.default_rng(config.seed).gamma(config.burstiness, size=number)
    times = np.cumsum(gaps)
    scaled: list[float] = (times * (number / config.request_rate / times[-1])).tolist()
    return scaled


async def run_load(
    client: ApiClient,
    requests: Sequence[SampleRequest],
    config: LoadConfig,
    *,
    on_done: Callable[[Outcome], None] = lambda _: None,
) -> tuple[list[Outcome], float]:
    """Send the requests as `config` says. Returns what became of each, in their order, and the
    seconds the whole took."""
    gate = asyncio.Semaphore(config.max_concurrency or len(requests))
    bodies = [_body(request, config) for request in requests]
    begin = time.perf_counter()

    async def one(index: int, at: float) -> Outcome:
        wait = begin + at - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        async with gate:
            outcome = await send_one(client, requests[index], bodies[index], config.endpoint)
        on_done(outcome)
        return outcome

    times = arrival_times(len(requests), config)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(i, at)) for i, at in enumerate(times)]
    return [task.result() for task in tasks], time.perf_counter() - begin


async def send_one(
    client: ApiClient, request: SampleRequest, body: bytes, endpoint: str
) -> Outcome:
    """Send one request and wait for its end; what goes wrong is in the outcome."""
    outcome = Outcome(request.prompt_len)
    stream = TimedStream(outcome)
    outcome.start = time.perf_counter()
    try:
        connection = await client.send(endpoint, body, stream)
    except ServerUnreachable as error:
        outcome.error = str(error)
        return outcome
    try:
        await stream.ended
    except asyncio.CancelledError:
        connection.abort()
        raise
    return outcome


def _body(request: SampleRequest, config: LoadConfig) -> bytes:
    payload: dict[str, Any] = {
        "model": config.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if config.backend == "openai-chat":
        payload["messages"] = [{"role": "user", "content": request.prompt}]
        payload["max_completion_tokens"] = request.output_len
    else:
        payload["prompt"] = request.prompt
        payload["max_tokens"] = request.output_len
    if config.ignore_eos:
        payload["ignore_eos"] = True
    return json.dumps(payload | dict(config.extra_body)).encode()
