"""A Kubernetes API server for pods, and pods whose engines are fakes.

kmock is the server: HTTP, the API's paths, errors shaped as Kubernetes'. It keeps no resource
versions, so lists and watches are answered here as the real server does: a watch tells everything
since its version, or that it is too long ago.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import kmock
import yaml

from ..fakes import FakeEngine, until

NAMESPACE = "models"
SELECTOR = "app=engine,tier in (gpu)"


class Cluster:
    """Pods of one namespace. `start` and `stop` are the API server's; pods live on."""

    def __init__(self) -> None:
        self.handler = kmock.KubernetesScaffold()
        self.handler["list", kmock.resource("v1/pods")] << self._list
        self.handler["watch", kmock.resource("v1/pods")] << self._watch
        self.pods: dict[str, dict[str, Any]] = {}
        self.lists = 0
        self.shown: list[str | None] = []
        """What lists were asked with."""
        self.watched_from: list[int] = []
        """The version of each watch that was opened."""
        self.watching = 0
        self.refuse: kmock.KubernetesError | None = None
        """What lists and watches are answered with."""
        self.silent = False
        """Whether watches tell nothing more, nor end."""
        self.longest = float("inf")
        """Seconds after which watches end, if they did not ask for less."""
        self._version = 100
        self._oldest = 0
        self._log: list[tuple[int, dict[str, Any]]] = []
        self._news = asyncio.Condition()
        self._cut = asyncio.Event()
        self._port: int | None = None
        self._server: kmock.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, **user: Any) -> str:
        """A kubeconfig for this cluster."""
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        return yaml.safe_dump(
            {
                "current-context": "here",
                "contexts": [{"name": "here", "context": context}],
                "clusters": [{"name": "c", "cluster": {"server": self.url}}],
                "users": [{"name": "u", "user": user or {"token": "secret"}}],
            }
        )

    async def start(self) -> None:
        self._server = kmock.Server(self.handler, port=self._port)
        await self._server.__aenter__()
        self._port = self._server.port

    async def stop(self) -> None:
        """The API server is away, watches with it."""
        await self.cut()
        server, self._server = self._server, None
        if server is not None:
            await server.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.handler.__aenter__()
        await self.start()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.stop()
        await self.handler.__aexit__(None, None, None)

    # -- what happens to pods

    async def run(self, engine: FakeEngine, *, name: str | None = None, **fields: Any) -> None:
        """A pod, with an engine that is not started by this. `fields`: of the pod's status, or
        `annotations`, `labels`, `uid`, `ports`."""
        name = name or engine.name
        port = int(engine.url.rsplit(":", 1)[1])
        labels = fields.get("labels", {"app": "engine", "tier": "gpu"})
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        metadata["uid"] = fields.get("uid", f"uid-of-{name}")
        metadata["annotations"] = fields.get("annotations", {})
        ports = fields.get("ports", [{"name": "http", "containerPort": port}])
        self.pods[name] = {
            "metadata": metadata,
            "spec": {"containers": [{"name": "main", "ports": ports}]},
            "status": {"phase": "Running", "podIP": "127.0.0.1"},
        }
        await self.set_ready(name, fields.get("ready", True), what="ADDED")

    async def set_ready(self, name: str, ready: bool, *, what: str = "MODIFIED") -> None:
        condition = {"type": "Ready", "status": str(ready)}
        self.pods[name]["status"]["conditions"] = [condition]
        await self._happened(what, name)

    async def annotate(self, name: str, text: str) -> None:
        self.pods[name]["metadata"]["annotations"] = {"stoker/engine": text}
        await self._happened("MODIFIED", name)

    async def terminate(self, name: str) -> None:
        """Its deletion is asked for; it has its grace period."""
        self.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        await self._happened("MODIFIED", name)

    async def delete(self, name: str) -> None:
        await self._happened("DELETED", name)

    def compact(self) -> None:
        """What has happened until now is forgotten."""
        self._version += 1
        self._oldest = self._version
        self._log.clear()

    async def bookmark(self) -> None:
        """Tell watches that nothing of theirs has happened until now."""
        self._version += 1
        metadata = {"resourceVersion": str(self._version)}
        await self._tell({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": metadata}})

    async def cut(self) -> None:
        """Every watch breaks off."""
        self._cut.set()
        self._cut = asyncio.Event()
        async with self._news:
            self._news.notify_all()
        await until(lambda: self.watching == 0, 60)

    async def _happened(self, what: str, name: str) -> None:
        self._version += 1
        self.pods[name]["metadata"]["resourceVersion"] = str(self._version)
        pod = self.pods[name]
        if what == "DELETED":
            del self.pods[name]
        copy = {**pod, "metadata": dict(pod["metadata"]), "status": dict(pod["status"])}
        await self._tell({"type": what, "object": copy})

    async def _tell(self, event: dict[str, Any]) -> None:
        self._log.append((self._version, event))
        async with self._news:
            self._news.notify_all()

    # -- the API

    def _matches(self, request: kmock.Request) -> Callable[[dict[str, Any]], bool]:
        assert request.namespace == NAMESPACE
        assert request.params["labelSelector"] == SELECTOR

        def matches(pod: dict[str, Any]) -> bool:
            labels = pod["metadata"].get("labels")
            return labels is None or labels == {"app": "engine", "tier": "gpu"}

        return matches

    def _list(self, request: kmock.Request) -> Any:
        if self.refuse is not None:
            raise self.refuse
        self.lists += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.shown.append(headers.get("authorization"))
        matches = self._matches(request)
        return {
            "kind": "PodList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self._version)},
            "items": [pod for pod in self.pods.values() if matches(pod)],
        }

    async def _watch(self, request: kmock.Request) -> AsyncIterator[Any]:
        if self.refuse is not None:
            raise self.refuse
        matches, cut = self._matches(request), self._cut
        assert request.params["allowWatchBookmarks"] == "true"
        since = int(request.params["resourceVersion"])
        seconds = min(float(request.params["timeoutSeconds"]), self.longest)
        self.watched_from.append(since)
        loop = asyncio.get_running_loop()
        end, told = loop.time() + seconds, 0
        self.watching += 1
        try:
            yield b""
            if since < self._oldest:
                status = {"kind": "Status", "code": 410, "message": "too old resource version"}
                yield {"type": "ERROR", "object": status}
                return
            told = since
            while not cut.is_set():
                news = [] if self.silent else [one for one in self._log if one[0] > told]
                for version, event in news:
                    told = max(told, version)
                    if matches(event["object"]):
                        yield event
                try:
                    async with asyncio.timeout_at(end if not self.silent else None), self._news:
                        await self._news.wait()
                except TimeoutError:
                    return
            raise ConnectionError("cut")
        finally:
            self.watching -= 1
