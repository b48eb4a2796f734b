"""Which pods are in the fleet.

A pod joins when it is Ready and its engine lists a model; it gets nothing new from the moment its
deletion is asked for or its readiness is lost; it leaves when it is gone. Requests under way are
finished where they are. While the API server is away, the fleet that is known goes on.

A watch that ended by its time goes on where it was. After anything else the pods are listed anew:
what was told while the watch was broken, deletions above all, would otherwise be missed for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from enum import Enum
from typing import Any

from stoker.router.config import EngineConfig, KubernetesSettings, Retries
from stoker.router.kubernetes.api import PodApi
from stoker.router.kubernetes.asking import Ask, NoAnswer
from stoker.router.kubernetes.errors import ApiAway, VersionGone
from stoker.router.kubernetes.pods import Pod, PodUnclear
from stoker.router.retries import Backoff

log = logging.getLogger(__name__)

_WATCH_S = 120.0
# A watch that ends sooner did not end by its time.
_SHORTEST_S = 1.0
_API_BACKOFF = Retries(backoff=0.25, backoff_factor=2.0, backoff_max=30.0)
_ASK_BACKOFF = Retries(backoff=0.25, backoff_factor=1.5, backoff_max=5.0)


class PodState(Enum):
    UNREADY = "unready"
    """Not Ready yet."""
    ASKED = "asked"
    """Ready; its engine lists no model yet."""
    SERVING = "serving"
    DRAINING = "draining"


class _Tracked:
    """A pod as it was told last, and what follows from it."""

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.engine: EngineConfig | None = None
        """In the fleet as this, once it has answered."""
        self.draining = False
        self.reason = "not Ready"
        """Why it gets no requests."""
        self.asking: asyncio.Task[None] | None = None

    @property
    def state(self) -> PodState:
        if self.engine is not None:
            return PodState.DRAINING if self.draining else PodState.SERVING
        return PodState.UNREADY if self.asking is None else PodState.ASKED

    def stop_asking(self) -> None:
        if self.asking is not None:
            self.asking.cancel()
            self.asking = None


Fleet = Callable[[Sequence[EngineConfig], frozenset[str]], Awaitable[None]]
"""Makes these engines, found as pods, the fleet's; those named are draining."""


