"""Watches the engines: are they well, what do they serve, how busy do they say they are."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import msgspec

from stoker.router.dispatcher import Dispatcher
from stoker.router.engines.handle import EngineHandle, EngineModel
from stoker.router.engines.load import parse_load
from stoker.router.fetch import fetch
from stoker.router.upstream import UpstreamFailure

log = logging.getLogger(__name__)

# A probe out of turn, asked for by a failed request, comes no sooner than this after the last.
_SOONEST_S = 0.2
# An engine that is down is probed this often, to be used as soon as it is there.
_WHILE_DOWN_S = 0.5


class _Meta(msgspec.Struct):
    n_ctx: int | None = None
    n_vocab: int | None = None
    n_embd: int | None = None
    n_layer: int | None = None
    size: int | None = None


class _Model(msgspec.Struct):
    """A model's card: vLLM's and ours have `max_model_len`, llama.cpp's and ours a `meta`."""

    id: str
    max_model_len: int | None = None
    meta: _Meta | None = None
    parent: str | None = None
    """The base model of a LoRA adapter."""

    @property
    def context(self) -> int | None:
        if self.max_model_len is None and self.meta is not None:
            return self.meta.n_ctx
        return self.max_model_len


class _ModelList(msgspec.Struct):
    data: list[_Model]


def _engine_model(own_name: str, card: _Model | None, declared: int | None) -> EngineModel:
    if card is None:
        return EngineModel(own_name, declared)
    meta = card.meta or _Meta()
    return EngineModel(
        own_name,
        declared or card.context,
        adapter=card.parent is not None,
        vocabulary=meta.n_vocab,
        embedding_size=meta.n_embd,
        layers=meta.n_layer,
        size_bytes=meta.size,
    )


_models_decoder = msgspec.json.Decoder(_ModelList)


class Prober:
    """Probes every engine at its own pace, and at once when a request failed on it."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._watches: dict[EngineHandle, _Watch] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to watch the fleet's engines."""
        wake = self._wake_doubted()
        self._tasks = [self._dispatcher.loop.create_task(wake, name="probe doubted engines")]
        self.refresh()

    def refresh(self) -> None:
        """Watch the engines that are in the fleet now, and no others."""
        engines = self._dispatcher.fleet.engines.values()
        for engine in [one for one in self._watches if one not in engines]:
            self._watches.pop(engine).task.cancel()
        for engine in engines:
            if engine not in self._watches:
                self._watches[engine] = _Watch(self, engine)

    async def all_probed(self) -> None:
        """Wait until each engine has been probed once."""
        for watch in list(self._watches.values()):
            await watch.probed.wait()

    def stop(self) -> None:
        for task in (*self._tasks, *(watch.task for watch in self._watches.values())):
            task.cancel()

    async def _wake_doubted(self) -> None:
        while True:
            for engine in await self._dispatcher.doubted():
                if engine in self._watches:
                    self._watches[engine].wake.set()

    async def watch(self, engine: EngineHandle, watch: _Watch) -> None:
        """Probe one engine until cancelled."""
        while True:
            watch.wake.clear()
            # One that terminates stops listening first, and finishes what it has.
            if not engine.draining:
                try:
                    await self.probe(engine)
                except Exception:
                    log.exception("the probe of engine %s went wrong", engine.name)
            watch.probed.set()
            interval = self._dispatcher.config.health.interval
            await asyncio.sleep(min(_SOONEST_S, interval))
            if not engine.health.healthy:
                interval = min(interval, _WHILE_DOWN_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, interval - _SOONEST_S)):
                    await watch.wake.wait()

    async def probe(self, engine: EngineHandle) -> None:
        """One probe of one engine, with what follows from it."""
        try:
            await self._check(engine)
        except UpstreamFailure as failure:
            if engine.health.failed(str(failure)):
                log.warning("engine %s is unhealthy: %s", engine.name, failure)
                self._dispatcher.engine_down(engine)
            return
        engine.connected()
        if engine.health.passed():
            log.info("engine %s is healthy; serves %s", engine.name, ", ".join(engine.models))
            self._dispatcher.engine_up(engine)
        await self._read_load(engine)

    async def _check(self, engine: EngineHandle) -> None:
        if engine.kind != "openai":
            await self._get(engine, "/health")
        try:
            listed = _models_decoder.decode(await self._get(engine, "/v1/models"))
        except msgspec.MsgspecError as error:
            raise UpstreamFailure(f"/v1/models is not a list of models ({error})") from None
        cards = {model.id: model for model in listed.data}
        names = engine.declared_models or {name: name for name in cards}
        if not names:
            raise UpstreamFailure("it serves no model")
        self._dispatcher.fleet.set_models(
            engine,
            [
                (name, _engine_model(own, cards.get(own), engine.declared_context))
                for name, own in names.items()
            ],
        )

    async def _read_load(self, engine: EngineHandle) -> None:
        if engine.kind == "openai":
            return
        try:
            text = (await self._get(engine, "/metrics")).decode("utf-8", "replace")
        except UpstreamFailure:
            engine.load = None  # it does not say (llama.cpp needs --metrics)
        else:
            engine.load = parse_load(text, self._dispatcher.loop.time())

    async def _get(self, engine: EngineHandle, path: str) -> bytes:
        pool = self._dispatcher.pool(engine)
        status, body = await fetch(
            pool, engine, path, within=self._dispatcher.config.health.timeout
        )
        if status != 200:
            raise UpstreamFailure(f"{path} answers {status}")
        return body


class _Watch:
    """The watch over one engine."""

    def __init__(self, prober: Prober, engine: EngineHandle) -> None:
        self.wake = asyncio.Event()
        """Set to probe without waiting for the engine's turn."""
        self.probed = asyncio.Event()
        """Set once it has been probed."""
        self.task = asyncio.get_running_loop().create_task(
            prober.watch(engine, self), name=f"probe {engine.name}"
        )
