"""Where a command's answers come from: a server somewhere, or a model loaded for it alone."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from stoker.errors import StokerError

Url = Annotated[
    str | None,
    typer.Option(
        envvar="STOKER_URL",
        show_envvar=True,
        help="Ask this server; without it the model is loaded here.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option(envvar="OPENAI_API_KEY", show_envvar=True, help="The server's key.")
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="A model here (smollm2 …), or one that the server serves (its first)."
    ),
]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server to ask, and the name it knows its model by."""

    url: str
    api_key: str | None
    model: str


@contextmanager
def open_endpoint(url: str | None, api_key: str | None, model: str | None) -> Iterator[Endpoint]:
    """The server at `url`; without one, `model` served within this process on a port of its own,
    which only this command has the key to.

    Raises `StokerError` when there is no such server, or the model cannot be had.
    """
    if url is not None:
        yield Endpoint(url, api_key, model or _first_model(url, api_key))
        return
    with _served_here(model or "smollm2") as endpoint:
        yield endpoint


def _first_model(url: str, api_key: str | None) -> str:
    import asyncio

    from stoker.client import ApiClient

    async def ask() -> object:
        async with ApiClient(url, api_key=api_key) as client:
            return (await client.get("/v1/models")).raise_for_status().json()

    try:
        return str(asyncio.run(ask())["data"][0]["id"])  # type: ignore[index]
    except (LookupError, TypeError):
        raise StokerError(f"{url} lists no model; name one with --model") from None


@contextmanager
def _served_here(model: str) -> Iterator[Endpoint]:
    import uvicorn

    from stoker.engine.config import EngineConfig
    from stoker.listen import bind
    from stoker.model.store import resolve
    from stoker.server.app import create_app
    from stoker.server.config import ServerConfig
    from stoker.server.keys import KeyRing
    from stoker.server.load import load_model
    from stoker.server.state import ServerState

    path = str(resolve(model))
    key = secrets.token_urlsafe()
    app = create_app(
        ServerConfig(served_names=(model,)),
        KeyRing([key]),
        lambda: load_model(path, EngineConfig(max_waiting_requests=0), served_name=model),
    )
    state: ServerState = app.state.server
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="critical", access_log=False, ws="none")
    )
    thread = threading.Thread(
        target=server.run, kwargs={"sockets": [listener]}, name="stoker-server", daemon=True
    )
    thread.start()
    try:
        while not state.loaded.is_set() and thread.is_alive():
            time.sleep(0.005)
        if state.failure is not None:
            raise StokerError(state.failure)
        yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", key, model)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()
