"""The settings in `stoker.yaml`, and what they may be; `configfile` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from stoker.errors import ConfigError
from stoker.router.storage.url import check_url, default_url
from stoker.telemetry.tracing.export import collector_url

EngineKind = Literal["native", "vllm", "llama_cpp", "openai"]
Ability = Literal["tools", "vision", "audio", "schema"]
PolicyName = Literal[
    "auto",
    "round_robin",
    "least_in_flight",
    "least_work",
    "power_of_two",
    "session",
    "prefix",
    "cost",
    "kv",
]

# How many requests an engine of a kind works on at once, when the file does not say.
DEFAULT_MAX_IN_FLIGHT: Mapping[EngineKind, int] = {
    "native": 64,
    "vllm": 256,
    "llama_cpp": 32,
    "openai": 256,
}

KEY_NAME = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$"
ApiKey = Annotated[str, Field(pattern=r"^[\x21-\x7e]+$")]
Port = Annotated[int, Field(ge=1, le=65535)]
KvAddress = Annotated[str, Field(pattern=r"^(tcp|ipc)://.+")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_collector(endpoint: str) -> str:
    try:
        return collector_url(endpoint)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class Timeouts(_Section):
    """Seconds. There is none on the total: a long answer that keeps coming is a good answer."""

    connect: Seconds = 2.0
    first_byte: Seconds = 600.0
    idle: Seconds = 120.0
    client_idle: Seconds = 120.0
    client_request: Seconds = 60.0


class Retries(_Section):
    """Attempts on other engines, made only before the client has seen a byte."""

    attempts: Annotated[int, Field(ge=1, le=16)] = 4
    backoff: Seconds = 0.05
    backoff_factor: Annotated[float, Field(ge=1, le=10)] = 1.5
    backoff_max: Seconds = 30.0
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    budget: Annotated[float, Field(ge=0, le=1)] = 0.2


class Breaker(_Section):
    """When an engine that keeps failing is left alone."""

    failures: Annotated[int, Field(ge=1)] = 10
    open_for: Seconds = 60.0
    successes: Annotated[int, Field(ge=1)] = 3


class Health(_Section):
    """How an engine's health is probed."""

    interval: Seconds = 2.0
    timeout: Seconds = 2.0
    fails: Annotated[int, Field(ge=1)] = 3
    passes: Annotated[int, Field(ge=1)] = 2


class Admission(_Section):
    """The queue in front of the engines."""

    max_queue: Annotated[int, Field(ge=0)] = 1024
    max_wait: Seconds = 30.0


class Storage(_Section):
    """The database for what must outlive the router."""

    url: Annotated[str, AfterValidator(check_url)] = Field(default_factory=default_url)


class Batches(_Section):
    """Files and batches."""

    file_limit: ByteSize = ByteSize(200 * 1024 * 1024)
    storage_limit: ByteSize = ByteSize(10 * 1024**3)
    storage_limit_per_key: ByteSize | None = None
    max_lines: Annotated[int, Field(ge=1)] = 50_000
    max_in_flight: Annotated[int, Field(ge=1)] = 256
    share: Annotated[float, Field(gt=0, le=1)] = 0.75
    hold: Seconds = 30.0


