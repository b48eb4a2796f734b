"""The fleet changes while requests are under way: another configuration, pods that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from stoker.router.config import Config, EngineConfig
from stoker.router.dispatcher import Dispatcher
from stoker.router.engines.handle import EngineHandle
from stoker.router.policies import POLICIES
from stoker.router.prober import Prober


class FleetChanges:
    """What is configured and what was found together are the fleet; one change at a time.

    An engine that is new in it has been probed before it may get requests; one that left
    finishes what it has. A configured engine comes before one found under the same name.
    """

    def __init__(
        self, config: Config, dispatcher: Dispatcher, prober: Prober, changed: Callable[[], None]
    ) -> None:
        """`changed` is called whenever the fleet may be another."""
        self._declared = config
        self._dispatcher = dispatcher
        self._prober = prober
        self._changed = changed
        self._found: Sequence[EngineConfig] = ()
        self._draining: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()

    async def reload(self, config: Config) -> list[EngineHandle]:
        """Go on with another configuration; the engines that left."""
        async with self._lock:
            self._declared = config
            return await self._apply()

    async def set_found(self, found: Sequence[EngineConfig], draining: frozenset[str]) -> None:
        """These engines were found; those named `draining` finish what they have."""
        async with self._lock:
            self._found, self._draining = found, draining
            gone = await self._apply()
            settings = self._declared.kubernetes
            if settings is not None:
                now = self._dispatcher.loop.time()
                for engine in gone:
                    self._dispatcher.fleet.expect(engine.models, now, now + settings.remember)

    async def _apply(self) -> list[EngineHandle]:
        declared, dispatcher = self._declared, self._dispatcher
        names = {engine.name for engine in declared.engines}
        found = [engine for engine in self._found if engine.name not in names]
        config = declared.model_copy(update={"engines": (*declared.engines, *found)})
        fleet, loop = dispatcher.fleet, dispatcher.loop
        engines = fleet.prepare(config, loop.time())
        for engine in found:
            engines[engine.name].draining = engine.name in self._draining
        known = fleet.engines.values()
        probes = [self._prober.probe(one) for one in engines.values() if one not in known]
        await asyncio.gather(*probes)
        old, new = dispatcher.config.router.policy, declared.router.policy
        gone = dispatcher.reconfigure(config, engines, POLICIES[new]() if new != old else None)
        self._prober.refresh()
        self._changed()
        return gone
