"""The XGEN service: one plain prompt in, one plain text out, whichever engine answers.

`POST /generate`, `POST /generate/stream` (server-sent events `{"token": …}`, then
`{"done": true}`, or `{"error": …}`) and `GET /models/status`, over the same exchanges as
everything else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from stoker.api.errors import ApiError, bad_request
from stoker.router.dispatcher import Dispatcher
from stoker.router.engines.handle import EngineHandle, EngineModel
from stoker.router.engines.load import EngineLoad
from stoker.router.exchange import Exchange
from stoker.router.parse import parse_body
from stoker.router.request import Request
from stoker.router.responder import Responder
from stoker.router.sse import EventReader
from stoker.router.usage import read_usage
from stoker.router.wire import JSON, Headers

PATHS = frozenset((b"/generate", b"/generate/stream"))
_EVENT_STREAM = (b"content-type", b"text/event-stream")


class GenerateRequest(BaseModel):
    """What `/generate` takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] = 1024
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    backend: Literal["auto", "vllm", "llama_cpp", "native", "openai"] = "auto"
    stream: bool = False
    urgency: Literal["high", "normal", "low"] = "normal"
    model: str | None = None
    stop: list[str] | None = None
    seed: int | None = None


def generate(request: Request, responder: Responder, dispatcher: Dispatcher) -> Exchange | None:
    """Answer a request for one of `PATHS`. Raises `ApiError` when it is not one."""
    asked = parse_body(request.body, GenerateRequest)
    if request.path == b"/generate/stream" and not asked.stream:
        raise bad_request("/generate/stream needs `stream: true`.", param="stream")
    body = asked.model_dump(exclude={"backend", "urgency"}, exclude_none=True)
    if asked.stream:
        body["stream_options"] = {"include_usage": True}
    own = [
        (b"content-type", b"application/json"),
        (b"x-stoker-backend", asked.backend.encode()),
        (b"x-stoker-urgency", asked.urgency.encode()),
    ]
    names = {name for name, _ in own}
    kept = [field for field in request.headers if field[0] not in names]
    completion = Request(b"POST", b"/v1/completions", own + kept, msgspec.json.encode(body))
    completion.id = request.id
    translator = _Stream(responder) if asked.stream else _Whole(responder, dispatcher)
    return dispatcher.submit(completion, translator)


def status(dispatcher: Dispatcher) -> bytes:
    """The body of `GET /models/status`: every kind of engine, then every engine."""
    engines = list(dispatcher.fleet.engines.values())
    now = dispatcher.loop.time()
    kinds: dict[str, dict[str, Any]] = {}
    for kind in ("vllm", "llama_cpp", "native", "openai"):
        own = [engine for engine in engines if engine.kind == kind]
        usable = [engine for engine in own if engine.usable(now)]
        if own or kind in ("vllm", "llama_cpp"):
            engines_of_kind = {one.name: _engine_status(dispatcher, one) for one in own}
            shown = engines_of_kind[usable[0].name] if usable else {}
            kinds[kind] = {
                "available": bool(usable),
                "load": min((engine.busy for engine in usable), default=0.0),
                "memory_stats": shown.get("memory_stats"),
                "model_info": shown.get("model_info"),
                "engines": engines_of_kind,
            }
    return msgspec.json.encode({"timestamp": datetime.now(UTC).isoformat(), **kinds})


def _engine_status(dispatcher: Dispatcher, engine: EngineHandle) -> dict[str, Any]:
    memory = dispatcher.memory_of(engine.name)
    return {
        "available": engine.usable(dispatcher.loop.time()),
        "load": engine.busy,
        "in_flight": engine.in_flight,
        "capacity": engine.capacity,
        "tokens_per_second": engine.meter.tokens_per_s,
        "memory_stats": _memory_stats(engine.load, memory),
        "model_info": {name: _model_info(model) for name, model in engine.models.items()},
    }


def _memory_stats(load: EngineLoad | None, memory: int | None) -> dict[str, Any] | None:
    """`memory`: bytes that the engine's processes have; else what the engine says itself."""
    if load is not None and memory is None:
        memory = load.memory_bytes
    if load is None and memory is None:
        return None
    return {
        "kv_cache_usage": load and load.kv_usage,
        "num_blocks": load and load.num_blocks,
        "block_size": load and load.block_size,
        "allocated_gb": _gb(memory),
        "cached_gb": _gb(None if load is None else load.kv_bytes),
        "running": load and load.running,
        "waiting": load and load.waiting,
    }


