"""The memory plan: what it says is what a runner then takes."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.model.spec import ModelSpec
from stoker.runner.base import CacheConfig
from stoker.runner.cpu import CPURunner
from stoker.runner.plan import cpu_memory
from tests.runner.steps import spec, weights

SPECS = {
    "llama": spec(),
    "odd sizes": spec(head_dim=18, num_heads=5, num_kv_heads=5, hidden_size=50, vocab_size=97),
    "gpt2": spec(norm="layer", qkv_bias=True, learned_positions=True, tied_embeddings=True),
}


@pytest.mark.parametrize("of", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("weight_format", [None, "q4", "q8"])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_plan_is_what_is_taken(of: ModelSpec, weight_format: Any, threads: int) -> None:
    limits = {
        "max_num_batched_tokens": 100,
        "max_num_seqs": 7,
        "threads": threads,
        "weight_format": weight_format,
    }
    tensors = weights(of)
    planned = cpu_memory(of, tensors, kv_dtype="bfloat16", **limits)
    runner = CPURunner(of, tensors, CacheConfig(3), **limits)
    assert planned.weights == runner.weight_bytes
    assert planned.workspace == runner.workspace_bytes


def test_a_block_holds_keys_and_values_of_all_layers() -> None:
    limits: dict[str, Any] = {"max_num_batched_tokens": 100, "max_num_seqs": 7}
    of = spec(layers=5, head_dim=64, num_kv_heads=2)
    elements = 5 * 2 * 16 * (64 + 64)
    assert cpu_memory(of, weights(of), kv_dtype="bfloat16", **limits).block == elements * 2
    assert cpu_memory(of, weights(of), kv_dtype="float32", **limits).block == elements * 4
    scales = 5 * 2 * 16 * 2 * 4
    assert cpu_memory(of, weights(of), kv_dtype="int8", **limits).block == elements + scales
