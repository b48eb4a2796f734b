"""How a server is doing, in figures: those of an engine, or of a router and its engines.

All are taken from `/metrics`, under the names that Stoker's engine, vLLM and llama.cpp give
them; the router's own description of its engines from `/health` and `/models/status`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from stoker.client.http import ApiClient, ServerUnreachable
from stoker.client.scrape import Percentiles, Scrape, Span
from stoker.router.engines.load import parse_load

_PROMPT = ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total")
_GENERATED = ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
_RUNNING = "vllm:num_requests_running"
_START = "process_start_time_seconds"
_MEMORY = "process_resident_memory_bytes"


@dataclass(frozen=True, slots=True)
class EngineVitals:
    """An engine's figures; rates and percentiles are of the time between two readings. None:
    it does not tell, or nothing happened."""

    models: tuple[str, ...]
    uptime: float | None
    """Seconds."""
    memory_bytes: float | None
    running: int
    waiting: int
    kv_usage: float | None
    """Share of the KV cache's blocks in use."""
    kv_tokens: int | None
    """Tokens it has room for."""
    prefix_hit_rate: float | None
    prompt_tokens_per_s: float | None
    generation_tokens_per_s: float | None
    requests_per_s: float | None
    preemptions: int | None
    """Since it was started."""
    ttft: Percentiles | None
    itl: Percentiles | None
    e2e: Percentiles | None


@dataclass(frozen=True, slots=True)
class RoutedEngine:
    """One of a router's engines, as the router sees it."""

    name: str
    kind: str
    models: tuple[str, ...]
    healthy: bool
    reason: str | None
    breaker: str
    in_flight: int
    running: int | None
    waiting: int | None
    kv_usage: float | None
    prefix_hit_rate: float | None
    """Share of the prompts' tokens that it said it had cached."""
    generation_tokens_per_s: float | None
    requests_per_s: float | None
    first_byte: Percentiles | None
    latency: Percentiles | None


@dataclass(frozen=True, slots=True)
class RouterVitals:
    """A router's figures."""

    models: tuple[str, ...]
    uptime: float | None
    memory_bytes: float | None
    running: int
    """Requests at engines."""
    waiting: int
    """… and in the queue."""
    prefix_hit_rate: float | None
    prompt_tokens_per_s: float | None
    generation_tokens_per_s: float | None
    requests_per_s: float | None
    retries_per_s: float | None
    rejected_per_s: float | None
    first_byte: Percentiles | None
    latency: Percentiles | None
    engines: tuple[RoutedEngine, ...]


Vitals = EngineVitals | RouterVitals


@dataclass(frozen=True, slots=True)
class Reading:
    """What a server said at one moment."""

    metrics: Scrape
    wall: float
    """When, in seconds since 1970."""
    engines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """A router's engines, by name."""
    loads: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What those said of themselves last, by name; empty where the router wants a key for it."""
    models: tuple[str, ...] = ()
    """An engine's, where its metrics have no names."""

    @property
    def is_router(self) -> bool:
        return "stoker_router_active_requests" in self.metrics.samples

    def is_of_another_process(self, other: Reading) -> bool:
        """Whether the server was started anew between the two."""
        return self.metrics.total(_START) != other.metrics.total(_START)


async def read(client: ApiClient, *, within: float = 10.0) -> Reading:
    """Ask a server. Raises `ServerUnreachable` or `ServerRefused`."""
    page = (await client.get("/metrics", within=within)).raise_for_status()
    scrape = Scrape.parse(page.body.decode("utf-8", "replace"), time.monotonic())
    reading = Reading(scrape, time.time())
    if not reading.is_router:
        return (
            reading if _RUNNING in scrape.samples else await _with_models(reading, client, within)
        )
    health = (await client.get("/health", within=within)).json()
    status = await client.get("/models/status", within=within)
    kinds = status.json() if status.status == 200 else {}
    loads = {
        name: engine.get("memory_stats") or {}
        for kind in kinds.values()
        if isinstance(kind, dict)
        for name, engine in kind.get("engines", {}).items()
    }
    return Reading(scrape, reading.wall, health.get("engines", {}), loads)


async def _with_models(reading: Reading, client: ApiClient, within: float) -> Reading:
    answer = await client.get("/v1/models", within=within)
    if answer.status != 200:
        return reading
    listed = answer.json()
    cards = listed.get("data") if isinstance(listed, dict) else None
    names = [card.get("id") for card in cards or () if isinstance(card, dict)]
    return replace(reading, models=tuple(name for name in names if isinstance(name, str)))


