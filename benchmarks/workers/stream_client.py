"""Reads many streams at once, as cheaply as Python can: for measuring a server, not a client.

One process, raw sockets, one `epoll`. A line of JSON on standard input asks for a load
(`{"port", "streams", "prompt", "tokens", "seed"}`), a line on standard output tells what came of
it: seconds from the first request sent to the last stream's end, tokens (as each stream's usage
says), events, and processor seconds of this process.
"""

from __future__ import annotations

import json
import random
import resource
import select
import socket
import sys
import time

_PAUSE_S = 0.002
"""Between being woken and reading: a client elsewhere would not wake a processor of this machine
for every packet either."""
_EVENT = b'"choices":[{'
"""In each event that carries text or the end, and in no other."""
_USAGE = b'"completion_tokens":'


def prompts_of(streams: int, length: int, seed: int) -> list[list[int]]:
    """The random prompts that `llm_worker.py` makes of the same seed."""
    rng = random.Random(seed)
    return [[rng.randrange(100, 40_000) for _ in range(length)] for _ in range(streams)]


def request_bytes(prompt: list[int], tokens: int) -> bytes:
    body = json.dumps(
        {
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: stoker\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def read_streams(port: int, streams: int, prompt: int, tokens: int, seed: int) -> dict[str, float]:
    """Send all requests at once and read every stream to its end."""
    requests = [request_bytes(ids, tokens) for ids in prompts_of(streams, prompt, seed)]
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    received: dict[int, list[bytes]] = {}
    for _ in requests:
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[connection.fileno()] = connection
        received[connection.fileno()] = []
        poll.register(connection, select.EPOLLIN)
    cpu, began = _cpu(), time.perf_counter()
    for connection, request in zip(sockets.values(), requests, strict=True):
        connection.sendall(request)
    open_streams = streams
    while open_streams:
        ready = poll.poll(60)
        if not ready:
            raise RuntimeError("no stream said anything for a minute")
        time.sleep(_PAUSE_S)  # the rest of the step's events are on their way
        for fd, _ in poll.poll(0):
            data = sockets[fd].recv(65536)
            received[fd].append(data)
            if data.endswith(b"0\r\n\r\n") or not data:
                poll.unregister(fd)
                open_streams -= 1
    seconds, used = time.perf_counter() - began, _cpu() - cpu
    answers = [b"".join(parts) for parts in received.values()]
    for connection in sockets.values():
        connection.close()
    for answer in answers:
        if b"data: [DONE]" not in answer or not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"a stream did not end well: {answer[:200]!r} … {answer[-200:]!r}")
    counts = [int(a.rsplit(_USAGE, 1)[1].split(b",", 1)[0]) for a in answers]
    return {
        "seconds": seconds,
        "cpu_s": used,
        "tokens": sum(counts),
        "events": sum(answer.count(_EVENT) for answer in answers),
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    for line in sys.stdin:
        print(json.dumps(read_streams(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
