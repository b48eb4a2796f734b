"""The middle of the router: takes requests in, finds each an engine, watches the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from stoker.api.errors import ApiError, bad_request, from_exception, model_not_found, unavailable
from stoker.errors import EngineOverloaded, StokerError
from stoker.router.access_log import AccessLog
from stoker.router.admission import DrainRate, FairQueue
from stoker.router.config import Config
from stoker.router.engines.handle import EngineHandle
from stoker.router.exchange import Exchange
from stoker.router.fleet import Fleet
from stoker.router.kubernetes.discovery import Discovery
from stoker.router.kv.tokens import ask_tokens
from stoker.router.ledger.account import Account
from stoker.router.ledger.ledger import Grant, Ledger
from stoker.router.metrics import RouterMetrics
from stoker.router.policies.base import Policy
from stoker.router.request import Features, Request, read_features
from stoker.router.responder import Responder
from stoker.router.retries import Backoff, RetryBudget
from stoker.router.shared.link import RedisLink
from stoker.router.upstream import Pool
from stoker.router.wire import error_headers, own_headers

if TYPE_CHECKING:
    from stoker.router.tracing import RequestTrace, RouterTracer

_TICK_S = 0.1


class Dispatcher:
    """Owns the fleet, the policy, the pools and every exchange under way."""

    def __init__(self, config: Config, policy: Policy, loop: asyncio.AbstractEventLoop) -> None:
        self._use(config)
        self.budget = RetryBudget(config.retries.budget)
        self.backoff = Backoff(config.retries)
        self.fleet = Fleet(config, monotonic())
        self.policy = policy
        self.loop = loop
        self.metrics = RouterMetrics()
        self.ledger = Ledger(config)
        self.redis: RedisLink | None = None
        self.memory_of: Callable[[str], int | None] = lambda name: None
        """Bytes of memory that an engine has, by its name, where it runs under this router."""
        self.access_log: AccessLog | None = None
        self.pods: Discovery | None = None
        self.tracer: RouterTracer | None = None
        self.active: set[Exchange] = set()
        self.draining = False
        self._pools: dict[EngineHandle, Pool] = {}
        """As each engine's `pool`, of engines that left too."""
        self._queues: dict[str | None, FairQueue[Exchange]] = {}
        """Those who wait, by model; a model for which nobody waits has no entry."""
        self._drain_rate = DrainRate(monotonic())
        self.wants_tokens = False
        """Whether the policy goes by the prompt's tokens."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: dict[EngineHandle, asyncio.Event] = {}
        """Engines no longer in the fleet that still have requests; set when they have none."""
        self._doubted: set[EngineHandle] = set()
        self._doubts = asyncio.Event()
        self._idle = asyncio.Event()
        self._tick_due = monotonic() + _TICK_S
        self._timer = loop.call_later(_TICK_S, self._tick)

    def _use(self, config: Config) -> None:
        """Go by this configuration. What every request asks for is kept beside it, because to
        read a validated setting costs ten times as much as to read an attribute."""
        self.config = config
        self.first_byte_s = config.timeouts.first_byte
        self.idle_s = config.timeouts.idle

    def reconfigure(
        self, config: Config, engines: dict[str, EngineHandle], policy: Policy | None
    ) -> list[EngineHandle]:
        """Go on with another configuration, its `engines` (`Fleet.prepare`), and another policy
        if one is given; requests under way are finished where they are. The engines that leave.
        """
        if config.retries != self.config.retries:
            self.budget = RetryBudget(config.retries.budget)
            self.backoff = Backoff(config.retries)
        self._use(config)
        self.ledger.reconfigure(config)
        if policy is not None:
            self.policy = policy
        gone = self.fleet.replace(config, engines)
        for engine in gone:
            engine.draining = True
            self.policy.forget(engine)
            self._leaving[engine] = asyncio.Event()
        self.serve_queues()
        return gone

    async def emptied(self, engine: EngineHandle) -> None:
        """Wait until an engine that has left the fleet has answered all it had."""
        if engine in self._leaving:
            await self._leaving[engine].wait()

    # -- a request's way in

    def submit(self, request: Request, responder: Responder) -> Exchange | None:
        """Take a request; its answer goes to `responder`. None if it was refused at once."""
        account: Account | None = None
        serving: Sequence[EngineHandle]
        now = monotonic()
        trace = None if self.tracer is None else self.tracer.begin(request)
        try:
            if self.draining:
                raise unavailable("This router is shutting down.", code="draining")
            ledger = self.ledger
            account = ledger.account_of(request)
            features = read_features(request)
            if account is not ledger.keyring.anonymous:
                features.caller = account.name
            known = self.fleet.known.get(features.model)
            if known is not None and features.backend is None:
                features.model, serving = known
            else:
                features.model, serving = self._find(features)
            if account.models is not None and features.model not in account.models:
                ledger.check(account, features, has_body=bool(request.body))
            grant = ledger.admit(account, features, serving, now)
        except StokerError as refused:
            self._refuse(request, responder, from_exception(refused), account, trace)
            return None
        exchange = Exchange(self, request, features, responder, grant, trace, now)
        self.active.add(exchange)
        self.budget.requests += 1
        if ledger.shared is not None and ledger.asks_others(account):
            self._start(self._admit_shared(exchange, grant))
        elif self._queues or self.wants_tokens:
            self._seek(exchange)
        else:
            self._place(exchange, serving, now)
        return exchange

    def _seek(self, exchange: Exchange) -> None:
        """It may have an engine: find it one."""
        if self.wants_tokens and exchange.features.prompt:
            self._start(self._place_with_tokens(exchange))
        else:
            self._place_or_queue(exchange)

    async def _admit_shared(self, exchange: Exchange, grant: Grant) -> None:
        """Ask the other routers' count too, before it may have an engine."""
        try:
            await self.ledger.admit_shared(grant)
        except ApiError as error:
            self.ledger.refused(grant.account, exchange.features.model)
            exchange.grant = None
            exchange.refuse(error)
        else:
            if not exchange.over:
                self._seek(exchange)

    def _refuse(
        self,
        request: Request,
        responder: Responder,
        error: ApiError,
        account: Account | None,
        trace: RequestTrace | None,
    ) -> None:
        """Answer a request that gets no further than the door."""
        if trace is not None:
            trace.end(error.status)
        code = error.info.code or error.info.type
        self.metrics.rejected["-", code] += 1
        if account is not None and error.status in (403, 429):
            self.ledger.refused(account, None)
        if self.access_log is not None:
            name = account.name if account is not None else ""
            self.access_log.note(
                request.id, name, None, None, f"refused: {code}", error.status, None, None, 0.0
            )
        headers = error_headers(error) + own_headers(request.id, "refused")
        responder.respond(error.status, headers, error.body())

    @property
    def keys_pass(self) -> bool:
        """Whether a client's key is meant for the engine: where the router has none itself."""
        return not (self.ledger.required or self.ledger.keyring.by_digest)

    def _place_or_queue(self, exchange: Exchange) -> None:
        if self._queues and exchange.features.model in self._queues:
            self._queue(exchange)  # behind those who came before
        else:
            self.place(exchange)

    async def _place_with_tokens(self, exchange: Exchange) -> None:
        """Ask an engine for the prompt's tokens first, for a policy that goes by them."""
        features, now = exchange.features, monotonic()
        engines = [engine for engine in self._serving(features) if engine.ready(now)]
        if engines:
            engine = min(engines, key=lambda one: one.in_flight_everywhere)
            features.tokens = await ask_tokens(self.pool(engine), engine, features)
            served = engine.models.get(features.model or "")
            if served is not None and served.adapter:
                features.adapter = served.own_name
        if not exchange.over:
            self._place_or_queue(exchange)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _find(self, features: Features) -> tuple[str | None, Sequence[EngineHandle]]:
        """The model that is meant, and the engines that may answer. Raises `ApiError`."""
        asked = features.model
        model = features.model = self._model_for(features)
        serving = self._serving(features)
        if features.backend is not None:
            self._check_backend(features, serving)
        elif model is not None:
            self.fleet.note(asked, model)
        return model, serving

    def _model_for(self, features: Features) -> str | None:
        asked = features.model
        fleet = self.fleet
        model = fleet.resolve(asked)
        if model is not None and (fleet.serving(model) or fleet.expects(model, monotonic())):
            return model
        if not fleet.engines:
            wait = self.config.health.interval
            raise unavailable("No engine is here yet.", code="no_engine_yet", retry_after=wait)
        if model is None:
            if not features.is_json:
                return None  # nothing names a model, so any engine may answer
            raise bad_request(
                f"`model` is required. Served here: {', '.join(fleet.names())}.",
                param="model",
            )
        silent = [
            f"{one.name} ({one.health.reason or 'well, but without a model'})"
            for one in fleet.engines.values()
            if not one.models
        ]
        if silent:
            raise unavailable(
                f"The model {asked or model!r} is not known yet. Engines that have not said so far "
                f"what they serve: {', '.join(silent)}.",
                code="model_not_known_yet",
                retry_after=self.config.health.interval,
            )
        raise model_not_found(asked or model, fleet.names())

    def _check_backend(self, features: Features, serving: Sequence[EngineHandle]) -> None:
        if serving or self.fleet.expects(features.model or "", monotonic()):
            return
        asked = features.backend
        features.backend = None
        engines = self._serving(features)
        known = sorted({engine.kind for engine in engines} | {engine.name for engine in engines})
        raise bad_request(
            f"No engine of this model is a {asked!r}: the header x-stoker-backend may be auto, "
            f"{', '.join(known)}.",
            param="x-stoker-backend",
        )

    def place(self, exchange: Exchange) -> None:
        """Choose an engine for an exchange and send it there, or let it wait for one."""
        self._place(exchange, self._serving(exchange.features), monotonic())

    def _place(self, exchange: Exchange, serving: Sequence[EngineHandle], now: float) -> None:
        engines = self._choices(exchange, serving, now)
        if engines:
            self._send(exchange, engines, now)
        else:
            self._queue(exchange)

    def _send(self, exchange: Exchange, engines: Sequence[EngineHandle], now: float) -> None:
        policy, metrics, features = self.policy, self.metrics, exchange.features
        decision = policy.choose(features, engines)
        engine, known_tokens = decision.engine, decision.known_tokens
        exchange.send_to(engine, decision.reason, known_tokens, now)
        # Only now, while the engine already reads: what it costs to remember delays nobody.
        policy.placed(features, engine)
        metrics.decisions[policy.name, engine.name] += 1
        metrics.predicted_tokens += known_tokens

    def _choices(
        self, exchange: Exchange, serving: Sequence[EngineHandle], now: float
    ) -> Sequence[EngineHandle]:
        """The engines to choose from now, of those `serving` its model.

        Of those usable, the ones that have not failed this request; of those, the ones that
        nothing speaks against (a doubtful engine is better than none); of those, the ones with
        room.
        """
        failed_on = exchange.failed_on
        if not failed_on:
            for engine in serving:
                if not engine.ready(now):
                    break
            else:
                return serving
            engines = [engine for engine in serving if engine.ready(now)]
            if engines:
                return engines
        engines = [engine for engine in serving if engine.usable(now)]
        if failed_on:
            engines = [engine for engine in engines if engine not in failed_on] or engines
        engines = [engine for engine in engines if engine.trusted(now)] or engines
        return [engine for engine in engines if engine.has_place]

    # -- waiting

    def _queue(self, exchange: Exchange) -> None:
        """Let an exchange wait for an engine, if it is worth it and there is room."""
        features = exchange.features
        limits = self.config.admission
        now = monotonic()
        engines = self._serving(features)
        staying = [engine for engine in engines if not engine.draining]
        up = [engine for engine in staying if engine.health.healthy]
        back_by = max((engine.down_since for engine in staying), default=now) + limits.max_wait
        queue = self._queues.get(features.model)
        if not up and now >= back_by:
            self._no_engine(exchange)
        elif self.waiting >= limits.max_queue:
            self._overloaded(exchange, f"All engines are busy and {self.waiting} requests wait.")
        else:
            if queue is None:
                queue = self._queues[features.model] = FairQueue()
            queue.push(exchange, features.urgency, features.caller)
            exchange.wait(now + limits.max_wait if up else back_by)
            self._serve_queue(features.model)

    @property
    def waiting(self) -> int:
        """How many exchanges wait for an engine."""
        return sum(len(queue) for queue in self._queues.values()) if self._queues else 0

    def waiting_for(self, model: str) -> int:
        """How many exchanges wait for an engine of a model."""
        return len(self._queues.get(model, ()))

    def queue_lengths(self) -> dict[str, int]:
        """How many exchanges wait, for each model."""
        lengths = dict.fromkeys(self.fleet.models, 0)
        for model, queue in self._queues.items():
            lengths[model or "-"] = len(queue)
        return lengths

    def waited_too_long(self, exchange: Exchange) -> None:
        """`admission.max_wait` has passed."""
        engines = self._serving(exchange.features)
        if any(engine.health.healthy and not engine.draining for engine in engines):
            limit = self.config.admission.max_wait
            self._overloaded(exchange, f"No engine had room within {limit:g} s.")
        else:
            self._no_engine(exchange)

    def _overloaded(self, exchange: Exchange, message: str) -> None:
        wait = self._drain_rate.seconds_for(self.waiting)
        exchange.refuse(from_exception(EngineOverloaded(message, retry_after=wait)))

    def _no_engine(self, exchange: Exchange) -> None:
        model = exchange.features.model
        serving = f" that serves {model!r}" if model is not None else ""
        wait = self.config.health.interval
        message = f"No engine{serving} is available."
        exchange.refuse(unavailable(message, code="no_engine_available", retry_after=wait))

    def _serve_queue(self, model: str | None) -> None:
        """Send on those who wait for a model, as long as there is room."""
        queue = self._queues.get(model)
        while queue is not None and len(queue):
            exchange = queue.first()
            assert exchange is not None
            now = monotonic()
            engines = self._choices(exchange, self._serving(exchange.features), now)
            if not engines:
                return
            queue.pop()
            self._forget_if_empty(model)
            self._send(exchange, engines, now)

    def serve_queues(self) -> None:
        """Send on all who wait, as long as there is room."""
        for model in list(self._queues):
            self._serve_queue(model)

    def _forget_if_empty(self, model: str | None) -> None:
        if model in self._queues and not len(self._queues[model]):
            del self._queues[model]

    def has_untried(self, exchange: Exchange) -> bool:
        """Whether there is an engine that the exchange has not been to."""
        now = monotonic()
        tried = (exchange.engine, *exchange.failed_on)
        engines = self._serving(exchange.features)
        return any(engine not in tried and engine.usable(now) for engine in engines)

    def has_other(self, exchange: Exchange) -> bool:
        """Whether an engine other than the present one serves the exchange's model, though it
        may not be usable just now."""
        return len(self._serving(exchange.features)) > 1

    def _serving(self, features: Features) -> Sequence[EngineHandle]:
        """The engines that may answer, whatever their state."""
        if features.model is None:
            engines: Sequence[EngineHandle] = tuple(self.fleet.engines.values())
        else:
            engines = self.fleet.serving(features.model)
        if features.backend is not None:
            backend = features.backend
            return [engine for engine in engines if backend in (engine.kind, engine.name)]
        return engines

    # -- what exchanges tell

    def pool(self, engine: EngineHandle) -> Pool:
        pool = self._pools.get(engine)
        if pool is None:
            pool = Pool(engine.address, connect_timeout=self.config.timeouts.connect)
            self._pools[engine] = engine.pool = pool
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
        self.serve_queues()

    def engine_down(self, engine: EngineHandle) -> None:
        """The engine was found unhealthy: move what has not begun to answer."""
        engine.down_since = monotonic()
        for exchange in [one for one in self.active if one.engine is engine]:
            exchange.engine_down()

    def engine_exited(self, name: str, reason: str) -> None:
        """The engine's process, one of ours, has ended."""
        engine = self.fleet.engines.get(name)
        if engine is not None and engine.health.down(reason):
            self.engine_down(engine)

    def left_engine(self) -> None:
        """An exchange gave its place on an engine back."""
        self._drain_rate.finished += 1
        if self._queues:
            self.serve_queues()

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over, whatever way."""
        active = self.active
        active.discard(exchange)
        if self._queues:
            queue = self._queues.get(exchange.features.model)
            if queue is not None and exchange in queue:
                queue.remove(exchange)
                self._forget_if_empty(exchange.features.model)
        if self.draining and not active:
            self._idle.set()

    async def idle(self) -> None:
        """While draining: wait until no exchange is under way."""
        if self.active:
            await self._idle.wait()

    # -- time

    def _tick(self) -> None:
        now = monotonic()
        for exchange in [one for one in self.active if one.deadline <= now]:
            exchange.expired()
        self._drain_rate.update(now)
        for engine in self.fleet.engines.values():
            engine.meter.update(now)
        for engine in [one for one in self._leaving if one.in_flight == 0]:
            self._leaving.pop(engine).set()
            if engine in self._pools:
                engine.pool = None
                self._pools.pop(engine).close()
        self.serve_queues()
        self.metrics.loop_lag.observe(max(0.0, now - self._tick_due))
        self._tick_due = monotonic() + _TICK_S
        self._timer = self.loop.call_later(_TICK_S, self._tick)

    def close(self) -> None:
        """Stop the clock and close the connections to engines."""
        self._timer.cancel()
        for exchange in list(self.active):
            exchange.cancel()
        for task in self._tasks:
            task.cancel()
        for pool in self._pools.values():
            pool.close()
