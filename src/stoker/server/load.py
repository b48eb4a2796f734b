"""From a model's name to a `ServedModel`."""

from __future__ import annotations

from pathlib import Path

from stoker.engine.async_engine import AsyncEngine
from stoker.engine.config import EngineConfig
from stoker.engine.factory import build_engine
from stoker.engine.kv_events import KVEventListener
from stoker.errors import MemoryPlanError
from stoker.model.bert import is_bert, open_bert
from stoker.model.store import resolve
from stoker.model.tokenizer import Tokenizer
from stoker.runner.encoder import EncoderRunner
from stoker.server.state import ServedEncoder, ServedModel
from stoker.telemetry.metrics import EngineMetrics


def load_model(
    model: str,
    config: EngineConfig,
    *,
    served_name: str,
    chat_template: str | None = None,
    kv_listener: KVEventListener | None = None,
) -> ServedModel | ServedEncoder:
    """Load a model and start its engine; an encoder has none.

    `served_name` labels its metrics; `chat_template` is Jinja text in place of the model's own;
    `kv_listener` hears what the prefix cache holds.
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
    engine.step_listener = metrics.record
    return ServedModel(
        engine=AsyncEngine(engine),
        tokenizer=loaded.tokenizer,
        template=loaded.template,
        weight_bytes=loaded.plan.weight_bytes,
        max_model_len=engine.max_model_len,
        metrics=metrics,
    )


def load_encoder(path: Path, max_model_len: int | None = None) -> ServedEncoder:
    """Load an encoder. Raises `ModelError`, or `MemoryPlanError` for more than it reaches."""
    encoder = EncoderRunner(open_bert(path))
    longest = encoder.spec.max_position
    if max_model_len is not None and max_model_len > longest:
        raise MemoryPlanError(
            f"--max-model-len is {max_model_len}, but the model reaches {longest} tokens"
        )
    return ServedEncoder(encoder, Tokenizer.load(path), max_model_len or longest)