class Discovery:
    """Follows pods and tells the router who is in its fleet."""

    def __init__(
        self,
        api: PodApi,
        settings: KubernetesSettings,
        *,
        ask: Ask,
        set_fleet: Fleet,
    ) -> None:
        self.connected = False
        """Whether the API server has told everything up to now."""
        self.failures = 0
        """How often it went away."""
        self.trouble = "not asked yet"
        self._api = api
        self._settings = settings
        self._ask = ask
        self._set_fleet = set_fleet
        self._pods: dict[str, _Tracked] = {}
        self._changed = asyncio.Event()
        self._first_look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._follow(), name="kubernetes watch"),
            loop.create_task(self._tell(), name="kubernetes fleet"),
        ]

    async def stop(self) -> None:
        tasks = [*self._tasks, *(one.asking for one in self._pods.values() if one.asking)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def looked(self) -> None:
        """Wait until the API server has been asked once, and each Ready pod too."""
        await self._first_look.wait()

    def report(self) -> dict[str, Any]:
        """For `/health`: whether the API server is followed, and what each pod is at."""
        pods = {
            name: {"state": one.state.value, "reason": one.reason or None}
            for name, one in self._pods.items()
        }
        return {"connected": self.connected, "reason": self.trouble or None, "pods": pods}

    def count(self) -> Counter[PodState]:
        """How many pods are in each state."""
        return Counter(one.state for one in self._pods.values())

    # -- the API server

    async def _follow(self) -> None:
        backoff, failures = Backoff(_API_BACKOFF), 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                pods, version = await self._api.list()
                self._listed(pods)
                while True:
                    began = loop.time()
                    version = await self._watch(version)
                    if loop.time() - began < _SHORTEST_S:
                        raise ApiAway("the watch ended at once")
                    failures = 0
            except VersionGone as gone:
                log.info("kubernetes: pods are listed anew (%s)", gone)
            except ApiAway as away:
                self._away(str(away))
            except Exception as error:
                log.exception("kubernetes: following pods went wrong")
                self._away(repr(error))
            if loop.time() - began >= _SHORTEST_S:
                failures = 0
            failures += 1
            self._first_look.set()
            await asyncio.sleep(backoff.delay(failures))

    async def _watch(self, version: str) -> str:
        """Follow one watch to its end; the version to go on from."""
        async with aclosing(self._api.watch(version, _WATCH_S)) as changes:
            async for change in changes:
                version = change.version or version
                if change.pod is None:
                    continue
                if change.gone:
                    self._gone(change.pod.name, change.pod.uid)
                else:
                    self._seen(change.pod)
        return version

    def _away(self, reason: str) -> None:
        if self.connected or reason != self.trouble:
            known = sum(one.engine is not None for one in self._pods.values())
            log.warning("kubernetes: %s; %d known engines go on serving", reason, known)
        self.failures += self.connected
        self.connected = False
        self.trouble = reason

    def _listed(self, pods: Sequence[Pod]) -> None:
        if not self.connected:
            log.info("kubernetes: %d pods match %s", len(pods), self._settings.selector)
        self.connected, self.trouble = True, ""
        names = {pod.name for pod in pods}
        for name, tracked in list(self._pods.items()):
            if name not in names:
                self._gone(name, tracked.pod.uid)
        for pod in pods:
            self._seen(pod)
        self._changed.set()

    # -- a pod's life

    def _seen(self, pod: Pod) -> None:
        tracked = self._pods.get(pod.name)
        if tracked is not None and tracked.pod.uid != pod.uid:
            self._gone(pod.name, tracked.pod.uid)
            tracked = None
        if tracked is None:
            tracked = self._pods[pod.name] = _Tracked(pod)
        before, tracked.pod = tracked.pod, pod
        if pod.over:
            self._gone(pod.name, pod.uid)
        elif pod.terminating:
            self._leaves(tracked, "terminating")
        elif not pod.ready:
            self._leaves(tracked, "not Ready")
        elif _differs(before, pod) or (
            tracked.asking is None and (tracked.engine is None or tracked.draining)
        ):
            tracked.stop_asking()
            task = self._join_when_it_answers(tracked)
            name = f"ask pod {pod.name}"
            tracked.asking = asyncio.get_running_loop().create_task(task, name=name)

    def _leaves(self, tracked: _Tracked, reason: str) -> None:
        """Nothing new for it."""
        tracked.stop_asking()
        tracked.reason = reason
        if tracked.engine is not None and not tracked.draining:
            log.info("pod %s is %s: it gets no new requests", tracked.pod.name, reason)
            tracked.draining = True
            self._changed.set()

    def _gone(self, name: str, uid: str) -> None:
        tracked = self._pods.get(name)
        if tracked is None or tracked.pod.uid != uid:
            return
        tracked.stop_asking()
        del self._pods[name]
        if tracked.engine is not None:
            log.info("pod %s is gone", name)
            self._changed.set()

    async def _join_when_it_answers(self, tracked: _Tracked) -> None:
        pod, failures, backoff = tracked.pod, 0, Backoff(_ASK_BACKOFF)
        while True:
            try:
                engine = await self._ask(pod)
            except (NoAnswer, PodUnclear) as error:
                failures += 1
                if str(error) != tracked.reason:
                    log.info("pod %s does not join yet: %s", pod.name, error)
                tracked.reason = str(error)
                self._changed.set()
                await asyncio.sleep(backoff.delay(failures))
            else:
                break
        log.info("pod %s joins (%s, %s)", pod.name, engine.kind, engine.url)
        tracked.engine, tracked.draining, tracked.reason = engine, False, ""
        tracked.asking = None
        self._changed.set()

    # -- the fleet

    async def _tell(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            found = [one for one in self._pods.values() if one.engine is not None]
            engines = [one.engine for one in found if one.engine is not None]
            draining = frozenset(one.pod.name for one in found if one.draining)
            try:
                await self._set_fleet(engines, draining)
            except Exception:
                log.exception("kubernetes: the fleet could not be changed")
            if not any(one.asking and one.reason == "not Ready" for one in self._pods.values()):
                self._first_look.set()


def _differs(before: Pod, after: Pod) -> bool:
    """Whether what the engine is made from changed."""
    return (
        before.status.pod_ip != after.status.pod_ip
        or before.metadata.annotations != after.metadata.annotations
    )
