"""Where the API server is, and who asks: from inside a pod, or from a kubeconfig file."""

from __future__ import annotations

import base64
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stoker.errors import ConfigError
from stoker.router.config import KubernetesSettings
from stoker.router.engines.handle import Address
from stoker.router.kubernetes.credentials import (
    Credentials,
    ExecToken,
    NoCredentials,
    StaticHeader,
    TokenFile,
)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""What every pod is given of its own service account."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server. `namespace` is where pods are looked for."""

    address: Address
    tls: ssl.SSLContext | None
    credentials: Credentials
    namespace: str


def find_access(
    settings: KubernetesSettings,
    *,
    environment: Mapping[str, str] = os.environ,
    service_account: Path = SERVICE_ACCOUNT,
) -> Access:
    """From `settings.kubeconfig`, else the pod this runs in, else the user's kubeconfig.

    Raises `ConfigError` when there is none, or it cannot be used.
    """
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if settings.kubeconfig is None and settings.context is None and host:
        return _in_cluster(settings, host, environment, service_account)
    named = settings.kubeconfig or environment.get("KUBECONFIG") or "~/.kube/config"
    if os.pathsep in named:
        raise ConfigError(
            f"KUBECONFIG names several files ({named}); name one in kubernetes.kubeconfig"
        )
    path = Path(named).expanduser()
    try:
        return _Kubeconfig(path).access(settings)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: there is no such kubeconfig file, and this is not a pod; name the file in "
            "kubernetes.kubeconfig"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a usable kubeconfig: {error!r}") from error


def _in_cluster(
    settings: KubernetesSettings, host: str, environment: Mapping[str, str], directory: Path
) -> Access:
    port = int(environment.get("KUBERNETES_SERVICE_PORT", "443"))
    try:
        tls = ssl.create_default_context(cafile=str(directory / "ca.crt"))
        namespace = settings.namespace or (directory / "namespace").read_text().strip()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"the pod's service account cannot be read ({error}); "
            "is automountServiceAccountToken false?"
        ) from error
    credentials = TokenFile(directory / "token")
    return Access(Address(host, port, True, ""), tls, credentials, namespace)


class _Kubeconfig:
    """A kubeconfig file. Relative paths in it are relative to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("expected `field: value` lines")
        self._content: dict[str, Any] = content

    def access(self, settings: KubernetesSettings) -> Access:
        context_name = settings.context or self._content.get("current-context")
        if not context_name:
            raise ValueError("it has no current-context; name one in kubernetes.context")
        context = self._named("contexts", "context", context_name)
        cluster = self._named("clusters", "cluster", context["cluster"])
        user = self._named("users", "user", context["user"]) if context.get("user") else {}
        if cluster.get("proxy-url"):
            raise ValueError("proxy-url is not supported")
        address = Address.parse(cluster["server"])
        return Access(
            address,
            self._tls(cluster, user) if address.tls else None,
            self._credentials(user, cluster),
            settings.namespace or context.get("namespace") or "default",
        )

    def _named(self, kind: str, field: str, name: str) -> dict[str, Any]:
        for entry in self._content.get(kind) or []:
            if entry.get("name") == name:
                found: dict[str, Any] = entry[field]
                return found
        raise ValueError(f"{name!r} is not among its {kind}")

    def _file(self, name: str) -> Path:
        return self._path.parent / Path(name).expanduser()

    def _tls(self, cluster: dict[str, Any], user: dict[str, Any]) -> ssl.SSLContext:
        authority = cluster.get("certificate-authority-data")
        if authority:
            tls = ssl.create_default_context(cadata=base64.b64decode(authority).decode("ascii"))
        elif cluster.get("certificate-authority"):
            path = self._file(cluster["certificate-authority"])
            tls = ssl.create_default_context(cafile=str(path))
        else:
            tls = ssl.create_default_context()
        if cluster.get("insecure-skip-tls-verify"):
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        certificate = self._data(user, "client-certificate")
        key = self._data(user, "client-key")
        if certificate and key:
            # Python's ssl reads certificates from files only.
            with tempfile.NamedTemporaryFile(prefix="stoker-") as pair:
                pair.write(certificate + b"\n" + key)
                pair.flush()
                tls.load_cert_chain(pair.name)
        return tls

    def _data(self, user: dict[str, Any], field: str) -> bytes | None:
        if user.get(f"{field}-data"):
            return base64.b64decode(user[f"{field}-data"])
        return self._file(user[field]).read_bytes() if user.get(field) else None

    def _credentials(self, user: dict[str, Any], cluster: dict[str, Any]) -> Credentials:
        if user.get("tokenFile"):
            return TokenFile(self._file(user["tokenFile"]))
        if user.get("token"):
            return StaticHeader(f"Bearer {user['token']}")
        if user.get("username"):
            pair = f"{user['username']}:{user.get('password', '')}".encode()
            return StaticHeader(f"Basic {base64.b64encode(pair).decode()}")
        if user.get("exec"):
            return ExecToken.from_kubeconfig(user["exec"], self._path.parent)
        if user.get("auth-provider"):
            raise ValueError("auth-provider is not supported; use its exec plugin")
        return NoCredentials()
