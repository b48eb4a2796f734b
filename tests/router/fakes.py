"""Engines that answer as told, well or badly, over real sockets; and a router before them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import httpx
import openai

from stoker.router.configfile import parse_config
from stoker.router.engines.handle import EngineHandle
from stoker.router.server import RouterServer

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Seen:
    """A request as it reached an engine. Field names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FakeEngine:
    """An HTTP server on loopback that looks like an engine.

    `script` holds how to answer the next requests to `/v1/…`, one entry each; after that they
    are answered well. Probes (GET) are always answered, as `healthy` says.
    """

    def __init__(
        self, name: str, *, models: tuple[str, ...] = ("m",), kind: str = "native"
    ) -> None:
        self.name = name
        self.models = models
        self.kind = kind
        self.healthy = True
        self.metrics = ""
        self.meta: dict[str, int] = {}
        """What llama.cpp tells of a model."""
        self.script: deque[Behaviour] = deque()
        self.default: Behaviour = answer
        self.seen: list[Seen] = []
        self.in_flight = 0
        self.cancelled = 0
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._killed = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Listen; on the same port as before if it was started before."""
        self._killed = False
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, limit=1 << 20
        )
        self._port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """As kill -9: stop listening and reset every connection."""
        self._killed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.kill()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        self.connections += 1
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except (asyncio.CancelledError, RuntimeError):  # uvloop's word for a dead transport
            if not self._killed:
                raise
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.strip().split("\r\n")
        method, target, _ = request_line.split(" ")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if method == "GET" and target in ("/health", "/v1/models", "/metrics"):
            await self._answer_probe(target, writer)
            return headers.get("connection") != "close"
        if target == "/tokenize":
            return await self._tokenize(json.loads(body), writer)
        seen = Seen(method, target, headers, body)
        self.seen.append(seen)
        behaviour = self.script.popleft() if self.script else self.default
        self.in_flight += 1
        work = asyncio.ensure_future(behaviour(self, seen, writer))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.cancelled += 1
                return False
            return work.result()
        finally:
            self.in_flight -= 1
            for one in (work, gone):
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await one

    async def _tokenize(self, asked: Any, writer: asyncio.StreamWriter) -> bool:
        """A token for each character."""
        texts = [message["content"] for message in asked.get("messages", [])]
        tokens = [ord(c) for c in "".join(texts) or asked["prompt"]]
        return await reply(writer, 200, json.dumps({"tokens": tokens}).encode())

    async def _answer_probe(self, target: str, writer: asyncio.StreamWriter) -> None:
        if not self.healthy:
            await reply(writer, 503, b"{}")
        elif target == "/v1/models":
            length = {"meta": self.meta} if self.meta else {"max_model_len": 8192}
            cards = [{"id": name, "object": "model", **length} for name in self.models]
            await reply(writer, 200, json.dumps({"object": "list", "data": cards}).encode())
        elif target == "/metrics":
            await reply(writer, 200, self.metrics.encode(), {"content-type": "text/plain"})
        else:
            await reply(writer, 200, b"{}")


# How an engine answers one request. Returns whether the connection may be used again.
Behaviour = Callable[[FakeEngine, Seen, asyncio.StreamWriter], Awaitable[bool]]


async def reply(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: dict[str, str] | None = None,
) -> bool:
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    fields |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
    await writer.drain()
    return True


def completion(text: str, model: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def chunk(text: str, model: str = "m") -> bytes:
    data = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}],
    }
    return f"data: {json.dumps(data)}\n\n".encode()


async def start_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        b"transfer-encoding: chunked\r\n\r\n"
    )
    await writer.drain()


async def stream_piece(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def answer(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A good answer that names the engine; streamed when asked for, one word a chunk."""
    request = seen.json if seen.body else {}
    text = f"engine {engine.name} here"
    if not request.get("stream"):
        body = json.dumps(completion(text, request.get("model", ""))).encode()
        return await reply(writer, 200, body)
    await start_stream(writer)
    for word in text.split():
        await stream_piece(writer, chunk(word))
        await asyncio.sleep(0)
    await stream_piece(writer, b"data: [DONE]\n\n")
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def status(code: int, headers: dict[str, str] | None = None) -> Behaviour:
    """An error of the engine's own."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        body = json.dumps({"error": {"message": f"fake {code}", "type": "fake"}}).encode()
        return await reply(writer, code, body, headers)

    return behave


async def hang(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """No answer, for as long as the other side waits."""
    await asyncio.Event().wait()
    return False


async def close_at_once(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    return False


async def garbage(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"\x00\x01 this is not HTTP \xff\r\n\r\n")
    await writer.drain()
    return False


async def close_in_body(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """Half of a whole answer, then the end."""
    writer.write(
        b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"a":'
    )
    await writer.drain()
    return False


async def close_after_head(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A stream that ends before its first event."""
    await start_stream(writer)
    return False