def _model_info(model: EngineModel) -> dict[str, Any]:
    return {
        "own_name": model.own_name,
        "context": model.max_model_len,
        "vocabulary": model.vocabulary,
        "embedding_size": model.embedding_size,
        "layers": model.layers,
        "size_gb": _gb(model.size_bytes),
    }


def _gb(nbytes: int | None) -> float | None:
    return None if nbytes is None else round(nbytes / 1e9, 3)


class _Choice(msgspec.Struct):
    text: str = ""
    finish_reason: str | None = None


class _Problem(msgspec.Struct):
    message: str = "the engine failed"


class _Completion(msgspec.Struct):
    """A completion, or a piece of one, or an error in its place."""

    choices: list[_Choice] = []
    model: str | None = None
    error: _Problem | None = None


_decoder = msgspec.json.Decoder(_Completion)


class _Whole:
    """Turns a completion into XGEN's answer; errors pass as they are."""

    def __init__(self, responder: Responder, dispatcher: Dispatcher) -> None:
        self._responder = responder
        self._dispatcher = dispatcher
        self._began = monotonic()
        self._held: list[bytes] = []
        self._head: tuple[int, Headers] = (200, ())

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        if status != 200:
            self._responder.respond(status, headers, body)
            return
        try:
            completion = _decoder.decode(body)
            text = completion.choices[0].text
        except (msgspec.MsgspecError, UnicodeDecodeError, IndexError):
            error = ApiError(502, "The engine's answer is not a completion.", kind="server_error")
            self._responder.respond(error.status, headers, error.body())
            return
        seconds = monotonic() - self._began
        usage = read_usage(body)
        tokens = usage.completion_tokens if usage is not None else None
        name = dict(headers)[b"x-stoker-engine"].decode()
        answer = {
            "text": text,
            "backend_used": self._dispatcher.fleet.engines[name].kind,
            "generation_time": seconds,
            "tokens_per_second": tokens / seconds if tokens and seconds > 0 else None,
            "engine": name,
            "model": completion.model,
            "finish_reason": completion.choices[0].finish_reason,
            "prompt_tokens": usage.prompt_tokens if usage is not None else None,
            "completion_tokens": tokens,
        }
        own = [JSON, *(field for field in headers if field[0].startswith(b"x-"))]
        self._responder.respond(200, own, msgspec.json.encode(answer))

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        self._head = (status, headers)

    def write(self, chunk: bytes) -> None:
        self._held.append(chunk)

    def finish(self) -> None:
        self.respond(*self._head, b"".join(self._held))

    def broken(self, message: str, *, event_stream: bool) -> None:
        error = ApiError(502, message, kind="server_error", code="engine_failed")
        self._responder.respond(error.status, [JSON, *self._head[1]], error.body())


class _Stream:
    """Turns a completion's event stream into XGEN's."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._events = EventReader()
        self._failed = False

    def respond(self, status: int, headers: Headers, body: bytes) -> None:
        self._responder.respond(status, headers, body)

    def start(self, status: int, headers: Headers, length: int | None) -> None:
        own = [field for field in headers if field[0].startswith(b"x-")]
        self._responder.start(status, [_EVENT_STREAM, *own], None)

    def write(self, chunk: bytes) -> None:
        out = []
        for data in self._events.feed(chunk):
            if data == b"[DONE]" or self._failed:
                continue
            try:
                piece = _decoder.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self._failed = True
                out.append(_event({"error": "The engine sent an event that is not JSON."}))
                continue
            if piece.error is not None:
                self._failed = True
                out.append(_event({"error": piece.error.message}))
            elif piece.choices and piece.choices[0].text:
                out.append(_event({"token": piece.choices[0].text}))
        if out:
            self._responder.write(b"".join(out))

    def finish(self) -> None:
        if not self._failed:
            self._responder.write(_event({"done": True}))
        self._responder.finish()

    def broken(self, message: str, *, event_stream: bool) -> None:
        self._responder.write(_event({"error": message}))
        self._responder.finish()


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % msgspec.json.encode(value)
