"""Who asks the API server: a pod's service account, or what a kubeconfig says."""

from __future__ import annotations

import asyncio
import base64
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stoker.errors import ConfigError
from stoker.router.config import KubernetesSettings
from stoker.router.kubernetes.access import find_access
from stoker.router.kubernetes.api import PodApi
from stoker.router.kubernetes.credentials import ExecToken
from stoker.router.kubernetes.errors import ApiAway, ApiRefused

PEM = Path(__file__).with_name("tls.pem")
"""A certificate of 127.0.0.1 that signs itself, and its key: good for nothing but this."""


@asynccontextmanager
async def tls_server(*, wants_certificate: bool = False) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Lists no pods; its port, and the requests that came. 401 for the token `old`."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        requests.append(request)
        status = b"401 Unauthorized" if b"Bearer old" in request else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(PEM)
    if wants_certificate:
        tls.load_verify_locations(PEM)
        tls.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], requests
    finally:
        server.close()


def kubeconfig(
    directory: Path, server: str, user: dict[str, Any], cluster: dict[str, Any]
) -> KubernetesSettings:
    content = {
        "current-context": "other",
        "contexts": [
            {"name": "other", "context": {"cluster": "nowhere"}},
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    file = directory / "config"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return KubernetesSettings(selector="a=b", kubeconfig=str(file), context="here")


async def test_in_a_pod(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(PEM.read_bytes())
    (tmp_path / "namespace").write_text("models\n", encoding="ascii")
    (tmp_path / "token").write_text("first\n", encoding="ascii")
    async with tls_server() as (port, requests):
        environment = {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(port),
        }
        settings = KubernetesSettings(selector="app=vllm")
        access = find_access(settings, environment=environment, service_account=tmp_path)
        api = PodApi(access, settings.selector)
        assert await api.list() == ([], "")
        (tmp_path / "token").write_text("second\n", encoding="ascii")  # the kubelet renews it
        assert await api.list() == ([], "")
        (tmp_path / "token").unlink()
        with pytest.raises(ApiAway, match="token cannot be read"):
            await api.list()
    line = b"GET /api/v1/namespaces/models/pods?labelSelector=app%3Dvllm&limit=250 HTTP/1.1\r\n"
    assert [request.startswith(line) for request in requests] == [True, True]
    assert b"authorization: Bearer first\r\n" in requests[0]
    assert b"authorization: Bearer second\r\n" in requests[1]


async def test_whom_a_kubeconfig_trusts_and_what_it_shows(tmp_path: Path) -> None:
    data = base64.b64encode(PEM.read_bytes()).decode()
    async with tls_server(wants_certificate=True) as (port, requests):
        url = f"https://127.0.0.1:{port}"
        certificate = {"client-certificate-data": data, "client-key": str(PEM)}
        trusted = {"certificate-authority-data": data}

        async def ask(user: dict[str, Any], cluster: dict[str, Any]) -> None:
            settings = kubeconfig(tmp_path, url, user, cluster)
            await PodApi(find_access(settings), settings.selector).list()

        await ask(certificate, trusted)
        await ask(certificate, {"insecure-skip-tls-verify": True})
        assert len(requests) == 2
        with pytest.raises(ApiAway, match="cannot connect"):
            await ask(certificate, {})
        with pytest.raises(ApiAway):
            await ask({}, trusted)
        assert len(requests) == 2
    assert b"/namespaces/default/pods" in requests[0]


@pytest.mark.parametrize(
    ("user", "header"),
    [
        ({}, None),
        ({"token": "t"}, "Bearer t"),
        ({"tokenFile": "token"}, "Bearer from-file"),
        ({"username": "u", "password": "p"}, "Basic dTpw"),
    ],
)
async def test_what_users_show(tmp_path: Path, user: dict[str, Any], header: str | None) -> None:
    (tmp_path / "token").write_text("from-file", encoding="ascii")
    settings = kubeconfig(tmp_path, "http://127.0.0.1:1", user, {})
    assert await find_access(settings).credentials.authorization() == header


async def test_a_program_that_prints_tokens(tmp_path: Path) -> None:
    program = tmp_path / "plugin"
    program.write_text(
        f"""#!{sys.executable}
import json, os, pathlib
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
counter = pathlib.Path({str(tmp_path)!r}) / "count"
count = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(count))
status = {{"token": os.environ["NAME"] if count > 1 else "old"}}
if count == 2:
    status["expirationTimestamp"] = "2001-01-01T00:00:00Z"
print(json.dumps({{"apiVersion": info["apiVersion"], "kind": "ExecCredential", "status": status}}))
""",
        encoding="utf-8",
    )
    program.chmod(0o755)
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "./plugin",
        "env": [{"name": "NAME", "value": "new"}],
    }
    data = base64.b64encode(PEM.read_bytes()).decode()
    async with tls_server() as (port, _):
        user, trusted = {"exec": plugin}, {"certificate-authority-data": data}
        settings = kubeconfig(tmp_path, f"https://127.0.0.1:{port}", user, trusted)
        access = find_access(settings)
        api = PodApi(access, settings.selector)
        with pytest.raises(ApiRefused, match="it answers 401"):
            await api.list()
        assert await api.list() == ([], "")  # what was refused is not shown again
        assert await api.list() == ([], "")  # nor what has expired
        assert (tmp_path / "count").read_text() == "3"
        await api.list()
        assert (tmp_path / "count").read_text() == "3"


async def test_a_program_that_prints_none() -> None:
    failing = ExecToken([sys.executable, "-c", "import sys; sys.exit('log in first')"], {}, "v1")
    with pytest.raises(ApiAway, match="it ended with 1: log in first"):
        await failing.authorization()
    with pytest.raises(ApiAway, match="gave no token"):
        await ExecToken(["/nowhere/plugin"], {}, "v1").authorization()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "expected `field: value` lines"),
        ("a: [", "while parsing"),
        ("{}", "it has no current-context"),
        ("current-context: x", "'x' is not among its contexts"),
        (
            "{current-context: x, contexts: [{name: x, context: {cluster: c}}], "
            "clusters: [{name: c, cluster: {server: 'http://h', proxy-url: 'http://p'}}]}",
            "proxy-url is not supported",
        ),
    ],
)
def test_a_kubeconfig_that_is_of_no_use(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "config"
    file.write_text(text, encoding="utf-8")
    settings = KubernetesSettings(selector="a", kubeconfig=str(file))
    with pytest.raises(ConfigError, match=f"{file}: not a usable kubeconfig: .*{reason}"):
        find_access(settings)


def test_nowhere_to_ask(tmp_path: Path) -> None:
    settings = KubernetesSettings(selector="a")
    with pytest.raises(ConfigError, match="there is no such kubeconfig file, and this is not a"):
        find_access(settings, environment={"KUBECONFIG": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match="names several files"):
        find_access(settings, environment={"KUBECONFIG": "/a:/b"})
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    with pytest.raises(ConfigError, match="is automountServiceAccountToken false"):
        find_access(settings, environment=pod, service_account=tmp_path)
