"""What a model and its cache will take, worked out before anything is loaded.

Weights and the step's working memory are what they are; keys and values get what they are given
(`--kv-cache-memory-bytes`) or a modest share of the rest. The context is what the model and the
cache allow, unless it is asked for; then it fits or is refused with the numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stoker.engine.config import EngineConfig
from stoker.engine.host_memory import FreeMemory
from stoker.errors import MemoryPlanError
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Tensor, TensorType, Weights
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import CacheConfig, KVDtype

_KV_SHARE = 0.25
"""Of what is free beside weights and working memory, when nothing else is asked for …"""
_KV_MOST = 2 * 2**30
"""… and no more than this."""
_SHORTEST_CONTEXT = 256
_BYTES_PER_ELEMENT: dict[KVDtype, int] = {"bfloat16": 2, "float32": 4, "int8": 1}
_LOGIT_BYTES = 64 * 2**20
_WITH_MINS = (TensorType.Q4_1, TensorType.Q5_1, TensorType.Q4_K, TensorType.Q5_K)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes and tokens of an engine that is about to be started."""

    model_context: int
    """The longest context the model was made for."""
    max_model_len: int
    weight_bytes: int
    workspace_bytes: int
    """Activations of one step."""
    cache: CacheConfig
    block_bytes: int
    free: FreeMemory

    @property
    def kv_bytes(self) -> int:
        return self.cache.num_blocks * self.block_bytes

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.workspace_bytes + self.kv_bytes

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """What is planned, its size, and what that means."""
        cache = self.cache
        context = f"{self.max_model_len:,} tokens"
        if self.max_model_len < self.model_context:
            context += f" of the model's {self.model_context:,}"
        blocks = f"{cache.num_blocks:,} blocks of {cache.block_size} tokens, {cache.dtype}"
        return [
            ("weights", size(self.weight_bytes), ""),
            (
                "keys and values",
                size(self.kv_bytes),
                f"{cache.num_slots:,} tokens ({blocks})",
            ),
            ("activations", size(self.workspace_bytes), ""),
            ("together", size(self.total_bytes), f"of {size(self.free.nbytes)} free"),
            ("context", "", context),
        ]


def plan_memory(
    spec: ModelSpec, weights: Weights, config: EngineConfig, free: FreeMemory
) -> MemoryPlan:
    """Divide the free memory.

    Raises:
        MemoryPlanError: weights, cache or context do not fit; with the numbers, and the flag
            that would make it fit.
    """
    weight_bytes = sum_weight_bytes(spec, weights, config.weight_format)
    workspace = workspace_bytes(spec, config)
    left = free.nbytes - weight_bytes - workspace
    where = "" if free.bound == "machine" else " in this container"
    block = block_bytes(spec, config.kv_cache_dtype, config.block_size)
    needed = _num_blocks(config.max_model_len or _SHORTEST_CONTEXT, config) * block
    if left < needed and config.max_model_len is None:
        raise MemoryPlanError(
            f"the model needs {size(weight_bytes)} for its weights, {size(workspace)} for "
            f"activations and {size(needed)} for the shortest cache; {size(free.nbytes)} are "
            f"free{where}. Take a smaller model or --weight-format q4, or lower "
            "--max-num-batched-tokens"
        )
    given = config.kv_cache_memory_bytes
    if given is not None and given > left:
        raise MemoryPlanError(
            f"--kv-cache-memory-bytes is {size(given)}, but beside the weights "
            f"({size(weight_bytes)}) and activations ({size(workspace)}) there are {size(left)} "
            f"of {size(free.nbytes)} free{where}: give at most {left}"
        )
    kv_bytes = _default_kv_bytes(spec, config, left, block) if given is None else given
    num_blocks = kv_bytes // block
    cache = CacheConfig(num_blocks, config.block_size, _dtype(config.kv_cache_dtype))
    wanted = config.max_model_len
    if wanted is not None and wanted > spec.max_position:
        raise MemoryPlanError(
            f"--max-model-len is {wanted}, but the model was made for {spec.max_position} tokens"
        )
    if cache.num_slots < (wanted or min(_SHORTEST_CONTEXT, spec.max_position)):
        raise MemoryPlanError(_too_long(wanted or _SHORTEST_CONTEXT, cache, block, needed, left))
    return MemoryPlan(
        model_context=spec.max_position,
        max_model_len=wanted or min(spec.max_position, cache.num_slots),
        weight_bytes=weight_bytes,
        workspace_bytes=workspace,
        cache=cache,
        block_bytes=block,
        free=free,
    )


