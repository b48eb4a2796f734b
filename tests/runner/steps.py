"""Steps and tiny models for the tests of runners."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stoker.model.spec import LayerSpec, ModelSpec, RopeSpec
from stoker.model.weights.base import Tensor, TensorType
from stoker.model.weights.names import weight_shapes
from stoker.runner.base import (
    Batch,
    Float32Array,
    Int32Array,
    ModelRunner,
    SampleRows,
    ScoreRows,
)

BLOCK = 16


def ids(*values: int) -> Int32Array:
    return np.array(values, np.int32)


def greedy(*rows: int, num_logprobs: int = -1) -> SampleRows:
    n = len(rows)
    return SampleRows(
        rows=ids(*rows),
        temperature=np.zeros(n, np.float32),
        top_k=np.zeros(n, np.int32),
        top_p=np.ones(n, np.float32),
        min_p=np.zeros(n, np.float32),
        seeds=np.zeros(n, np.uint64),
        steps=np.zeros(n, np.int32),
        num_logprobs=np.full(n, num_logprobs, np.int32),
    )


def batch(
    *parts: tuple[Int32Array, int, Int32Array],
    sample: SampleRows | None = None,
    score: ScoreRows | None = None,
    block_copies: Int32Array | None = None,
    embed_rows: Int32Array | None = None,
) -> Batch:
    """A step of sequences, each (new tokens, tokens in the cache, block table)."""
    width = max(len(table) for _, _, table in parts)
    return Batch(
        token_ids=np.concatenate([tokens for tokens, _, _ in parts]),
        query_starts=np.cumsum([0, *(len(tokens) for tokens, _, _ in parts)]).astype(np.int32),
        context_lens=ids(*(context for _, context, _ in parts)),
        block_tables=np.array(
            [np.pad(table, (0, width - len(table)), constant_values=-1) for _, _, table in parts],
            np.int32,
        ),
        sample=greedy() if sample is None else sample,
        score=score,
        block_copies=block_copies,
        embed_rows=embed_rows,
    )


def logprobs(runner: ModelRunner, *parts: tuple[Int32Array, int, Int32Array]) -> Float32Array:
    """The log-probability of every token of the vocabulary after every token of a step:
    `[tokens, vocab]`."""
    step = batch(*parts)
    rows = np.arange(step.num_tokens, dtype=np.int32)
    vocab = runner.spec.vocab_size
    step.score = ScoreRows(rows, np.zeros_like(rows), np.full_like(rows, vocab))
    scores = runner.run(step).scores
    assert scores is not None
    result = np.empty((len(rows), vocab), np.float32)
    np.put_along_axis(result, scores.ids, scores.logprobs, axis=1)
    return result


def spec(
    *,
    layers: int = 2,
    head_dim: int = 16,
    num_heads: int = 6,
    num_kv_heads: int = 2,
    hidden_size: int = 96,
    vocab_size: int = 131,
    windows: tuple[int | None, ...] = (None,),
    ropes: tuple[int | None, ...] = (0,),
    rope_dims: tuple[int, ...] = (16,),
    **options: object,
) -> ModelSpec:
    """A tiny Llama, changed by `options`; windows and ropes repeat over the layers."""
    fields: dict[str, object] = {
        "architecture": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": 160,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position": 2048,
        "layers": tuple(
            LayerSpec(windows[i % len(windows)], ropes[i % len(ropes)]) for i in range(layers)
        ),
        "ropes": tuple(
            RopeSpec(dim, tuple(100.0 ** (-2 * i / dim) for i in range(dim // 2)), 1.0 + 0.1 * n)
            for n, dim in enumerate(rope_dims)
        ),
        "attention_scale": head_dim**-0.5,
        **options,
    }
    return ModelSpec(**fields)  # type: ignore[arg-type]


def weights(of: ModelSpec, seed: int = 0) -> dict[str, Tensor]:
    """Random weights that are bfloat16 numbers, in float32."""
    random = np.random.default_rng(seed)
    return {
        name: float_tensor(_weight(name, shape, random))
        for name, shape in weight_shapes(of).items()
    }


def _weight(name: str, shape: tuple[int, ...], random: np.random.Generator) -> Float32Array:
    if len(shape) == 1:
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        values = random.normal(centre, 0.2, shape)
    elif name in ("embed.weight", "positions.weight"):
        values = random.normal(0, 1, shape)
    else:
        values = random.normal(0, 1.5 / math.sqrt(shape[1]), shape)
    return bfloat16(values.astype(np.float32))


def float_tensor(values: Float32Array) -> Tensor:
    rows = values.reshape(1, -1) if values.ndim == 1 else values
    return Tensor(TensorType.F32, values.shape, np.ascontiguousarray(rows).view(np.uint8))


def bfloat16(x: Float32Array) -> Float32Array:
    """The nearest bfloat16 numbers, ties to even, as float32."""
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    result: NDArray[np.float32] = rounded.astype(np.uint32).view(np.float32)
    return result


def tokens(length: int, vocab_size: int = 131, seed: int = 0) -> Int32Array:
    random = np.random.default_rng(seed)
    return random.integers(0, vocab_size, length).astype(np.int32)


def scattered(length: int, num_blocks: int, seed: int = 0) -> Int32Array:
    """A block table in no order, for `length` tokens."""
    blocks = np.random.default_rng(seed).permutation(num_blocks)
    return blocks[: -(-length // BLOCK)].astype(np.int32)
