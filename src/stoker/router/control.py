"""What the router answers itself: health, readiness, the models of the whole fleet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stoker.api.errors import ApiError, method_not_allowed, model_not_found
from stoker.router import xgen
from stoker.router.dispatcher import Dispatcher
from stoker.router.metrics import CONTENT_TYPE, RouterCollector
from stoker.router.request import Request
from stoker.router.wire import JSON, Headers, error_headers


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: Headers = (JSON,)


class Control:
    """The routes answered without an engine."""

    def __init__(self, dispatcher: Dispatcher, open_connections: Callable[[], int]) -> None:
        self._dispatcher = dispatcher
        self._started = int(time.time())
        self._collector = RouterCollector(dispatcher, open_connections)
        self._routes = {
            b"/health": self._health,
            b"/ready": self._ready,
            b"/v1/models": self._models,
            b"/metrics": self._metrics,
            b"/models/status": self._status,
            b"/openapi.json": self._openapi,
        }

    def answer(self, request: Request) -> Reply | None:
        """The reply to a request for one of these routes; None for any other."""
        path = request.path
        route = self._routes.get(path)
        if route is None and not path.startswith(b"/v1/models/"):
            return None
        if request.method not in (b"GET", b"HEAD"):
            return _error(
                method_not_allowed(
                    request.method.decode(), path.decode("ascii", "replace"), "GET, HEAD"
                )
            )
        if route is not None:
            return route()
        return self._model(path.removeprefix(b"/v1/models/").decode("utf-8", "replace"))

    def _health(self) -> Reply:
        """The router answers, so it is well; its engines' state beside it."""
        dispatcher = self._dispatcher
        engines = {
            engine.name: {
                "kind": engine.kind,
                "healthy": engine.health.healthy,
                "reason": engine.health.reason or None,
                "breaker": engine.breaker.state.value,
                "draining": engine.draining,
                "in_flight": engine.in_flight,
                "in_flight_elsewhere": engine.elsewhere.in_flight,
                "models": list(engine.models),
            }
            for engine in dispatcher.fleet.engines.values()
        }
        status = "draining" if dispatcher.draining else "ok"
        told: dict[str, Any] = {"status": status, "engines": engines}
        if dispatcher.pods is not None:
            told["kubernetes"] = dispatcher.pods.report()
        return Reply(200, msgspec.json.encode(told))

    def _ready(self) -> Reply:
        """200 when a request for any model would find an engine now."""
        dispatcher = self._dispatcher
        now = dispatcher.loop.time()
        models = {
            name: any(engine.usable(now) for engine in engines)
            for name, engines in dispatcher.fleet.models.items()
        }
        ready = bool(models) and all(models.values()) and not dispatcher.draining
        body = msgspec.json.encode({"ready": ready, "models": models})
        return Reply(200 if ready else 503, body)

    def _status(self) -> Reply:
        return Reply(200, xgen.status(self._dispatcher))

    def _openapi(self) -> Reply:
        """What can be asked here, for programs and for people's tools."""
        from stoker.router.openapi import document  # slow to import, and seldom asked

        return Reply(200, document())

    def _metrics(self) -> Reply:
        content_type = (b"content-type", CONTENT_TYPE.encode())
        return Reply(200, self._collector.exposition(), (content_type,))

    def _models(self) -> Reply:
        fleet = self._dispatcher.fleet
        cards = [self._card(name) for name in fleet.names()]
        return Reply(200, msgspec.json.encode({"object": "list", "data": cards}))

    def _model(self, name: str) -> Reply:
        fleet = self._dispatcher.fleet
        if name not in fleet.models and name not in fleet.aliases:
            return _error(model_not_found(name, fleet.names()))
        return Reply(200, msgspec.json.encode(self._card(name)))

    def _card(self, name: str) -> dict[str, Any]:
        fleet = self._dispatcher.fleet
        model = fleet.resolve(name) or name
        engines = fleet.serving(model)
        lengths = [engine.models[model].max_model_len for engine in engines]
        known = [length for length in lengths if length is not None]
        return {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "stoker",
            "root": model,
            "max_model_len": max(known) if known else None,
            "engines": [engine.name for engine in engines],
        }


def _error(error: ApiError) -> Reply:
    return Reply(error.status, error.body(), error_headers(error))
