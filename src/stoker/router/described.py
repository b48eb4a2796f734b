"""The shapes of what the router itself answers, for its OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class EngineHealth(BaseModel):
    kind: str
    healthy: bool
    reason: str | None
    """Why not."""
    breaker: Literal["closed", "half_open", "open"]
    draining: bool
    """It finishes what it has and gets nothing new."""
    in_flight: int
    in_flight_elsewhere: int
    """What other routers have there, if they tell."""
    models: list[str]


class PodHealth(BaseModel):
    state: Literal["unready", "asked", "serving", "draining"]
    reason: str | None
    """Why it gets no requests."""


class Pods(BaseModel):
    """What is known of the pods that may be engines."""

    connected: bool
    reason: str | None
    """Why the API server is not followed just now."""
    pods: dict[str, PodHealth]


class RouterHealth(BaseModel):
    """The router answers, so it is well; its engines' state beside it."""

    status: Literal["ok", "draining"]
    engines: dict[str, EngineHealth]
    kubernetes: Pods | None = None


class Ready(BaseModel):
    """Whether a request for any model would find an engine now."""

    ready: bool
    models: dict[str, bool]


class FleetModel(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    """The model that an alias stands for."""
    max_model_len: int | None
    engines: list[str]


class FleetModels(BaseModel):
    object: Literal["list"]
    data: list[FleetModel]


class KnownModel(BaseModel):
    own_name: str
    """What the engine calls it."""
    context: int | None
    vocabulary: int | None
    embedding_size: int | None
    layers: int | None
    size_gb: float | None


class EngineMemory(BaseModel):
    kv_cache_usage: float | None
    """From 0 to 1."""
    num_blocks: int | None
    block_size: int | None
    allocated_gb: float | None
    cached_gb: float | None
    running: int | None
    waiting: int | None


class EngineStatus(BaseModel):
    available: bool
    load: float
    """Requests in flight against capacity, from 0 to 1."""
    in_flight: int
    capacity: int
    tokens_per_second: float | None
    memory_stats: EngineMemory | None
    model_info: dict[str, KnownModel]


class KindStatus(BaseModel):
    available: bool
    load: float
    memory_stats: EngineMemory | None
    """Of the first engine that is available."""
    model_info: dict[str, KnownModel] | None
    engines: dict[str, EngineStatus]


class ModelsStatus(BaseModel):
    """Every kind of engine, then every engine."""

    timestamp: str
    vllm: KindStatus
    llama_cpp: KindStatus
    native: KindStatus | None = None
    openai: KindStatus | None = None


class Generated(BaseModel):
    text: str
    backend_used: str
    generation_time: float
    """Seconds."""
    tokens_per_second: float | None
    engine: str
    model: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


class GeneratedEvent(BaseModel):
    """One of three; `done` or `error` is the last."""

    token: str | None = None
    done: bool | None = None
    error: str | None = None


class BatchResult(BaseModel):
    index: int
    status: int
    engine: str
    body: Any


class BatchResults(BaseModel):
    object: Literal["list"]
    data: list[BatchResult]
    succeeded: int
    failed: int
    total_time: float
    """Seconds."""


class UsageFigures(BaseModel):
    requests: int
    failed: int
    cancelled: int
    refused: int
    estimated: int
    """Requests whose tokens the engine did not tell."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_seconds: float
    cost: float
    cost_per_1000_requests: float | None
    cost_per_million_tokens: float | None


class UsageEntry(UsageFigures):
    day: str | None = None
    key: str | None = None
    model: str | None = None
    engine: str | None = None


class Usage(BaseModel):
    object: Literal["list"]
    by: list[str]
    since: str
    until: str
    data: list[UsageEntry]
    total: UsageFigures
