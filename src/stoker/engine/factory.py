"""From a model's name to an engine that is ready: resolve, plan, load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine, StepListener
from stoker.engine.host_memory import free_memory
from stoker.engine.kv_events import KVEventListener
from stoker.engine.memory_plan import MemoryPlan, plan_memory
from stoker.errors import InvalidRequest
from stoker.model.loader import LoadedModel, open_model
from stoker.model.store import resolve
from stoker.model.store.progress import Progress, terminal_progress
from stoker.model.template import ChatTemplate
from stoker.model.tokenizer import Tokenizer
from stoker.model.weights.gguf import GGUFFile
from stoker.runner.base import CacheConfig, ModelRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine and what belongs to its model."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate
    plan: MemoryPlan
    path: Path
    """Where the model lies."""


def plan_engine(
    model: str, config: EngineConfig, *, progress: Progress = terminal_progress
) -> tuple[LoadedModel, MemoryPlan, Path]:
    """Find a model and plan its memory, loading nothing but headers.

    Raises `ModelError` (not found, corrupt, unsupported) or `MemoryPlanError`.
    """
    path = resolve(model, progress=progress)
    loaded = open_model(path, config.max_model_len)
    return loaded, plan_memory(loaded.spec, loaded.weights, config, free_memory()), path


def build_engine(
    model: str,
    config: EngineConfig,
    *,
    progress: Progress = terminal_progress,
    chat_template: str | None = None,
    kv_listener: KVEventListener | None = None,
    step_listener: StepListener | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> LoadedEngine:
    """Load a model (pulled first if it is not here) and make an engine of it.

    `chat_template` is the Jinja source to use in place of the model's own.

    Raises `ModelError` (not found, corrupt, unsupported) or `MemoryPlanError`.
    """
    loaded, plan, path = plan_engine(model, config, progress=progress)
    for what, nbytes, meaning in plan.rows:
        logger.info("%-16s %8s  %s", what, nbytes, meaning)
    tokenizer = load_tokenizer(loaded)
    engine = Engine(
        make_runner(loaded, config, plan.cache),
        tokenizer,
        replace(config, max_model_len=plan.max_model_len),
        clock=clock,
        kv_listener=kv_listener,
        step_listener=step_listener,
    )
    return LoadedEngine(engine, tokenizer, ChatTemplate.of(tokenizer, chat_template), plan, path)


def load_tokenizer(loaded: LoadedModel) -> Tokenizer:
    """The tokenizer that belongs to a model."""
    if isinstance(loaded.source, GGUFFile):
        return Tokenizer.from_gguf(loaded.source.metadata)
    return Tokenizer.load(loaded.source)


def make_runner(loaded: LoadedModel, config: EngineConfig, cache: CacheConfig) -> ModelRunner:
    """The runner that `config` asks for, with its weights loaded."""
    if config.runner == "reference":
        from stoker.runner.reference import ReferenceRunner

        return ReferenceRunner(loaded.spec, loaded.weights, cache)
    from stoker.runner.cpu import BLOCK_SIZE, CPURunner

    if config.block_size != BLOCK_SIZE:
        raise InvalidRequest(
            f"block_size ({config.block_size}) must be {BLOCK_SIZE} with the cpu runner, whose "
            "kernels are made for it",
            param="block_size",
        )
    return CPURunner(
        loaded.spec,
        loaded.weights,
        cache,
        max_num_batched_tokens=config.max_num_batched_tokens,
        max_num_seqs=config.max_num_seqs,
        threads=config.threads,
        isa=config.isa,
        weight_format=None if config.weight_format == "auto" else config.weight_format,
    )