async def close_in_event(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A stream that ends in the middle of its first event."""
    await start_stream(writer)
    for half in (chunk("begun")[:10], chunk("begun")[10:-2]):
        await stream_piece(writer, half)
        await asyncio.sleep(0.02)
    return False


async def close_in_stream(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A stream that breaks off after its first event."""
    await start_stream(writer)
    await stream_piece(writer, chunk("begun"))
    await asyncio.sleep(0.02)
    return False


async def hang_in_stream(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
    """A stream that says no more after its first event."""
    await start_stream(writer)
    await stream_piece(writer, chunk("begun"))
    return await hang(engine, seen, writer)


def after(event: asyncio.Event) -> Behaviour:
    """A good answer, once `event` is set."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await event.wait()
        return await answer(engine, seen, writer)

    return behave


def slow(seconds: float) -> Behaviour:
    """A good answer, late."""

    async def behave(engine: FakeEngine, seen: Seen, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(seconds)
        return await answer(engine, seen, writer)

    return behave


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `condition` holds. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event)
            await asyncio.sleep(0.005)


class Fleet:
    """Fake engines and a real router in front of them, in one event loop."""

    def __init__(self, *engines: FakeEngine, **settings: Any) -> None:
        self.engines = engines
        self.engine_settings = settings.pop("engine_settings", {})
        self.settings = settings
        self._directory = TemporaryDirectory(prefix="stoker-router-")
        self._server: RouterServer | None = None

    @property
    def server(self) -> RouterServer:
        assert self._server is not None
        return self._server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def handle(self, name: str) -> EngineHandle:
        return self.server.dispatcher.fleet.engines[name]

    def in_flight(self) -> dict[str, int]:
        """The router's own counts, by engine."""
        return {
            name: engine.in_flight for name, engine in self.server.dispatcher.fleet.engines.items()
        }

    async def settled(self) -> None:
        """Wait until nothing is under way in router and engines."""
        await until(
            lambda: not self.server.dispatcher.active and not any(e.in_flight for e in self.engines)
        )

    async def __aenter__(self) -> Self:
        for engine in self.engines:
            await engine.start()
        settings = {
            "router": {"port": 0, "drain": 2, "policy": "least_in_flight"},
            "health": {"interval": 0.25, "timeout": 0.5},
            "retries": {"backoff": 0.005},
            "storage": {"url": f"sqlite:///{self._directory.name}/router.db"},
            **self.settings,
            "engines": [
                {
                    "name": engine.name,
                    "kind": engine.kind,
                    "url": engine.url,
                    **self.engine_settings.get(engine.name, {}),
                }
                for engine in self.engines
            ],
        }
        self._server = RouterServer(parse_config(json.dumps(settings), environment={}))
        await self._server.start()
        return self

    @cached_property
    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=20)

    @cached_property
    def sdk(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="k", max_retries=0)

    async def post(self, body: Any = None, **headers: str) -> httpx.Response:
        """A chat completion, asked for without the SDK's ways."""
        body = CHAT if body is None else body
        return await self.client.post("/v1/chat/completions", json=body, headers=headers)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if "client" in self.__dict__:
            await self.client.aclose()
        if "sdk" in self.__dict__:
            await self.sdk.close()
        await self.server.stop()
        for engine in self.engines:
            await engine.kill()
        self._directory.cleanup()
