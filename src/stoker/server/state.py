"""What the routes share: the settings, and the model once it is loaded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from starlette.requests import Request

from stoker.api.errors import ApiError, model_not_found, unavailable
from stoker.engine.async_engine import AsyncEngine
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from stoker.server.config import ServerConfig
from stoker.server.responses.store import ResponseStore
from stoker.telemetry.metrics import EngineMetrics


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and all that answers with it."""

    engine: AsyncEngine
    tokenizer: Tokenizer
    template: ChatTemplate
    max_model_len: int
    metrics: EngineMetrics
    created: int = field(default_factory=lambda: int(time.time()))


class ServerState:
    """The server's own state: loading, ready or draining, and how many requests it is in."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.model: ServedModel | None = None
        self.failure: str | None = None
        """Why the model could not be loaded."""
        self.loaded = asyncio.Event()
        """Set when loading has ended, well or not."""
        self.draining = False
        self.active = 0
        """Generating requests in flight."""
        self.responses = ResponseStore(config.response_store_bytes, config.response_store_lifetime)

    def ready(self) -> ServedModel:
        """The model, if requests are taken now. Raises a 503 that says why not."""
        if self.failure is not None:
            raise unavailable(f"The model could not be loaded: {self.failure}", code="load_failed")
        if self.draining:
            raise unavailable("The server is shutting down.", code="shutting_down")
        if self.model is None:
            raise unavailable("The model is still loading.", code="model_loading")
        return self.model

    def check_name(self, name: str | None) -> str:
        """The name an answer carries. Raises a 404 unless `name` is served (or left out)."""
        if name is None:
            return self.config.served_names[0]
        if name not in self.config.served_names:
            raise self.unknown_model(name)
        return name

    def unknown_model(self, name: str) -> ApiError:
        return model_not_found(name, self.config.served_names)


def state_of(request: Request) -> ServerState:
    """The state of the app that `request` came to."""
    state: ServerState = request.app.state.server
    return state
