"""Clients that do not read what they asked for."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import Receive, Scope, Send

from stoker.server.listen import bind
from stoker.server.protocol import protocol_with

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
def serving(app: Endless, seconds: float) -> Iterator[socket.socket]:
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
