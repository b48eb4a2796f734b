"""A real server on a loopback port, in a thread of its own, for the openai SDK to talk to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import openai
import pytest
import uvicorn

from stoker.listen import bind
from stoker.server.app import LoadModel, create_app
from stoker.server.config import ServerConfig
from stoker.server.keys import KeyRing
from stoker.server.protocol import protocol_with
from stoker.server.state import ServedModel, ServerState
from tests.server.doubles import letter_model


@dataclass(frozen=True)
class RunningServer:
    """A server and ways to ask it."""

    url: str
    state: ServerState
    client: openai.OpenAI

    @property
    def model(self) -> ServedModel:
        assert self.state.model is not None
        return self.state.model

    def post(self, path: str, **arguments: object) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, **arguments)  # type: ignore[arg-type]

    def get(self, path: str, **arguments: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **arguments)  # type: ignore[arg-type]

    def blocks_in_use(self) -> int:
        return self.model.engine.stats().num_used_blocks

    def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait for what must come true soon; fail if it does not."""
        deadline = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline, "waited 10 s"
            time.sleep(0.005)


@contextmanager
def running(
    load: LoadModel = letter_model,
    config: ServerConfig | None = None,
    *,
    keys: KeyRing | None = None,
    wait: bool = True,
) -> Iterator[RunningServer]:
    """Serve what `load` brings; `wait` for it to be loaded."""
    app = create_app(config or ServerConfig(served_names=("letters",)), keys or KeyRing(), load)
    listener = bind("127.0.0.1", 0)
    http = protocol_with(app.state.server.config.write_timeout)
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            found = RunningServer(url, app.state.server, client)
            if wait:
                found.wait_until(found.state.loaded.is_set)
            yield found
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One server for a module; its blocks must all be back in the end."""
    with running() as found:
        yield found
        found.wait_until(lambda: found.blocks_in_use() == 0)


@pytest.fixture
def start() -> Iterator[Callable[..., RunningServer]]:
    """Start servers with settings of their own."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(running(*args, **kwargs))
