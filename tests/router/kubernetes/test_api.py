"""Listing and watching: what the server may do to whoever asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import kmock
import pytest

from stoker.router.config import KubernetesSettings
from stoker.router.kubernetes import api as api_module
from stoker.router.kubernetes.access import find_access
from stoker.router.kubernetes.api import Change, PodApi
from stoker.router.kubernetes.errors import ApiAway, ApiRefused, VersionGone

from ..fakes import FakeEngine
from .cluster import SELECTOR, Cluster


def pod_api(cluster: Cluster, directory: Path, **user: Any) -> PodApi:
    file = directory / "config"
    file.write_text(cluster.kubeconfig(**user), encoding="utf-8")
    settings = KubernetesSettings(selector=SELECTOR, kubeconfig=str(file))
    return PodApi(find_access(settings), settings.selector)


async def changes(api: PodApi, version: str, seconds: float = 60) -> list[Change]:
    return [change async for change in api.watch(version, seconds)]


async def test_a_watch_tells_what_happened_since(cluster: Cluster, tmp_path: Path) -> None:
    api = pod_api(cluster, tmp_path)
    async with FakeEngine("pod-1") as one:
        await cluster.run(one)
        [pod], version = await api.list()
        assert (pod.name, pod.uid, pod.ready, pod.terminating) == (
            "pod-1",
            "uid-of-pod-1",
            True,
            False,
        )
        await cluster.terminate("pod-1")
        await cluster.bookmark()
        await cluster.delete("pod-1")
        told = await changes(api, version, 1)
        assert [(one.version, one.gone) for one in told] == [
            ("102", False),
            ("103", False),
            ("104", True),
        ]
        assert [one.pod.terminating if one.pod else None for one in told] == [True, None, True]
        assert await api.list() == ([], "104")
    assert cluster.shown == ["Bearer secret", "Bearer secret"]


async def test_410_in_the_watch_or_as_its_status(cluster: Cluster, tmp_path: Path) -> None:
    api = pod_api(cluster, tmp_path)
    cluster.compact()
    with pytest.raises(VersionGone, match="too old resource version"):
        await changes(api, "1")
    cluster.refuse = kmock.KubernetesError(status=410, message="expired")
    with pytest.raises(VersionGone, match="expired"):
        await api.list()


async def test_a_watch_that_goes_silent_is_given_up(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "_GRACE_S", 0.1)
    api = pod_api(cluster, tmp_path)
    cluster.silent = True
    with pytest.raises(ApiAway, match="the watch had gone silent"):
        await changes(api, "100", 0.1)


async def test_other_errors_say_what_the_server_said(cluster: Cluster, tmp_path: Path) -> None:
    api = pod_api(cluster, tmp_path)
    cluster.refuse = kmock.KubernetesError(status=500, message="etcd is sad")
    with pytest.raises(ApiRefused, match="it answers 500: etcd is sad"):
        await api.list()
    await cluster.stop()
    with pytest.raises(ApiAway, match="cannot connect"):
        await api.list()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", "no list of pods"),
        (b"HTTP/1.1 502 X\r\ncontent-length: 7\r\n\r\nno luck", "it answers 502: no luck"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
        (b"", "closed before any answer"),
    ],
)
async def test_what_is_no_api_server(
    cluster: Cluster, tmp_path: Path, answer: bytes, reason: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    file = tmp_path / "config"
    port = server.sockets[0].getsockname()[1]
    text = cluster.kubeconfig().replace(cluster.url, f"http://127.0.0.1:{port}")
    file.write_text(text, encoding="utf-8")
    settings = KubernetesSettings(selector="a=b", kubeconfig=str(file))
    api = PodApi(find_access(settings), settings.selector)
    with pytest.raises(ApiAway, match=reason):
        await api.list()
    server.close()
