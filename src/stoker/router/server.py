"""The router as a whole: listens, hands requests on, starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from weakref import WeakValueDictionary

from stoker.api.errors import ApiError, internal_error, method_not_allowed
from stoker.listen import bind
from stoker.router import batch_route, xgen
from stoker.router.access_log import AccessLog
from stoker.router.batch_handler import BatchHandler
from stoker.router.batches.routes import UPLOAD_PATH, FilesAndBatches, is_about_files
from stoker.router.changes import FleetChanges
from stoker.router.config import Config
from stoker.router.control import Control
from stoker.router.dispatcher import Dispatcher
from stoker.router.downstream import ClientConnection, Work
from stoker.router.engines.handle import EngineHandle
from stoker.router.heads import KnownHead
from stoker.router.kubernetes.access import find_access
from stoker.router.kubernetes.api import PodApi
from stoker.router.kubernetes.asking import asker
from stoker.router.kubernetes.discovery import Discovery
from stoker.router.kv.followers import Followers
from stoker.router.ledger import route as usage_route
from stoker.router.ledger.keeper import Keeper
from stoker.router.policies import POLICIES
from stoker.router.policies.kv import Kv
from stoker.router.policies.session import Session
from stoker.router.prober import Prober
from stoker.router.protocol import as_protocol
from stoker.router.request import BodySink, Request
from stoker.router.shared.fleet import SharedFleet
from stoker.router.shared.limits import SharedLimits
from stoker.router.shared.link import RedisLink
from stoker.router.storage import open_database
from stoker.router.wire import Headers, error_headers, own_headers
from stoker.telemetry.tracing.export import open_tracing

# What probes and scrapers ask, without a key.
_OPEN_PATHS = frozenset((b"/health", b"/ready", b"/metrics"))

# Engines' routes that take nothing but a body; and a browser's question whether it may send one.
_POSTED = frozenset(
    (
        b"/v1/chat/completions",
        b"/v1/chat/completions/batch",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/responses",
        b"/v1/responses/input_tokens",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
        b"/tokenize",
        b"/detokenize",
    )
)

# What a reload does not change.
_SETTLED: dict[str, Callable[[Config], object]] = {
    "router.host": lambda config: config.router.host,
    "router.port": lambda config: config.router.port,
    "router.access_log": lambda config: config.router.access_log,
    "storage": lambda config: config.storage,
    "redis": lambda config: config.redis,
    "kubernetes": lambda config: config.kubernetes,
    "traces": lambda config: config.traces,
}

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
# How long the start waits for pods to be found and asked.
_LOOK_S = 5.0
_TELL_S = 0.1
_AGAIN_S = 1.0


class RouterServer:
    """One router: `start` it inside a running loop, `stop` it to drain and close."""

    def __init__(self, config: Config) -> None:
        self.loop = asyncio.get_running_loop()
        self._use(config)
        self.dispatcher = Dispatcher(config, POLICIES[config.router.policy](), self.loop)
        self.database = open_database(config.storage.url)
        self.connections: set[ClientConnection] = set()
        self._control = Control(self.dispatcher, self.connections.__len__)
        self._batches = BatchHandler(self.dispatcher)
        self._files = FilesAndBatches(self.database, self.dispatcher)
        self._keeper = Keeper(self.dispatcher.ledger, self.database, interval=config.usage.flush)
        self._link = RedisLink(config.redis) if config.redis is not None else None
        self.dispatcher.redis = self._link
        self.shared: SharedFleet | None = None
        if self._link is not None:
            dispatcher = self.dispatcher
            self.shared = SharedFleet(
                self._link, lambda: dispatcher.fleet.engines, dispatcher.serve_queues
            )
        self._heads: WeakValueDictionary[bytes, KnownHead[Request]] = WeakValueDictionary()
        """Clients' heads: those with the same one share what is known of it."""
        self._services = xgen.PATHS | {batch_route.PATH, usage_route.PATH}
        self._tracing = open_tracing(config.traces.endpoint, service="stoker-router")
        if self._tracing is not None:
            from stoker.router.tracing import RouterTracer

            self.dispatcher.tracer = RouterTracer(self._tracing.tracer)
        self._prober = Prober(self.dispatcher)
        self._changes = FleetChanges(config, self.dispatcher, self._prober, self._changed)
        self._discovery = self.dispatcher.pods = self._discover(config)
        self._tasks: list[asyncio.Task[None]] = []
        self._server: asyncio.Server | None = None
        self._managed: frozenset[str] = frozenset()
        self._followers = Followers()

    def _use(self, config: Config) -> None:
        """Go by this configuration. What every request asks for is kept beside it, because to
        read a validated setting costs ten times as much as to read an attribute."""
        self.config = config
        self.body_limit: int = config.router.body_limit
        self.client_request = config.timeouts.client_request
        self.client_idle = config.timeouts.client_idle

    @property
    def draining(self) -> bool:
        return self.dispatcher.draining

    def known_head(self, before: bytes, after: bytes, request: Request) -> KnownHead[Request]:
        """The head of a request (`split_head`), to be known when it comes again."""
        whole = b"%b\n%b" % (before, after)
        known = self._heads.get(whole)
        if known is None:
            known = self._heads[whole] = KnownHead(before, after, request.again(b""))
        return known

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """The address it listens on."""
        host = self.config.router.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def describe(self) -> list[str]:
        """A line for each engine, for whoever starts the router."""
        lines = []
        for engine in self.dispatcher.fleet.engines.values():
            state = ", ".join(engine.models)
            if not engine.health.healthy:
                state = "starting" if engine.name in self._managed else engine.health.reason
            lines.append(f"{engine.name} ({engine.kind}, {engine.address.host_header}): {state}")
        return lines

    async def start(self, listener: socket.socket | None = None) -> None:
        """Watch the engines and, once each has been probed, listen: on a socket that is bound
        already, or where the configuration says."""
        self._tasks.append(self.loop.create_task(self._sweep(), name="sweep"))
        if self.config.router.access_log is not None:
            access_log = self.dispatcher.access_log = AccessLog(self.config.router.access_log)
            self._tasks.append(self.loop.create_task(access_log.run(), name="access log"))
        self._prober.start()
        self._changed()
        await self._keeper.start()
        if self._link is not None:
            await self._link.look()
            shared = self.dispatcher.ledger.shared = SharedLimits(self._link)
            self._tasks.append(self.loop.create_task(self._link.watch(), name="redis"))
            self._tasks.append(self.loop.create_task(_tell(shared), name="shared limits"))
        if self.shared is not None:
            await self.shared.exchange()
            self._tasks.append(self.loop.create_task(self.shared.run(), name="shared fleet"))
        self._tasks.append(self.loop.create_task(self._keeper.run(), name="ledger"))
        await self._prober.all_probed()
        if self._discovery is not None:
            self._discovery.start()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._discovery.looked()
        self._files.start()
        listener = listener or bind(self.config.router.host, self.config.router.port)
        self._server = await self.loop.create_server(
            lambda: as_protocol(ClientConnection(self)), sock=listener, backlog=4096
        )

    async def reload(self, config: Config) -> list[EngineHandle]:
        """Go on with another configuration, once its engines have been probed; no request is
        dropped. The engines that left. Settings of `_SETTLED` stay as they are, with a warning.
        """
        for setting, get in _SETTLED.items():
            if get(self.config) != get(config):
                log.warning("%s changes only when the router is restarted", setting)
        if self.dispatcher.access_log is not None:
            self.dispatcher.access_log.reopen()
        self._use(config)
        return await self._changes.reload(config)

    def _discover(self, config: Config) -> Discovery | None:
        """What follows pods, if that is configured. Raises `ConfigError`."""
        settings = config.kubernetes
        if settings is None:
            return None
        timeouts, health = config.timeouts, config.health
        ask = asker(settings, connect_timeout=timeouts.connect, within=health.timeout)
        api = PodApi(find_access(settings), settings.selector)
        return Discovery(api, settings, ask=ask, set_fleet=self._changes.set_found)

    def _changed(self) -> None:
        """The fleet or the policy may be another: give it what it goes by."""
        policy, engines = self.dispatcher.policy, self.dispatcher.fleet.engines.values()
        if self.shared is not None and isinstance(policy, Session):
            policy.moves = self.shared.moves
        index = policy.index if isinstance(policy, Kv) else None
        self.dispatcher.wants_tokens = index is not None
        self._followers.follow(engines, index)

    def manage(
        self,
        names: Iterable[str],
        restart: Callable[[str], None],
        memory: Callable[[str], int | None],
    ) -> None:
        """The engines of these names run here: call `restart` for one that was well and has
        answered no probe for `supervision.hung` seconds; `memory` tells the bytes that one has."""
        self.dispatcher.memory_of = memory
        if not self._managed:
            self._tasks.append(self.loop.create_task(self._watch_hung(restart), name="hung"))
        self._managed = frozenset(names)

    async def _watch_hung(self, restart: Callable[[str], None]) -> None:
        while True:
            limit = self.config.supervision.hung
            await asyncio.sleep(min(limit / 4, _SWEEP_S))
            for engine in self.dispatcher.fleet.engines.values():
                if engine.name not in self._managed:
                    continue
                hung = engine.health.was_healthy and not engine.health.healthy
                if hung and self.loop.time() - engine.down_since >= limit:
                    log.warning("engine %s has not answered for %g s", engine.name, limit)
                    engine.down_since = self.loop.time()
                    restart(engine.name)

    async def stop(self) -> None:
        """Take nothing new, let what is under way finish for `router.drain` seconds, close."""
        self.dispatcher.draining = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close_if_idle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.router.drain):
                await self.dispatcher.idle()
        await self._files.stop()
        if self._discovery is not None:
            await self._discovery.stop()
        self.dispatcher.close()
        self._prober.stop()
        tasks = [*self._tasks, *self._followers.tasks]
        await _end(tasks)
        for connection in list(self.connections):
            connection.close()
        if self.dispatcher.access_log is not None:
            self.dispatcher.access_log.close()
        await self._keeper.flush()
        await self.database.close()
        if self.shared is not None:
            await self.shared.leave()
        if self._link is not None:
            await self._link.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def handle(self, request: Request, connection: ClientConnection) -> Work | None:
        """Answer a request, or set going what will. A fault of ours is answered with a 500."""
        try:
            return self._handle(request, connection)
        except Exception:
            name = request.id.decode("latin-1")
            log.exception("request %s", name)
            self._refuse(request, connection, internal_error(name))
            return None

    def _handle(self, request: Request, connection: ClientConnection) -> Work | None:
        if request.memo.goes_to_engine:
            return self.dispatcher.submit(request, connection)
        if request.path not in _OPEN_PATHS and self.dispatcher.ledger.required:
            try:
                self.dispatcher.ledger.account_of(request)
            except ApiError as error:
                self._refuse(request, connection, error)
                return None
        reply = self._control.answer(request)
        if reply is not None:
            headers = [*reply.headers, *own_headers(request.id, "answered by the router")]
            connection.respond(reply.status, headers, reply.body)
            return None
        if is_about_files(request.path):
            return self._files.serve(request, connection)
        if request.path in _POSTED and request.method not in (b"POST", b"OPTIONS"):
            method, path = request.method.decode(), request.path.decode()
            self._refuse(request, connection, method_not_allowed(method, path, "POST"))
            return None
        if request.path not in self._services:
            if batch_route.GATHER in request.fields:
                return self._gather(request, connection)
            request.memo.goes_to_engine = True
            return self.dispatcher.submit(request, connection)
        try:
            return self._serve(request, connection)
        except ApiError as error:
            self._refuse(request, connection, error)
            return None

    def _gather(self, request: Request, connection: ClientConnection) -> Work | None:
        """Answer a request that may go to an engine together with others."""
        fields = batch_route.gatherable(request)
        if fields is None:
            return self.dispatcher.submit(request, connection)
        return batch_route.GatheredWork(request, fields, connection, self._batches)

    def sink_for(
        self, method: bytes, target: bytes, headers: Headers, hold_reading: Callable[[bool], None]
    ) -> BodySink | None:
        """Who takes the body of a request in as it comes; None where it is gathered. Raises
        `ApiError` when it is not to come at all."""
        if method == b"POST" and target.partition(b"?")[0] == UPLOAD_PATH:
            return self._files.upload(Request(method, target, headers, b""), hold_reading)
        return None

    def _refuse(self, request: Request, connection: ClientConnection, error: ApiError) -> None:
        code = error.info.code or error.info.type
        self.dispatcher.metrics.rejected["-", code] += 1
        headers = error_headers(error) + own_headers(request.id, "refused")
        connection.respond(error.status, headers, error.body())

    def _serve(self, request: Request, connection: ClientConnection) -> Work | None:
        """One of the services made of several requests or of other words."""
        if request.path == usage_route.PATH:
            if request.method != b"GET":
                raise method_not_allowed(request.method.decode(), "/usage", "GET")
            account = self.dispatcher.ledger.account_of(request)
            return usage_route.UsageWork(request, connection, account, self._keeper, self.database)
        if request.method != b"POST":
            raise method_not_allowed(request.method.decode(), request.path.decode(), "POST")
        if request.path == batch_route.PATH:
            return batch_route.BatchWork(request, connection, self._batches)
        return xgen.generate(request, connection, self.dispatcher)

    async def _sweep(self) -> None:
        """Close the connections of clients that are idle or too slow."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = self.loop.time()
            for connection in [one for one in self.connections if one.deadline <= now]:
                connection.expired()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for them. One that missed it, because what it waited for came at the
    same moment and a library thought that enough, is told again."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(shared: SharedLimits) -> None:
    """Correct the shared counts, every moment."""
    while True:
        await asyncio.sleep(_TELL_S)
        await shared.flush()
