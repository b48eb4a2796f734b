"""The publisher over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from stoker.engine.kv_events import BlockStored
from stoker.errors import InvalidRequest
from stoker.telemetry.kv_events.config import KVEventsConfig
from stoker.telemetry.kv_events.publisher import KVEventPublisher
from stoker.telemetry.kv_events.wire import encode_batch

END = (-1).to_bytes(8, signed=True)
Publish = Callable[..., KVEventPublisher]


@pytest.fixture
def publish(tmp_path: Path) -> Iterator[Publish]:
    """Make publishers, with settings of their own; closed in the end."""
    with ExitStack() as stack:

        def make(**settings: object) -> KVEventPublisher:
            known = {
                "endpoint": f"ipc://{tmp_path}/events",
                "replay_endpoint": f"ipc://{tmp_path}/replay",
            }
            config = KVEventsConfig(True, "zmq", **{**known, **settings})  # type: ignore[arg-type]
            publisher = KVEventPublisher(config, clock=lambda: 7.0)
            stack.callback(publisher.close)
            return publisher

        yield make


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context
        context.destroy(linger=0)


def stored(number: int) -> list[BlockStored]:
    return [BlockStored((bytes([number]) * 32,), None, (number,), 1)]


def payload(number: int) -> bytes:
    return encode_batch(7.0, stored(number))


def replay(context: zmq.Context[zmq.Socket[bytes]], address: str | None, start: int) -> list[bytes]:
    """What is replayed from `start` on: number and payload, joined."""
    assert address is not None
    with context.socket(zmq.DEALER) as socket:
        socket.rcvtimeo = 30_000
        socket.connect(address)
        socket.send_multipart((b"", start.to_bytes(8)))
        found = []
        while (frames := socket.recv_multipart())[-2] != END:
            assert (frames[0], len(frames)) == (b"", 4)
            found.append(frames[-2] + frames[-1])
        assert frames == [b"", b"", END, b""]
        return found


def numbered(*numbers: int) -> list[bytes]:
    return [number.to_bytes(8) + payload(number) for number in numbers]


def test_batches_are_numbered_and_carry_the_topic(
    publish: Publish, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    publisher = publish(topic="kv")
    with context.socket(zmq.SUB) as socket:
        socket.rcvtimeo = 30_000
        socket.subscribe(b"kv")
        socket.connect(publisher.endpoint)
        number = 0
        while not socket.poll(10):  # until the subscription has arrived
            publisher.publish(stored(number))
            number += 1
        for last in (number, number + 1):
            publisher.publish(stored(last))
        topic, first, _ = socket.recv_multipart()
        assert topic == b"kv"
        for following in range(int.from_bytes(first) + 1, number + 2):
            assert socket.recv_multipart() == [b"kv", following.to_bytes(8), payload(following)]


def test_what_was_missed_is_replayed(
    publish: Publish, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    publisher = publish(buffer_steps=3)
    for number in range(5):
        publisher.publish(stored(number))
    while len(replay(context, publisher.replay_endpoint, 4)) < 1:
        pass  # the last one is on its way
    assert replay(context, publisher.replay_endpoint, 0) == numbered(2, 3, 4), "what is kept"
    assert replay(context, publisher.replay_endpoint, 3) == numbered(3, 4)
    assert replay(context, publisher.replay_endpoint, 9) == []


def test_nonsense_on_the_replay_socket_is_ignored(
    publish: Publish, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    publisher = publish()
    assert publisher.replay_endpoint is not None
    with context.socket(zmq.DEALER) as socket:
        socket.connect(publisher.replay_endpoint)
        for frames in ((b"",), (b"", b"x"), (b"a", bytes(8)), (b"", bytes(8), b"")):
            socket.send_multipart(frames)
        publisher.publish(stored(0))
        while not replay(context, publisher.replay_endpoint, 0):
            pass
        assert not socket.poll(0)


def test_what_does_not_fit_the_queue_leaves_a_gap(
    publish: Publish,
    context: zmq.Context[zmq.Socket[bytes]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = publish(max_queue_size=2)
    with monkeypatch.context() as held:
        held.setattr(publisher, "_wake", lambda: None)
        for number in range(4):
            publisher.publish(stored(number))
    assert "1 batches of KV events were lost" in caplog.text
    publisher._wake()
    while len(replay(context, publisher.replay_endpoint, 0)) < 2:
        pass
    publisher.publish(stored(4))
    while len(found := replay(context, publisher.replay_endpoint, 0)) < 3:
        pass
    assert found == numbered(0, 1, 4)


def test_an_address_that_cannot_be_had_is_named(publish: Publish) -> None:
    with pytest.raises(InvalidRequest, match="endpoint 'ipc:///no/such/directory/x'"):
        publish(endpoint="ipc:///no/such/directory/x")
    with pytest.raises(InvalidRequest, match=r"replay_endpoint .* cannot be used"):
        publish(endpoint="tcp://*:0", replay_endpoint="ipc:///no/such/directory/x")


def test_a_port_of_0_takes_a_free_one(publish: Publish) -> None:
    publisher = publish(endpoint="tcp://*:0", replay_endpoint="tcp://127.0.0.1:0")
    assert publisher.replay_endpoint is not None
    for address in (publisher.endpoint, publisher.replay_endpoint):
        assert int(address.rpartition(":")[2]) > 0


def test_an_address_without_a_wildcard_is_connected_to(
    publish: Publish, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with context.socket(zmq.SUB) as hub:
        hub.rcvtimeo = 30_000
        hub.subscribe(b"")
        port = hub.bind_to_random_port("tcp://127.0.0.1")
        publisher = publish(endpoint=f"tcp://127.0.0.1:{port}")
        number = 0
        while not hub.poll(10):
            publisher.publish(stored(number))
            number += 1
        _, found, sent = hub.recv_multipart()
        assert sent == payload(int.from_bytes(found))
