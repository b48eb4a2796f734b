"""Embeddings of a decoder: the final hidden states of a prompt, pooled into one vector."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stoker.engine.block_pool import BlockPool
from stoker.runner.base import Batch, Float32Array, Int32Array, ModelRunner, SampleRows

Pooling = Literal["last", "mean"]


def embed_prompt(
    runner: ModelRunner, pool: BlockPool, prompt: Int32Array, pooling: Pooling, chunk: int
) -> Float32Array:
    """The pooled final hidden state, `[hidden]`, computed `chunk` tokens at a time in blocks that
    are given back at once.

    Raises:
        OutOfBlocksError: running requests leave too few blocks.
    """
    blocks = pool.allocate(-(-len(prompt) // pool.block_size))
    total = np.zeros(runner.spec.hidden_size, np.float64)
    try:
        for start in range(0, len(prompt), chunk):
            part = prompt[start : start + chunk]
            first = 0 if pooling == "mean" else len(part) - 1
            result = runner.run(
                Batch(
                    token_ids=part,
                    query_starts=np.array([0, len(part)], np.int32),
                    context_lens=np.array([start], np.int32),
                    block_tables=np.array([blocks], np.int32),
                    sample=_NO_SAMPLES,
                    embed_rows=np.arange(first, len(part), dtype=np.int32),
                )
            )
            assert result.embeddings is not None
            if pooling == "last":
                total[:] = result.embeddings[-1]
            else:
                total += result.embeddings.sum(axis=0, dtype=np.float64)
    finally:
        pool.release(blocks)
    if pooling == "mean":
        total /= len(prompt)
    return total.astype(np.float32)


_NO_SAMPLES = SampleRows(
    rows=np.empty(0, np.int32),
    temperature=np.empty(0, np.float32),
    top_k=np.empty(0, np.int32),
    top_p=np.empty(0, np.float32),
    min_p=np.empty(0, np.float32),
    seeds=np.empty(0, np.uint64),
    steps=np.empty(0, np.int32),
    num_logprobs=np.empty(0, np.int32),
)
