"""What a pod says of itself, and the engine it makes."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from pydantic import ValidationError

from stoker.router.config import EngineConfig, EngineKind, KubernetesSettings, PodTraits

ANNOTATION = "stoker/engine"
"""YAML: the fields of `kubernetes.engine` for this pod alone."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    annotations: dict[str, str] | None = None


class _Port(msgspec.Struct, rename="camel"):
    container_port: int
    name: str = ""


class _Container(msgspec.Struct):
    ports: list[_Port] | None = None


class _Spec(msgspec.Struct):
    containers: list[_Container] = []


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct):
    phase: str = ""
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    conditions: list[_Condition] | None = None


class Pod(msgspec.Struct):
    """A pod as the API server tells it, as far as it matters here."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def uid(self) -> str:
        """Another pod of the same name has another one."""
        return self.metadata.uid

    @property
    def ready(self) -> bool:
        """By its readiness probes."""
        conditions = self.status.conditions or []
        return any(one.type == "Ready" and one.status == "True" for one in conditions)

    @property
    def terminating(self) -> bool:
        return self.metadata.deletion_timestamp is not None

    @property
    def over(self) -> bool:
        """Ended, though the object is kept: evicted, completed."""
        return self.status.phase in ("Succeeded", "Failed")

    def port(self) -> int | None:
        """The port named `http`, else the only one."""
        ports = [port for one in self.spec.containers for port in one.ports or []]
        named = [port for port in ports if port.name == "http"]
        chosen = named or ports
        return chosen[0].container_port if len(chosen) == 1 else None


class PodUnclear(Exception):
    """A pod that cannot be an engine as it is; says why."""


def traits_of(pod: Pod, settings: KubernetesSettings) -> PodTraits:
    """What is said of a pod: of all in the settings, of itself in its annotation. Raises
    `PodUnclear`."""
    text = (pod.metadata.annotations or {}).get(ANNOTATION)
    if text is None:
        return settings.engine
    try:
        own: Any = yaml.safe_load(text)
        if not isinstance(own, dict):
            raise ValueError("expected something like {kind: vllm, port: 8000}")
        return PodTraits.model_validate(settings.engine.model_dump(exclude_unset=True) | own)
    except ValidationError as error:
        reasons = [
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        ]
        raise PodUnclear(f"its annotation {ANNOTATION} is wrong: {'; '.join(reasons)}") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise PodUnclear(f"its annotation {ANNOTATION} cannot be read: {error}") from None


def engine_of(pod: Pod, settings: KubernetesSettings, kind: EngineKind) -> EngineConfig:
    """The engine in a pod; `kind` where nothing is said of that. Raises `PodUnclear`."""
    traits = traits_of(pod, settings)
    port = traits.port or pod.port()
    if port is None:
        raise PodUnclear(
            "which port is the engine's? Say `port` in kubernetes.engine or in its annotation "
            f"{ANNOTATION}, or give its container a port named http"
        )
    ip = pod.status.pod_ip
    if not ip:
        raise PodUnclear("it has no address yet")
    host = f"[{ip}]" if ":" in ip else ip
    fields = traits.model_dump(
        exclude={"kind", "port", "kv_events_port", "kv_replay_port"}, exclude_unset=True
    )
    events, replay = traits.kv_events_port, traits.kv_replay_port
    try:
        return EngineConfig(
            name=pod.name,
            kind=traits.kind or kind,
            url=f"http://{host}:{port}",
            api_key=settings.api_key,
            kv_events=f"tcp://{host}:{events}" if events else None,
            kv_replay=f"tcp://{host}:{replay}" if replay else None,
            **fields,
        )
    except ValidationError as error:
        raise PodUnclear(str(error)) from None