def block_bytes(spec: ModelSpec, dtype: str, block_size: int) -> int:
    """Bytes of one cache block, all layers together."""
    elements = 2 * spec.num_layers * spec.kv_size * block_size
    # Each key and each value of a head in 8 bits has a float32 scale.
    scales = 4 * elements // spec.head_dim if dtype == "int8" else 0
    return elements * _BYTES_PER_ELEMENT[_dtype(dtype)] + scales


def sum_weight_bytes(spec: ModelSpec, weights: Weights, weight_format: str) -> int:
    """Bytes of all weights as the CPU runner packs them."""
    total = 0
    for name, shape in weight_shapes(spec).items():
        if len(shape) == 2 and name != "positions.weight":
            total += _matrix_bytes(weights[name], shape, weight_format)
        else:
            total += 4 * math.prod(shape)
    return total


def workspace_bytes(spec: ModelSpec, config: EngineConfig) -> int:
    """Bytes a step works in: the residual stream, projections, rounded inputs, logits."""
    inputs = spec.hidden_size + spec.q_size + spec.intermediate_size
    floats = 2 * spec.hidden_size + spec.q_size + 2 * spec.kv_size
    per_token = 4 * floats + 3 * inputs
    logits = min(64 * spec.vocab_size * 4, _LOGIT_BYTES)
    return config.max_num_batched_tokens * per_token + logits


def size(nbytes: int) -> str:
    """`270 MB`, `1.27 GB`: powers of 1000, three digits."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _default_kv_bytes(spec: ModelSpec, config: EngineConfig, left: int, block: int) -> int:
    """A share of what is left: enough for one context, never more than all could use."""
    context = _num_blocks(config.max_model_len or spec.max_position, config) * block
    share = min(int(left * _KV_SHARE), _KV_MOST)
    if config.max_model_len is not None:
        share = max(share, min(context, left))
    share = max(share, min(_num_blocks(_SHORTEST_CONTEXT, config) * block, left))
    return min(share, context * config.max_num_seqs)


def _too_long(wanted: int, cache: CacheConfig, block: int, needed: int, left: int) -> str:
    message = (
        f"a context of {wanted} tokens needs {size(needed)} for keys and values "
        f"({size(block // cache.block_size)} per token), but they get "
        f"{size(cache.num_blocks * block)}, which hold {cache.num_slots} tokens: "
        f"lower --max-model-len to at most {cache.num_slots}"
    )
    if needed <= left:
        return f"{message}, or raise --kv-cache-memory-bytes to {needed}"
    return f"{message} ({size(left)} are free for them)"


def _num_blocks(num_tokens: int, config: EngineConfig) -> int:
    return -(-num_tokens // config.block_size)


def _dtype(dtype: str) -> KVDtype:
    match dtype:
        case "float32" | "int8":
            return dtype
        case _:
            return "bfloat16"


def _matrix_bytes(tensor: Tensor, shape: tuple[int, ...], weight_format: str) -> int:
    """Rows are packed in sixteens, columns in blocks of 32 with two-byte scales and mins."""
    rows, columns = -(-shape[0] // 16) * 16, -(-shape[1] // 32) * 32
    packed = _natural_format(tensor.type) if weight_format == "auto" else weight_format
    if packed == "bf16":
        return 2 * rows * columns
    natural = _natural_format(tensor.type) == packed
    numbers = 2 if natural and tensor.type in _WITH_MINS else 1
    codes = rows * columns // (2 if packed == "q4" else 1)
    return codes + 2 * numbers * rows * columns // 32


def _natural_format(kind: TensorType) -> str:
    if kind in (TensorType.Q4_0, TensorType.Q4_1, TensorType.Q4_K):
        return "q4"
    return "bf16" if kind in (TensorType.F32, TensorType.F16, TensorType.BF16) else "q8"
