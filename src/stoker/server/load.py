"""From a model's name to a `ServedModel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stoker.engine.async_engine import AsyncEngine
from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.factory import build_engine
from stoker.engine.kv_events import KVEventListener
from stoker.engine.stats import StepStats
from stoker.errors import MemoryPlanError
from stoker.model.bert import is_bert, open_bert
from stoker.model.store import resolve
from stoker.model.tokenizer import Tokenizer
from stoker.runner.encoder import EncoderRunner
from stoker.server.state import ServedEncoder, ServedModel
from stoker.telemetry.metrics import EngineMetrics
from stoker.telemetry.tracing.export import Tracing

if TYPE_CHECKING:
    from stoker.telemetry.tracing.requests import RequestTracer


def load_model(
    model: str,
    config: EngineConfig,
    *,
    served_name: str,
    chat_template: str | None = None,
    kv_listener: KVEventListener | None = None,
    tracing: Tracing | None = None,
) -> ServedModel | ServedEncoder:
    """Load a model and start its engine; an encoder has none.

    `served_name` labels its metrics; `chat_template` is Jinja text in place of the model's own;
    `kv_listener` hears what the prefix cache holds; `tracing` gets a span for each request.
    Raises `ModelError`, `MemoryPlanError` or `TemplateError`.
    """
    path = resolve(model)
    if is_bert(path):
        return load_encoder(path, config.max_model_len)
    loaded = build_engine(model, config, chat_template=chat_template, kv_listener=kv_listener)
    engine = loaded.engine
    cache = engine.runner.cache
    metrics = EngineMetrics(
        engine.stats,
        model_name=served_name,
        max_model_len=engine.max_model_len,
        cache_config={
            "block_size": str(cache.block_size),
            "cache_dtype": cache.dtype,
            "enable_prefix_caching": str(config.enable_prefix_caching),
            "kv_cache_memory_bytes": str(loaded.plan.kv_bytes),
            "num_gpu_blocks": str(cache.num_blocks),
            "num_cpu_blocks": "0",
        },
    )
    tracer = observe(engine, metrics, tracing, served_name)
    return ServedModel(
        engine=AsyncEngine(engine),
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        weight_bytes=loaded.plan.weight_bytes,
        max_model_len=engine.max_model_len,
        metrics=metrics,
        tracer=tracer,
    )


def observe(
    engine: Engine, metrics: EngineMetrics, tracing: Tracing | None, served_name: str
) -> RequestTracer | None:
    """Have an engine's steps counted in `metrics`, and told of in spans where there is `tracing`;
    then the tracer, to be told whose the requests are."""
    if tracing is None:
        engine.step_listener = metrics.record
        return None
    from stoker.telemetry.tracing.requests import RequestTracer

    tracer = RequestTracer(tracing.tracer, served_name)

    def record(step: StepStats) -> None:
        metrics.record(step)
        tracer.record(step)

    engine.step_listener = record
    return tracer


def load_encoder(path: Path, max_model_len: int | None = None) -> ServedEncoder:
    """Load an encoder. Raises `ModelError`, or `MemoryPlanError` for more than it reaches."""
    encoder = EncoderRunner(open_bert(path))
    longest = encoder.spec.max_position
    if max_model_len is not None and max_model_len > longest:
        raise MemoryPlanError(
            f"--max-model-len is {max_model_len}, but the model reaches {longest} tokens"
        )
    return ServedEncoder(encoder, Tokenizer.load(path), max_model_len or longest)
