"""Clients that do not read what they asked for, and streams written past ASGI."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from stoker.api.sse import DONE, event
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import RequestOutputKind, SamplingParams
from stoker.listen import bind
from stoker.server.protocol import BodyWriter, body_writer, protocol_with
from stoker.server.stream import Encoder, EventStream
from tests.server.doubles import letter_model

CHUNK = bytes(1 << 16)
MANY = 1000
"""Chunks: more than any socket's buffers."""


class Endless:
    """An application that writes much, and says how that ended."""

    def __init__(self) -> None:
        self.sent = 0
        self.left = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(MANY):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            self.sent += 1
        await send({"type": "http.response.body", "body": b""})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


@contextmanager
def serving(app: ASGIApp, seconds: float) -> Iterator[socket.socket]:
    """A connection on which a request has been made."""
    listener = bind("127.0.0.1", 0)
    listener.listen()
    config = uvicorn.Config(
        app, http=protocol_with(seconds), lifespan="off", log_config=None, log_level="critical"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def read_all(client: socket.socket) -> int:
    total = 0
    try:
        while data := client.recv(1 << 16):
            total += len(data)
    except ConnectionResetError:
        pass
    return total


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    app = Endless()
    with serving(app, 0.1) as client:
        assert app.left.wait(60), "the application was told that the client has gone"
        assert read_all(client) < MANY * len(CHUNK)


def test_a_client_that_reads_gets_everything() -> None:
    app = Endless()
    with serving(app, 30) as client:
        assert read_all(client) > MANY * len(CHUNK)
    assert app.sent == MANY


class Padded(Encoder):
    """Events of many bytes, each with the tokens of one output."""

    def __init__(self) -> None:
        self.outputs = 0

    def encode(self, prompt_index: int, output: RequestOutput) -> bytes:
        self.outputs += 1
        ids = output.outputs[0].token_ids
        return event(json.dumps({"ids": ids, "padding": "x" * len(CHUNK)}).encode())

    def end(self) -> bytes:
        return DONE


class Streaming:
    """An application that streams an answer of letters, and says when it has been made."""

    def __init__(self, params: SamplingParams, read_after: int) -> None:
        self.params = params
        self.read_after = read_after
        self.encoder = Padded()
        self.unread = threading.Event()
        """The client's buffers are full, and so many tokens were made since."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        model = letter_model()
        try:
            await receive()
            engine = model.engine
            engine.engine.step_listener = lambda _: self._note(engine.engine.stats().steps)
            stream = engine.generate([97] * 5, self.params, request_id="a")
            scope["state"] = {"send": send, "request_id": "a"}
            answer = EventStream([stream], self.encoder, keep_alive_interval=60, timeout=60)
            await answer(scope, receive, send)
        finally:
            await model.engine.shutdown()

    def _note(self, steps: int) -> None:
        if steps >= self.read_after:
            self.unread.set()


def body_of(response: bytes) -> bytes:
    """The body of a response in chunks, which must end as such a body does."""
    head, _, rest = response.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        body += rest[:length]
        assert rest[length : length + 2] == b"\r\n"
        rest = rest[length + 2 :]
        if length == 0:
            assert rest == b""
            return body


def test_a_stream_keeps_its_order_when_its_client_stops_reading_for_a_while() -> None:
    tokens = 400  # of 64 KiB: far more than the buffers hold
    params = SamplingParams(
        temperature=0, ignore_eos=True, max_tokens=tokens, output_kind=RequestOutputKind.DELTA
    )
    app = Streaming(params, read_after=tokens)
    response = b""
    with serving(app, 60) as client:
        assert app.unread.wait(60)
        while data := client.recv(1 << 16):
            response += data
    *events, end, rest = body_of(response).split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    ids = [token for data in events for token in json.loads(data[6:])["ids"]]
    # Some were written as they came, and what came while nobody read in one piece.
    assert 1 < app.encoder.outputs == len(events) < tokens
    assert ids == answer_of(params)


def answer_of(params: SamplingParams) -> list[int]:
    model = letter_model()
    engine = model.engine.engine
    try:
        engine.submit("a", [97] * 5, params)
        outputs = []
        while engine.has_unfinished:
            outputs += engine.step()
        return [token for output in outputs for token in output.outputs[0].token_ids]
    finally:
        engine.close()


class Cycle:
    """The state of a response."""

    class Flow:
        write_paused = False

    class Transport:
        def __init__(self) -> None:
            self.written = b""

        def write(self, data: bytes) -> None:
            self.written += data

    def __init__(self) -> None:
        self.flow = self.Flow()
        self.transport = self.Transport()
        self.chunked_encoding: bool | None = True
        self.disconnected = False
        self.response_complete = False


def test_pieces_are_chunks_and_only_for_who_listens() -> None:
    cycle = Cycle()
    writer = BodyWriter(cycle)  # type: ignore[arg-type]
    assert writer.is_ready()
    writer.write(b"x" * 17)
    writer.write(b"yz")
    assert cycle.transport.written == b"11\r\n" + b"x" * 17 + b"\r\n2\r\nyz\r\n"
    cycle.flow.write_paused = True
    assert not writer.is_ready()
    cycle.flow.write_paused = False
    cycle.disconnected = True
    assert not writer.is_ready()
    cycle.disconnected, cycle.response_complete = False, True
    assert not writer.is_ready()
    cycle.response_complete, cycle.chunked_encoding = False, None
    assert not writer.is_ready()
    assert body_writer({"type": "http"}) is None