class RouterSection(_Section):
    """Where the router listens, and how it chooses."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    policy: PolicyName = "auto"
    body_limit: ByteSize = ByteSize(32 * 1024 * 1024)
    drain: Seconds = 30.0
    access_log: Annotated[str, Field(min_length=1)] | None = None


class Speed(_Section):
    """Tokens per second of the whole engine, many requests together."""

    decode: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    prefill: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class Price(_Section):
    """What an engine costs, in one currency for the whole file: by the token or by the hour."""

    input_per_million: Money = 0.0
    cached_input_per_million: Money | None = None
    output_per_million: Money = 0.0
    per_hour: Money = 0.0


class Supervision(_Section):
    """How engines that the router starts itself are kept running."""

    logs: str = "~/.cache/stoker/logs"
    backoff: Seconds = 1.0
    backoff_max: Seconds = 60.0
    hung: Seconds = 60.0
    grace: Seconds = 20.0


class EngineTraits(_Section):
    """What an engine is good for, wherever it runs."""

    models: dict[str, str] = {}
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    context: Annotated[int, Field(ge=1)] | None = None
    gpu: bool | None = None
    speed: Speed | None = None
    price: Price | None = None
    abilities: frozenset[Ability] | None = None
    ask_usage: bool = True

    @field_validator("models", mode="before")
    @classmethod
    def _list_means_same_name(cls, models: Any) -> Any:
        if isinstance(models, list):
            return {name: name for name in models}
        return models


class EngineConfig(EngineTraits):
    """One engine: where it is, or how to start it, and what it is good for."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$")]
    kind: EngineKind
    url: str | None = None
    model: Annotated[str, Field(min_length=1)] | None = None
    args: tuple[str, ...] = ()
    executable: str | None = None
    env: dict[str, str] = {}
    api_key: ApiKey | None = None
    kv_events: KvAddress | None = None
    kv_replay: KvAddress | None = None

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            port_fits = parts.port is None or parts.port > 0
        except ValueError as error:
            raise ValueError(f"{url!r} is not a URL ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_fits:
            raise ValueError(f"{url!r} is not an address like http://127.0.0.1:8000")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError(f"{url!r} has characters that do not belong in a URL")
        if parts.query or parts.fragment or parts.username:
            raise ValueError(f"{url!r} may hold a host, a port and a path, nothing else")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if (self.url is None) == (self.model is None):
            raise ValueError(
                "an engine has either a `url`, where it runs already, or a `model`, with which "
                "it is started here"
            )
        if self.url is not None and (self.args or self.executable or self.env):
            raise ValueError("`args`, `executable` and `env` are for engines started here")
        if self.kind == "openai" and self.url is None:
            raise ValueError("an engine of kind openai needs its `url`")
        return self

    @property
    def runs_on_gpu(self) -> bool:
        """As declared; vLLM and remote services are taken to, the others not to."""
        return self.kind in ("vllm", "openai") if self.gpu is None else self.gpu

    @property
    def capacity(self) -> int:
        """Requests this engine works on at once; further ones wait in the router."""
        return self.max_in_flight or DEFAULT_MAX_IN_FLIGHT[self.kind]


class PodTraits(EngineTraits):
    """What is said of pods: of all in `kubernetes.engine`, of one in its annotation."""

    kind: EngineKind | None = None
    port: Port | None = None
    kv_events_port: Port | None = None
    kv_replay_port: Port | None = None


class KubernetesSettings(_Section):
    """Engines that are found as pods."""

    selector: Annotated[str, Field(min_length=1)]
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")] | None = None
    kubeconfig: str | None = None
    context: str | None = None
    api_key: ApiKey | None = None
    remember: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0
    engine: PodTraits = PodTraits()


class Budget(_Section):
    """Money a key may spend, in the prices' currency; days and months are UTC's."""

    per_day: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    per_month: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class KeyLimits(_Section):
    """What a key may do; None, or no models named, is no limit."""

    models: frozenset[str] | None = None
    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    budget: Budget = Budget()
    admin: bool = False
    """Whether it may see every key's usage."""


class KeyConfig(KeyLimits):
    """A key, known by its hash."""

    name: Annotated[str, Field(pattern=KEY_NAME)]
    hash: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class UsageSettings(_Section):
    """Where it is recorded who used what; and how often, in seconds."""

    flush: Annotated[float, Field(gt=0, le=60)] = 0.5


class RedisSettings(_Section):
    """Where several routers share their keys' limits per minute, loads and moved sessions."""

    url: Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.+")]
    prefix: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,64}$")] = "stoker"
    timeout: Annotated[float, Field(gt=0, le=10)] = 0.5


class Traces(_Section):
    """OpenTelemetry traces."""

    endpoint: Annotated[str, AfterValidator(_check_collector)] | None = None


class Config(_Section):
    """The whole of `stoker.yaml`."""

    router: RouterSection = RouterSection()
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    breaker: Breaker = Breaker()
    health: Health = Health()
    admission: Admission = Admission()
    supervision: Supervision = Supervision()
    storage: Storage = Field(default_factory=Storage)
    batches: Batches = Batches()
    default_model: str | None = None
    aliases: dict[str, str] = {}
    require_key: bool | None = None
    keys: tuple[KeyConfig, ...] | None = None
    usage: UsageSettings = UsageSettings()
    redis: RedisSettings | None = None
    traces: Traces = Traces()
    kubernetes: KubernetesSettings | None = None
    engines: tuple[EngineConfig, ...] = ()

    @property
    def keys_required(self) -> bool:
        """Whether a request without a known key is refused: as said, else if there is a list of
        keys, were it an empty one."""
        return self.keys is not None if self.require_key is None else self.require_key

    @model_validator(mode="after")
    def _at_least_one(self) -> Self:
        if not self.engines and self.kubernetes is None:
            raise ValueError("`engines` needs at least one engine, unless `kubernetes` finds them")
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        seen: set[str] = set()
        for engine in self.engines:
            if engine.name in seen:
                raise ValueError(f"two engines are called {engine.name!r}; names must differ")
            seen.add(engine.name)
        hashes: dict[str, str] = {}
        for key in self.keys or ():
            if key.name in hashes.values():
                raise ValueError(f"two keys are called {key.name!r}; names must differ")
            if key.hash in hashes:
                raise ValueError(f"{key.name!r} and {hashes[key.hash]!r} are the same key")
            hashes[key.hash] = key.name
        for alias, target in self.aliases.items():
            if target in self.aliases:
                raise ValueError(
                    f"the alias {alias!r} points at {target!r}, which is an alias itself; "
                    "point it at a model"
                )
        return self
