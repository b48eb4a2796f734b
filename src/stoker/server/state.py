"""What the routes share: the settings, and the model once it is loaded."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import Request

from stoker.api.errors import ApiError, bad_request, model_not_found, unavailable
from stoker.engine.async_engine import AsyncEngine
from stoker.model.bert import BertSpec
from stoker.model.spec import ModelSpec
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from stoker.runner.encoder import EncoderRunner
from stoker.server.config import ServerConfig
from stoker.server.responses.store import ResponseStore
from stoker.telemetry.metrics import EngineMetrics

if TYPE_CHECKING:
    from stoker.telemetry.tracing.requests import RequestTracer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model and all that answers with it."""

    engine: AsyncEngine
    tokenizer: Tokenizer
    template: ChatTemplate
    max_model_len: int
    metrics: EngineMetrics
    tracer: RequestTracer | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    weight_bytes: int | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.engine.engine.runner.spec

    @property
    def hidden_size(self) -> int:
        return self.spec.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size


@dataclass(frozen=True, slots=True)
class ServedEncoder:
    """A loaded encoder: it makes embeddings and nothing else."""

    encoder: EncoderRunner
    tokenizer: Tokenizer
    max_model_len: int
    created: int = field(default_factory=lambda: int(time.time()))
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One request computes at a time, with all the processors."""
    weight_bytes: None = None

    @property
    def spec(self) -> BertSpec:
        return self.encoder.spec

    @property
    def hidden_size(self) -> int:
        return self.spec.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.spec.vocab_size


class ServerState:
    """The server's own state: loading, ready or draining, and how many requests it is in."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.model: ServedModel | None = None
        self.encoder: ServedEncoder | None = None
        """In place of `model`, where embeddings alone are served."""
        self.failure: str | None = None
        """Why the model could not be loaded."""
        self.loaded = asyncio.Event()
        """Set when loading has ended, well or not."""
        self.draining = False
        self.active = 0
        """Generating requests in flight."""
        self.responses = ResponseStore(config.response_store_bytes, config.response_store_lifetime)

    def ready(self) -> ServedModel:
        """The model that generates, if requests are taken now. Raises a 503 that says why not,
        or a 400 where embeddings alone are served."""
        model = self.ready_for_embeddings()
        if isinstance(model, ServedEncoder):
            raise bad_request(
                "This model makes embeddings only: POST to /v1/embeddings, or serve a model that "
                "generates text.",
                param="model",
            )
        return model

    def ready_for_embeddings(self) -> ServedModel | ServedEncoder:
        """The model of either kind, if requests are taken now. Raises a 503 that says why not."""
        if self.failure is not None:
            raise unavailable(f"The model could not be loaded: {self.failure}", code="load_failed")
        if self.draining:
            raise unavailable("The server is shutting down.", code="shutting_down")
        model = self.encoder or self.model
        if model is None:
            raise unavailable("The model is still loading.", code="model_loading")
        return model

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
