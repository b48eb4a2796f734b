"""The memory plan: sums, defaults and refusals, with their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stoker.engine.config import EngineConfig
from stoker.engine.host_memory import FreeMemory
from stoker.engine.memory_plan import (
    MemoryPlan,
    block_bytes,
    plan_memory,
    size,
    sum_weight_bytes,
    workspace_bytes,
)
from stoker.errors import MemoryPlanError
from stoker.model.loader import open_model
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.weights.base import Tensor, TensorType
from stoker.model.weights.names import weight_shapes

GOLDEN = Path(__file__).parents[1] / "golden"
GB = 10**9

SPEC = ModelSpec(
    architecture="llama",
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=8192,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_position=131072,
    layers=(LayerSpec(),) * 16,
    tied_embeddings=True,
)
TOKEN_BYTES = 2 * 16 * 8 * 64 * 2  # keys and values, layers, heads, elements, two bytes each


class TypedWeights:
    """Weights that have a type and nothing else."""

    def __init__(self, spec: ModelSpec, kind: TensorType) -> None:
        self._shapes = weight_shapes(spec)
        self._kind = kind

    def __getitem__(self, name: str) -> Tensor:
        return Tensor(self._kind, self._shapes[name], np.zeros((1, 0), np.uint8))

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def plan(
    free: int, spec: ModelSpec = SPEC, bound: str = "machine", **settings: object
) -> MemoryPlan:
    config = EngineConfig.from_mapping(settings)
    return plan_memory(
        spec, TypedWeights(spec, TensorType.Q4_0), config, FreeMemory(int(free), bound)
    )


def test_a_block_holds_keys_and_values_of_all_layers() -> None:
    assert block_bytes(SPEC, "auto", 16) == 16 * TOKEN_BYTES
    assert block_bytes(SPEC, "float32", 16) == 2 * 16 * TOKEN_BYTES
    scales = 16 * 2 * SPEC.num_layers * SPEC.num_kv_heads * 4
    assert block_bytes(SPEC, "int8", 16) == 16 * TOKEN_BYTES // 2 + scales


@pytest.mark.parametrize(
    ("kind", "weight_format", "bits"),
    [
        (TensorType.Q4_0, "auto", 4.5),
        (TensorType.Q4_1, "auto", 5.0),
        (TensorType.Q5_0, "auto", 8.5),
        (TensorType.Q5_1, "auto", 9.0),
        (TensorType.Q4_K, "auto", 5.0),
        (TensorType.Q5_K, "auto", 9.0),
        (TensorType.Q6_K, "auto", 8.5),
        (TensorType.Q8_0, "auto", 8.5),
        (TensorType.BF16, "auto", 16),
        (TensorType.F32, "auto", 16),
        (TensorType.F32, "q8", 8.5),
        (TensorType.Q4_1, "q8", 8.5),
        (TensorType.Q4_1, "bf16", 16),
    ],
)
def test_weights_take_the_bits_they_are_packed_in(
    kind: TensorType, weight_format: str, bits: float
) -> None:
    matrices = sum(a * b for a, b in (s for s in weight_shapes(SPEC).values() if len(s) == 2))
    vectors = sum(s[0] for s in weight_shapes(SPEC).values() if len(s) == 1)
    found = sum_weight_bytes(SPEC, TypedWeights(SPEC, kind), weight_format)
    assert found == int(matrices * bits / 8) + 4 * vectors


def test_rows_and_columns_are_padded() -> None:
    spec = replace(SPEC, vocab_size=17, hidden_size=33, layers=(), intermediate_size=32)
    weights = TypedWeights(spec, TensorType.BF16)
    assert sum_weight_bytes(spec, weights, "auto") == 2 * 32 * 64 + 4 * 33


def test_a_real_checkpoint_is_planned() -> None:
    model = open_model(GOLDEN / "gpt2.gguf")
    planned = plan_memory(model.spec, model.weights, EngineConfig(), FreeMemory(8 * GB, "machine"))
    assert planned.max_model_len == model.spec.max_position == 64
    assert planned.cache.num_slots >= 64


def test_keys_and_values_get_a_modest_share() -> None:
    planned = plan(8 * GB)
    most = 2 * 2**30
    assert most - planned.block_bytes < plan(100 * GB).kv_bytes <= most
    left = 4 * GB - planned.weight_bytes - planned.workspace_bytes
    assert left * 0.25 - planned.block_bytes < plan(4 * GB).kv_bytes <= left * 0.25
    # No more than all sequences could fill.
    few = plan(100 * GB, max_num_seqs=2, max_model_len=1024)
    assert few.cache.num_slots == 2 * 1024


def test_the_context_is_what_the_cache_holds_unless_asked_for() -> None:
    planned = plan(8 * GB)
    assert planned.max_model_len == planned.cache.num_slots < SPEC.max_position
    assert plan(8 * GB, max_model_len=4096).max_model_len == 4096
    # Asked for, it gets what it needs though that is more than the usual share.
    long = plan(8 * GB, max_model_len=100_000)
    assert long.cache.num_slots >= 100_000
    assert long.kv_bytes == 100_000 * TOKEN_BYTES


def test_memory_that_is_given_is_used() -> None:
    planned = plan(8 * GB, kv_cache_memory_bytes=GB)
    assert planned.cache.num_blocks == GB // (16 * TOKEN_BYTES)


def test_a_model_that_does_not_fit_is_refused_with_the_numbers() -> None:
    weights = sum_weight_bytes(SPEC, TypedWeights(SPEC, TensorType.Q4_0), "auto")
    with pytest.raises(MemoryPlanError) as refused:
        plan(weights, bound="container")
    message = str(refused.value)
    assert size(weights) in message
    assert "free in this container" in message
    assert "--weight-format q4" in message


def test_a_context_that_does_not_fit_is_refused_with_the_numbers_and_the_flag() -> None:
    with pytest.raises(MemoryPlanError) as refused:
        plan(8 * GB, max_model_len=50_000, kv_cache_memory_bytes=GB)
    message = str(refused.value)
    tokens = GB // (16 * TOKEN_BYTES) * 16
    assert "a context of 50000 tokens needs 1.64 GB" in message
    assert f"lower --max-model-len to at most {tokens}" in message
    assert f"raise --kv-cache-memory-bytes to {50_000 * TOKEN_BYTES}" in message
    plan(8 * GB, max_model_len=tokens, kv_cache_memory_bytes=GB)
    plan(8 * GB, max_model_len=50_000, kv_cache_memory_bytes=50_000 * TOKEN_BYTES)
    # With no memory for it at all, the only way is a shorter one.
    with pytest.raises(MemoryPlanError) as refused:
        plan(3 * GB, max_model_len=120_000)
    assert "are free for them" in str(refused.value)


def test_more_for_the_cache_than_is_free_is_refused_with_what_is() -> None:
    with pytest.raises(MemoryPlanError, match="give at most") as refused:
        plan(4 * GB, kv_cache_memory_bytes=4 * GB)
    most = int(str(refused.value).rsplit(" ", 1)[1])
    assert plan(4 * GB, kv_cache_memory_bytes=most).total_bytes <= 4 * GB


def test_a_context_the_model_was_not_made_for_is_refused() -> None:
    spec = replace(SPEC, max_position=2048)
    with pytest.raises(MemoryPlanError, match="4096, but the model was made for 2048"):
        plan(8 * GB, spec, max_model_len=4096)


def test_the_table_says_what_a_person_wants_to_know() -> None:
    rows = {what: (nbytes, meaning) for what, nbytes, meaning in plan(8 * GB).rows}
    assert list(rows) == ["weights", "keys and values", "activations", "together", "context"]
    assert rows["together"][1] == "of 8 GB free"
    assert rows["context"][1].endswith("tokens of the model's 131,072")
    assert "blocks of 16 tokens, bfloat16" in rows["keys and values"][1]


def test_the_workspace_grows_with_the_tokens_of_a_step() -> None:
    small, large = (
        workspace_bytes(SPEC, EngineConfig(max_num_batched_tokens=n)) for n in (512, 1024)
    )
    assert 512 * SPEC.hidden_size * 8 < large - small < 512 * SPEC.hidden_size * 64


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_900, "1 MB"),
        (92_871_040, "92.9 MB"),
        (1.27e9, "1.27 GB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_sizes_have_three_digits(nbytes: float, text: str) -> None:
    assert size(int(nbytes)) == text