def vitals(first: Reading, last: Reading) -> Vitals:
    """The figures of a server that was read twice.

    Raises `ServerUnreachable` when it told none that are known.
    """
    span = Span(first.metrics, last.metrics)
    return _router(span, last) if last.is_router else _engine(span, last)


def _uptime(last: Reading) -> float | None:
    started = last.metrics.total(_START)
    return None if started is None else max(0.0, last.wall - started)


def _engine(span: Span, last: Reading) -> EngineVitals:
    metrics = span.last
    load = parse_load(metrics.text, metrics.at)
    if load is None:
        raise ServerUnreachable(
            "it says nothing of its load at /metrics: it is loading a model, makes embeddings "
            "only, or is no server that Stoker knows (its own, vLLM, or llama-server --metrics)"
        )
    queries = span.grown("vllm:prefix_cache_queries_total")
    hits = span.grown("vllm:prefix_cache_hits_total")
    preemptions = metrics.total("vllm:num_preemptions_total")
    known = load.num_blocks is not None and load.block_size is not None
    return EngineVitals(
        models=tuple(metrics.labels("model_name", _RUNNING)) or last.models,
        uptime=_uptime(last),
        memory_bytes=metrics.total(_MEMORY),
        running=load.running,
        waiting=load.waiting,
        kv_usage=load.kv_usage,
        kv_tokens=(load.num_blocks or 0) * (load.block_size or 0) if known else None,
        prefix_hit_rate=hits / queries if queries and hits is not None else None,
        prompt_tokens_per_s=span.rate(*_PROMPT),
        generation_tokens_per_s=span.rate(*_GENERATED),
        requests_per_s=span.rate("vllm:request_success_total"),
        preemptions=None if preemptions is None else int(preemptions),
        ttft=span.percentiles("vllm:time_to_first_token_seconds"),
        itl=span.percentiles(
            "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"
        ),
        e2e=span.percentiles("vllm:e2e_request_latency_seconds"),
    )


def _router(span: Span, last: Reading) -> RouterVitals:
    metrics = span.last
    prefix = "stoker_router_"
    return RouterVitals(
        models=tuple(
            model for model in metrics.labels("model", f"{prefix}queue_length") if model != "-"
        ),
        uptime=_uptime(last),
        memory_bytes=metrics.total(_MEMORY),
        running=int(metrics.total(f"{prefix}engine_in_flight") or 0),
        waiting=int(metrics.total(f"{prefix}queue_length") or 0),
        prefix_hit_rate=_cached_share(span),
        prompt_tokens_per_s=span.rate(f"{prefix}prompt_tokens_total") or 0.0,
        generation_tokens_per_s=span.rate(f"{prefix}completion_tokens_total") or 0.0,
        requests_per_s=span.rate(f"{prefix}requests_total") or 0.0,
        retries_per_s=span.rate(f"{prefix}retries_total") or 0.0,
        rejected_per_s=span.rate(f"{prefix}rejected_total") or 0.0,
        first_byte=span.percentiles(f"{prefix}first_byte_seconds"),
        latency=span.percentiles(f"{prefix}latency_seconds"),
        engines=tuple(_routed(span, last, name) for name in last.engines),
    )


def _routed(span: Span, last: Reading, name: str) -> RoutedEngine:
    known, load = last.engines[name], last.loads.get(name, {})
    prefix = "stoker_router_"
    return RoutedEngine(
        name=name,
        kind=known["kind"],
        models=tuple(known["models"]),
        healthy=known["healthy"],
        reason=known["reason"],
        breaker=known["breaker"],
        in_flight=known["in_flight"],
        running=load.get("running"),
        waiting=load.get("waiting"),
        kv_usage=load.get("kv_cache_usage"),
        prefix_hit_rate=_cached_share(span, engine=name),
        generation_tokens_per_s=span.rate(f"{prefix}completion_tokens_total", engine=name) or 0.0,
        requests_per_s=span.rate(f"{prefix}requests_total", engine=name) or 0.0,
        first_byte=span.percentiles(f"{prefix}first_byte_seconds", engine=name),
        latency=span.percentiles(f"{prefix}latency_seconds", engine=name),
    )


def _cached_share(span: Span, **labels: str) -> float | None:
    """Of the tokens of prompts that a router passed on, those that engines had cached."""
    tokens = span.grown("stoker_router_prompt_tokens_total", **labels)
    cached = span.grown("stoker_router_cached_tokens_total", **labels)
    return (cached or 0.0) / tokens if tokens else None
