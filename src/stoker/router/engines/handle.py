"""An engine somewhere: the router's whole knowledge of it."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from stoker.errors import ConfigError
from stoker.router.config import Breaker, EngineConfig, EngineKind, Health
from stoker.router.engines.breaker import BreakerState, CircuitBreaker
from stoker.router.engines.health import HealthState
from stoker.router.engines.load import EngineLoad
from stoker.router.engines.meter import Meter
from stoker.router.engines.tariff import Tariff

if TYPE_CHECKING:
    from stoker.router.upstream import Pool

# After a failed connection an engine is chosen last, this long at first, doubling up to the limit.
_SUSPECT_S = 0.1
_SUSPECT_LIMIT_S = 5.0
# A member read from its Enum costs ten times as much as a name of the module.
_CLOSED = BreakerState.CLOSED


@dataclass(frozen=True)
class Address:
    """Where an engine listens. `path` precedes every request's own path."""

    host: str
    port: int
    tls: bool
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        host = parts.hostname or ""
        return cls(host, parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context() if self.tls else None


@dataclass(frozen=True)
class EngineModel:
    """A model (or LoRA adapter) that an engine serves."""

    own_name: str
    """What the engine calls it; the router's name for it may be another."""
    max_model_len: int | None = None
    adapter: bool = False
    """Whether it is a LoRA adapter on another model."""
    vocabulary: int | None = None
    embedding_size: int | None = None
    layers: int | None = None
    size_bytes: int | None = None
    """Of its weights."""


@dataclass(frozen=True)
class Elsewhere:
    """What other routers have at an engine, as far as they told."""

    routers: int = 1
    """How many there are, this one included."""
    in_flight: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0


class EngineHandle:
    """One engine: what it serves, how it is, and what the router has given it.

    In-flight work is the router's own count, taken by `take` and given back by the `Lease`,
    whatever way the request ends.
    """

    __slots__ = (
        "_connect_failures",
        "_share_s",
        "_shared_at",
        "abilities",
        "address",
        "ask_usage",
        "authorization",
        "breaker",
        "capacity",
        "declared_context",
        "declared_models",
        "down_since",
        "draining",
        "elsewhere",
        "gpu",
        "health",
        "hold_until",
        "host_header",
        "in_flight",
        "in_flight_everywhere",
        "kind",
        "kv_events",
        "kv_replay",
        "load",
        "meter",
        "models",
        "name",
        "name_bytes",
        "output_tokens_in_flight",
        "own_share",
        "path_prefix",
        "pool",
        "price",
        "prompt_tokens_in_flight",
        "speed",
        "suspect_until",
    )

    def __init__(self, config: EngineConfig, breaker: Breaker, health: Health) -> None:
        self.name = config.name
        self.name_bytes = config.name.encode()
        self.kind: EngineKind = config.kind
        if config.url is None:
            raise ConfigError(f"engine {config.name}: no `url`; `stoker up` starts such engines")
        self.address = Address.parse(config.url)
        self.host_header = self.address.host_header.encode("ascii")
        self.path_prefix = quote(self.address.path, safe="/%").encode()
        self.authorization = b"Bearer " + config.api_key.encode() if config.api_key else None
        self.pool: Pool | None = None
        """Its connections, once there has been one; its dispatcher's."""
        self.capacity = config.capacity
        self.declared_models: Mapping[str, str] = dict(config.models)
        """The router's name for each model → the engine's own; empty: whatever it lists."""
        self.models: Mapping[str, EngineModel] = {
            name: EngineModel(own, config.context) for name, own in config.models.items()
        }
        self.declared_context = config.context
        """Tokens that prompt and answer may have together, whatever the engine says."""
        self.gpu = config.runs_on_gpu
        self.speed = config.speed
        """Declared; see `meter` for what was measured."""
        self.price = Tariff(config.price) if config.price is not None else None
        self.abilities = config.abilities
        """What it can do beyond text; None when nothing is declared, so anything may be."""
        self.ask_usage = config.ask_usage
        """Whether it can be asked what a stream used (`stream_options`)."""
        self.meter = Meter()
        self.kv_events = config.kv_events
        """Where it publishes its KV events, if it does,"""
        self.kv_replay = config.kv_replay
        """and where it repeats them."""
        self.breaker = CircuitBreaker(breaker)
        self.health = HealthState(health)
        self.load: EngineLoad | None = None
        self.draining = False
        self.elsewhere = Elsewhere()
        self.in_flight = 0
        """This router's requests,"""
        self.in_flight_everywhere = 0
        """and with them the other routers'."""
        self.own_share = 0
        """Of the capacity, this router's part where there are several."""
        self.prompt_tokens_in_flight = 0
        """Of prompts not yet answered with a first byte, what must be read anew."""
        self.output_tokens_in_flight = 0
        """That requests in flight may still generate."""
        self.hold_until = float("-inf")
        self.down_since = float("-inf")
        """When it was last found unhealthy; meaningless while it is healthy."""
        self.suspect_until = float("-inf")
        """A connection failed a moment ago: until then, others are chosen first."""
        self._connect_failures = 0
        self._share_s = 0.0
        """The engine's seconds that a request in flight from the start would have had, each
        second divided among those in flight."""
        self._shared_at = 0.0

    @property
    def busy(self) -> float:
        """Load from 0 to 1: requests in flight against what the engine works on at once."""
        load = self.in_flight_everywhere / self.capacity
        return load if load < 1.0 else 1.0

    @property
    def has_place(self) -> bool:
        """Whether it can take one more. A router may always use its share of the capacity: what
        others have is known a moment late, and must not keep it out for good."""
        return self.in_flight_everywhere < self.capacity or self.in_flight < self.own_share

    def hear(self, elsewhere: Elsewhere) -> None:
        """What other routers have here now."""
        self.elsewhere = elsewhere
        self.in_flight_everywhere = self.in_flight + elsewhere.in_flight
        routers = elsewhere.routers
        self.own_share = max(1, self.capacity // routers) if routers > 1 else 0

    @property
    def decode_rate(self) -> float | None:
        """Tokens it generates per second: declared, else measured, else not known."""
        return self.speed.decode if self.speed is not None else self.meter.tokens_per_s

    def can(self, needs: frozenset[str]) -> bool:
        """Whether it can do all that is needed, as far as is declared."""
        return self.abilities is None or needs <= self.abilities

    def fits(self, model: str | None, tokens: int) -> bool:
        """Whether so many tokens fit a model's context, as far as it has told."""
        served = self.models.get(model) if model is not None else None
        return served is None or served.max_model_len is None or tokens <= served.max_model_len

    def take(self, prompt_tokens: int, output_tokens: int, now: float) -> Lease:
        """Count one request as in flight: tokens it has still to read and may write, as far as
        can be told before."""
        if self.in_flight == 0:
            self.meter.work_began(now)
        else:
            self._share_s += (now - self._shared_at) / self.in_flight
        self._shared_at = now
        self.in_flight += 1
        self.in_flight_everywhere += 1
        self.prompt_tokens_in_flight += prompt_tokens
        self.output_tokens_in_flight += output_tokens
        return Lease(self, prompt_tokens, output_tokens, self._share_s)

    def share(self, now: float) -> float:
        """Seconds of the engine's time per request in flight, up to now: a request's own part is
        the difference between its end and its beginning, and all parts make the time in which
        the engine had work."""
        if self.in_flight:
            self._share_s += (now - self._shared_at) / self.in_flight
        self._shared_at = now
        return self._share_s

    def ready(self, now: float) -> bool:
        """Usable, trusted and with room: the usual case, in one call."""
        return (
            (self.in_flight_everywhere < self.capacity or self.in_flight < self.own_share)
            and self.health.healthy
            and not self.draining
            and self.hold_until <= now
            and self.suspect_until <= now
            and (self.breaker.state is _CLOSED or self.breaker.allows(now))
        )

    def trusted(self, now: float) -> bool:
        """Nothing speaks against sending a request now."""
        return self.suspect_until <= now and self.breaker.allows(now)

    def usable(self, now: float) -> bool:
        """Healthy by its probes, not draining, and not asking to be left alone."""
        return self.health.healthy and not self.draining and self.hold_until <= now

    def hold_off(self, until: float) -> None:
        """The engine asked to be left alone until then (Retry-After)."""
        self.hold_until = max(self.hold_until, until)

    def connected(self) -> None:
        """A connection was made: nothing against choosing the engine any more."""
        self._connect_failures = 0
        self.suspect_until = float("-inf")

    def connect_failed(self, now: float) -> None:
        """No connection could be made: choose others first for a while, longer each time."""
        wait = min(_SUSPECT_S * 2.0**self._connect_failures, _SUSPECT_LIMIT_S)
        self._connect_failures = min(self._connect_failures + 1, 16)
        self.suspect_until = now + wait

    def __repr__(self) -> str:
        return f"<engine {self.name} {self.kind} in_flight={self.in_flight}>"


class Lease:
    """A request's place on an engine; giving it back twice does nothing."""

    __slots__ = ("_engine", "_output_tokens", "_prompt_tokens", "_share_before")

    def __init__(
        self, engine: EngineHandle, prompt_tokens: int, output_tokens: int, share_before: float
    ) -> None:
        self._engine: EngineHandle | None = engine
        self._prompt_tokens = prompt_tokens
        self._output_tokens = output_tokens
        self._share_before = share_before

    def prefilled(self) -> None:
        """The answer has begun, so the prompt has been read."""
        if self._engine is not None:
            self._engine.prompt_tokens_in_flight -= self._prompt_tokens
            self._prompt_tokens = 0

    def give_back(self, now: float) -> float:
        """The seconds of the engine's time that the request had; 0 the second time."""
        engine = self._engine
        seconds = 0.0
        if engine is not None:
            self._engine = None
            seconds = engine.share(now) - self._share_before
            engine.in_flight -= 1
            engine.in_flight_everywhere -= 1
            engine.prompt_tokens_in_flight -= self._prompt_tokens
            engine.output_tokens_in_flight -= self._output_tokens
            if engine.in_flight == 0:
                engine.meter.work_ended(now)
        return seconds
