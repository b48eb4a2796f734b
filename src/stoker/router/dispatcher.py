"""The middle of the router: takes requests in, finds each an engine, watches the clock."""

from __future__ import annotations

import asyncio
import time

from stoker.errors import InvalidRequest
from stoker.router.config import Config
from stoker.router.engines.handle import EngineHandle
from stoker.router.exchange import Exchange, Responder
from stoker.router.fleet import Fleet
from stoker.router.policies.base import Policy
from stoker.router.request import Features, Request, read_features
from stoker.router.retries import Backoff, RetryBudget
from stoker.router.upstream import Pool
from stoker.router.wire import JSON, error_body, own_headers

_TICK_S = 0.1


class Dispatcher:
    """Owns the fleet, the policy, the pools and every exchange under way."""

    def __init__(self, config: Config, policy: Policy, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.policy = policy
        self.loop = loop
        self.budget = RetryBudget(config.retries.budget)
        self.backoff = Backoff(config.retries)
        self.active: set[Exchange] = set()
        self.draining = False
        self._pools: dict[EngineHandle, Pool] = {}
        self._doubted: set[EngineHandle] = set()
        self._doubts = asyncio.Event()
        self._idle = asyncio.Event()
        self._timer = loop.call_later(_TICK_S, self._tick)

    @staticmethod
    def wall_clock() -> float:
        """Seconds since 1970."""
        return time.time()

    # -- a request's way in

    def submit(self, request: Request, responder: Responder) -> Exchange | None:
        """Take a request; its answer goes to `responder`. None if it was refused at once."""
        if self.draining:
            self._refuse(
                responder,
                request,
                503,
                error_body(
                    "this router is shutting down; send the request to another",
                    type_="server_error",
                    code="draining",
                ),
                "draining",
            )
            return None
        try:
            features = read_features(request)
            features.model = self._model_for(features)
        except InvalidRequest as error:
            status = 404 if error.code == "model_not_found" else 400
            body = error_body(
                str(error),
                type_="invalid_request_error",
                code=error.code,
                param=error.param,
            )
            self._refuse(responder, request, status, body, "invalid request")
            return None
        exchange = Exchange(self, request, features, responder)
        self.active.add(exchange)
        self.budget.pay_in()
        self.place(exchange)
        return exchange

    @staticmethod
    def _refuse(
        responder: Responder, request: Request, status: int, body: bytes, reason: str
    ) -> None:
        retry_after = 1.0 if status == 503 else None
        headers = own_headers(request.id, reason, retry_after=retry_after)
        responder.respond(status, [JSON, *headers], body)

    def _model_for(self, features: Features) -> str | None:
        asked = features.model
        model = self.fleet.resolve(asked)
        if model is None:
            if not features.is_json:
                return None  # nothing names a model, so any engine may answer
            raise InvalidRequest(
                f"`model` is required: this router serves {self._model_list()}", param="model"
            )
        if not self.fleet.serving(model):
            raise InvalidRequest(
                f"the model {asked or model!r} does not exist: this router serves "
                f"{self._model_list()}",
                param="model",
                code="model_not_found",
            )
        return model

    def _model_list(self) -> str:
        names = sorted({*self.fleet.models, *self.fleet.aliases})
        return ", ".join(names) if names else "no model at present"

    def place(self, exchange: Exchange) -> None:
        """Choose an engine for an exchange and send it there."""
        engines = self.candidates(exchange)
        if not engines:
            model = exchange.features.model
            exchange.refuse(
                503,
                f"no engine that serves {model!r} is available"
                if model is not None
                else "no engine is available",
                code="no_engine_available",
                retry_after=self.config.health.interval,
            )
            return
        decision = self.policy.choose(exchange.features, engines)
        self.policy.placed(exchange.features, decision.engine)
        exchange.send_to(decision.engine, decision.reason)

    def candidates(self, exchange: Exchange) -> list[EngineHandle]:
        """The engines to choose from now: of those usable, the ones that have not failed this
        request; of those, the ones that nothing speaks against. A doubtful engine is better
        than none."""
        now = self.loop.time()
        usable = [engine for engine in self._serving(exchange.features) if engine.usable(now)]
        failed_on = exchange.failed_on
        fresh = [engine for engine in usable if engine not in failed_on] if failed_on else usable
        fresh = fresh or usable
        return [engine for engine in fresh if engine.trusted(now)] or fresh

    def has_other(self, exchange: Exchange) -> bool:
        """Whether an engine other than the present one could take the exchange."""
        now = self.loop.time()
        return any(
            engine is not exchange.engine
            and engine not in exchange.failed_on
            and engine.usable(now)
            for engine in self._serving(exchange.features)
        )

    def _serving(self, features: Features) -> tuple[EngineHandle, ...]:
        if features.model is None:
            return tuple(self.fleet.engines.values())
        return self.fleet.serving(features.model)

    # -- what exchanges tell

    def pool(self, engine: EngineHandle) -> Pool:
        pool = self._pools.get(engine)
        if pool is None:
            pool = Pool(engine.address, connect_timeout=self.config.timeouts.connect)
            self._pools[engine] = pool
        return pool

    def doubt(self, engine: EngineHandle) -> None:
        """An exchange failed on the engine: it is probed without waiting for its turn."""
        self._doubted.add(engine)
        self._doubts.set()

    async def doubted(self) -> set[EngineHandle]:
        """Wait for engines in doubt, and take them."""
        await self._doubts.wait()
        self._doubts.clear()
        engines, self._doubted = self._doubted, set()
        return engines

    def engine_up(self, engine: EngineHandle) -> None:
        """The engine was found healthy, for the first time or again."""
        self.policy.forget(engine)

    def engine_down(self, engine: EngineHandle) -> None:
        """The engine was found unhealthy: move what has not begun to answer."""
        for exchange in [one for one in self.active if one.engine is engine]:
            exchange.engine_down()

    def finished(self, exchange: Exchange) -> None:
        self.active.discard(exchange)
        if self.draining and not self.active:
            self._idle.set()

    async def idle(self) -> None:
        """While draining: wait until no exchange is under way."""
        if self.active:
            await self._idle.wait()

    # -- time

    def _tick(self) -> None:
        now = self.loop.time()
        for exchange in [one for one in self.active if one.deadline <= now]:
            exchange.expired()
        self._timer = self.loop.call_later(_TICK_S, self._tick)

    def close(self) -> None:
        """Stop the clock and close the connections to engines."""
        self._timer.cancel()
        for exchange in list(self.active):
            exchange.cancel()
        for pool in self._pools.values():
            pool.close()
