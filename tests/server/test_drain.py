"""SIGTERM: what is in flight finishes, nothing new begins, and the process ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import openai
import pytest

from stoker.listen import AddressInUse, bind

TOKENS = 60


@contextmanager
def server(*, delay: float, drain: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.letter_process", str(delay), str(drain)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.stderr.read() if process.stderr else ""
        yield url, process
    finally:
        process.kill()
        process.communicate()


def begin(client: openai.OpenAI) -> tuple[openai.Stream[openai.types.Completion], str]:
    """A stream of `TOKENS` letters, and the first of them."""
    stream = client.completions.create(
        model="letters",
        prompt="Once",
        max_tokens=TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True, "logit_bias": {}},
        stream=True,
    )
    return stream, next(stream).choices[0].text


def test_the_first_signal_lets_streams_finish_and_refuses_new_work() -> None:
    with (
        server(delay=0.02, drain=30) as (url, process),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream, _ = begin(client)
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 5
        while (health := httpx.get(f"{url}/health")).status_code == 200:
            assert time.monotonic() < deadline
        assert health.json()["error"]["code"] == "shutting_down"
        refused = httpx.post(f"{url}/v1/completions", json={"prompt": "x"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        last = None
        for chunk in stream:
            last = chunk.choices[0].finish_reason
        assert last == "length"
        assert process.wait(10) == 0


@pytest.mark.parametrize(("drain", "signals"), [(0.2, 1), (60, 2)])
def test_after_the_limit_or_a_second_signal_streams_end_with_an_error(
    drain: float, signals: int
) -> None:
    with (
        server(delay=0.5, drain=drain) as (url, process),
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        stream, _ = begin(client)
        for _ in range(signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        with pytest.raises(openai.APIError, match="shut down"):
            list(stream)
        assert process.wait(10) == 0


def test_an_idle_server_ends_at_once_on_ctrl_c_without_a_traceback() -> None:
    with server(delay=0, drain=60) as (_, process):
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port}.*--port"):
            bind("127.0.0.1", port)
    with pytest.raises(AddressInUse, match="65535"):
        bind("127.0.0.1", 70000)
