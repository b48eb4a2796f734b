"""The HTTP application: routes, middleware, errors, and the model's coming and going."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from stoker import __version__
from stoker.api.errors import (
    ApiError,
    bad_request,
    from_exception,
    from_validation,
    method_not_allowed,
    route_not_found,
)
from stoker.errors import StokerError
from stoker.server import (
    chat,
    chat_batch,
    completions,
    embeddings,
    health,
    metrics_route,
    models,
    tokenize,
)
from stoker.server.config import ServerConfig
from stoker.server.connection import ClientDisconnected
from stoker.server.errors import error_body
from stoker.server.keys import KeyRing
from stoker.server.messages import routes as messages
from stoker.server.middleware import Gate
from stoker.server.openapi import allowed_methods, build_openapi
from stoker.server.responses import routes as responses
from stoker.server.state import ServedEncoder, ServedModel, ServerState

log = logging.getLogger(__name__)

LoadModel = Callable[[], ServedModel | ServedEncoder]
"""Loads the model; called in a thread, while the server already answers (with 503)."""


def create_app(config: ServerConfig, keys: KeyRing, load: LoadModel) -> FastAPI:
    """An application that answers for the model that `load` brings."""
    state = ServerState(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(state, load))
        yield
        await loading
        if state.model is not None:
            await state.model.engine.shutdown()

    app = FastAPI(
        title="Stoker",
        version=__version__,
        description="An open language model behind the OpenAI API.",
        lifespan=lifespan,
        docs_url="/docs",
        redoc_url=None,
    )
    app.state.server = state
    for module in (
        chat,
        chat_batch,
        completions,
        responses,
        messages,
        embeddings,
        models,
        tokenize,
        health,
        metrics_route,
    ):
        app.include_router(module.router)
    _handle_errors(app)
    app.add_middleware(Gate, state=state, keys=keys)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )

    def openapi() -> dict[str, Any]:
        return build_openapi(app)

    app.openapi = openapi  # type: ignore[method-assign]
    return app


async def _load(state: ServerState, load: LoadModel) -> None:
    try:
        loaded = await asyncio.to_thread(load)
        if isinstance(loaded, ServedEncoder):
            state.encoder = loaded
        else:
            state.model = loaded
    except Exception as error:
        state.failure = str(error)
        if not isinstance(error, StokerError):
            log.exception("the model could not be loaded")
    state.loaded.set()


def _handle_errors(app: FastAPI) -> None:
    async def stoker_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, StokerError)
        return _response(from_exception(error), request)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(from_validation(error.errors(), error.body), request)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 404:
            return _response(route_not_found(request.method, path), request)
        if error.status_code == 405:
            allow = allowed_methods(request.app, path) or (error.headers or {}).get("Allow")
            return _response(method_not_allowed(request.method, path, allow), request)
        if error.status_code < 500:
            return _response(bad_request(str(error.detail)), request)
        raise error

    async def client_left(_: Request, __: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the log shows why nothing was sent

    app.add_exception_handler(StokerError, stoker_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(ClientDisconnected, client_left)
    app.add_exception_handler(ClientDisconnect, client_left)


def _response(error: ApiError, request: Request) -> Response:
    return Response(
        error_body(error, request.scope), error.status, error.headers, media_type="application/json"
    )
