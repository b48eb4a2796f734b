"""Sends batches of KV events to whoever listens, and past ones to whoever missed them.

A message is three frames: topic, sequence number (8 bytes, big endian), payload. A request for
replay is one frame, the number to start from; the answers are messages with an empty frame before
them, ended by one numbered -1. As vLLM's `ZmqEventPublisher`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import zmq

from stoker.engine.kv_events import KVEvent
from stoker.errors import InvalidRequest
from stoker.telemetry.kv_events.config import KVEventsConfig
from stoker.telemetry.kv_events.wire import encode_batch

log = logging.getLogger(__name__)

_END = (-1).to_bytes(8, "big", signed=True)
_LAST_WORDS_MS = 1000
"""How long the last batches may take to leave when the publisher is closed."""


class KVEventPublisher:
    """A PUB socket, a ROUTER socket for replay, and the one thread that uses them.

    Batches are numbered as they are published. One that is lost, here or on the way, leaves a gap
    in the numbers by which a subscriber notices.
    """

    def __init__(self, config: KVEventsConfig, clock: Callable[[], float] = time.time) -> None:
        """Raises `InvalidRequest` when an address cannot be had."""
        self._clock = clock
        self._topic = config.topic.encode()
        self._max_queue_size = config.max_queue_size
        self._queue: deque[tuple[int, float, Sequence[KVEvent]]] = deque()
        self._kept: deque[tuple[int, bytes]] = deque(maxlen=config.buffer_steps)
        self._next = 0
        self._lost = 0
        self._closed = False
        self._context = zmq.Context()
        try:
            self._pub = self._context.socket(zmq.PUB)
            self._pub.set_hwm(config.hwm)
            self.endpoint = _attach(self._pub, "endpoint", config.endpoint)
            """Where events are published; with a port of 0, the one that was taken."""
            self._replay: zmq.Socket[bytes] | None = None
            self.replay_endpoint: str | None = None
            if config.replay_endpoint is not None:
                self._replay = self._context.socket(zmq.ROUTER)
                # A replay is at most what is kept, and all of it is to arrive.
                self._replay.sndhwm = config.buffer_steps + 1
                self.replay_endpoint = _attach(
                    self._replay, "replay_endpoint", config.replay_endpoint, always_bind=True
                )
        except InvalidRequest:
            self._context.destroy(linger=0)
            raise
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_in, False)
        self._thread = threading.Thread(target=self._run, name="stoker-kv-events", daemon=True)
        self._thread.start()
        log.info("KV events are published on %s", self.endpoint)

    def publish(self, events: Sequence[KVEvent]) -> None:
        """Send the events of a step as one batch. Returns at once; called by one thread."""
        number = self._next
        self._next += 1
        if len(self._queue) >= self._max_queue_size:
            self._lost += 1
            if self._lost.bit_count() == 1:  # the first, and then more and more seldom
                log.warning("%d batches of KV events were lost: too many wait", self._lost)
            return
        self._queue.append((number, self._clock(), events))
        self._wake()

    def close(self) -> None:
        """Send what is queued, and free the addresses. No `publish` may follow."""
        self._closed = True
        self._wake()
        self._thread.join()
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._context.destroy(linger=_LAST_WORDS_MS)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_in, b"\0")

    # ── the publisher's thread ──────────────────────────────────────────────────────────────

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_out, zmq.POLLIN)
        if self._replay is not None:
            poller.register(self._replay, zmq.POLLIN)
        while not self._closed:
            ready = dict(poller.poll())
            if self._wake_out in ready:
                os.read(self._wake_out, 1 << 16)
                self._send_queued()
            if self._replay is not None and self._replay in ready:
                self._answer(self._replay)
        self._send_queued()

    def _send_queued(self) -> None:
        while self._queue:
            number, timestamp, events = self._queue.popleft()
            payload = encode_batch(timestamp, events)
            self._pub.send_multipart((self._topic, number.to_bytes(8), payload))
            self._kept.append((number, payload))

    def _answer(self, replay: zmq.Socket[bytes]) -> None:
        match replay.recv_multipart():
            case [client, b"", start] if len(start) == 8:
                first = int.from_bytes(start)
            case _:
                log.debug("a request for replay was not an empty frame and 8 bytes")
                return
        for number, payload in self._kept:
            if number >= first:
                frames = (client, b"", self._topic, number.to_bytes(8), payload)
                replay.send_multipart(frames)
        replay.send_multipart((client, b"", b"", _END, b""))


def _attach(
    socket: zmq.Socket[bytes], field: str, address: str, *, always_bind: bool = False
) -> str:
    """Bind or connect; the address as it is then."""
    binds = always_bind or "*" in address or "::" in address or not address.startswith("tcp://")
    try:
        if not binds:
            socket.connect(address)
            return address
        socket.bind(address)
    except zmq.ZMQError as error:
        raise InvalidRequest(
            f"--kv-events-config: {field} {address!r} cannot be used: {error.strerror}. Choose "
            "another port, or an address of this machine",
            param="kv_events_config",
        ) from None
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
