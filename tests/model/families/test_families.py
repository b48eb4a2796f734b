"""What the readers make of configurations, where golden logits do not show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.families.config import HFConfig
from stoker.model.families.registry import FAMILIES, family_of_gguf, family_of_hf
from stoker.model.spec import LayerSpec, ModelSpec

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}


def spec(architecture: str, **values: Any) -> ModelSpec:
    path = Path("config.json")
    return family_of_hf(architecture, path).hf_spec(HFConfig(path, {**SIZES, **values}), None)


def windows(spec: ModelSpec) -> list[int | None]:
    return [layer.window for layer in spec.layers]


def test_llama_defaults() -> None:
    llama = spec("LlamaForCausalLM")
    assert llama.num_kv_heads == 4
    assert llama.head_dim == 16
    assert llama.attention_scale == 0.25
    assert llama.norm_eps == 1e-6
    assert llama.layers == (LayerSpec(),) * 4
    assert not llama.tied_embeddings
    assert llama.max_position == 256


def test_null_counts_as_absent() -> None:
    assert spec("LlamaForCausalLM", num_key_value_heads=None, rope_scaling=None) == spec(
        "LlamaForCausalLM"
    )


def test_mistral_window() -> None:
    assert windows(spec("MistralForCausalLM", sliding_window=32)) == [32] * 4
    assert windows(spec("MistralForCausalLM", sliding_window=None)) == [None] * 4


class TestQwenWindows:
    def test_off_unless_asked_for(self) -> None:
        assert windows(spec("Qwen2ForCausalLM", sliding_window=32)) == [None] * 4

    @pytest.mark.parametrize(
        ("first", "expected"),
        [(0, [8, 8, 8, 8]), (2, [None, None, 8, 8]), (4, [None] * 4)],
    )
    def test_from_max_window_layers(self, first: int, expected: list[int | None]) -> None:
        values = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": first}
        assert windows(spec("Qwen3ForCausalLM", **values)) == expected

    def test_layer_types_come_first(self) -> None:
        types = ["sliding_attention", "full_attention"] * 2
        values = {"use_sliding_window": True, "sliding_window": 8, "layer_types": types}
        assert windows(spec("Qwen2ForCausalLM", **values)) == [8, None, 8, None]


def test_qwen_biases_and_norms() -> None:
    qwen2, qwen3 = spec("Qwen2ForCausalLM"), spec("Qwen3ForCausalLM")
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.head_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.output_bias, qwen3.head_norm) == (False, False, True)
    assert qwen3.head_dim == 128


class TestGemma3:
    def test_pattern_without_layer_types(self) -> None:
        gemma = spec("Gemma3ForCausalLM", num_hidden_layers=7, sliding_window=512)
        assert windows(gemma) == [512] * 5 + [None, 512]
        assert [layer.rope for layer in gemma.layers] == [1] * 5 + [0, 1]

    def test_older_rope_keys(self) -> None:
        old = spec(
            "Gemma3ForCausalLM",
            rope_theta=2_000_000.0,
            rope_local_base_freq=5_000.0,
            rope_scaling={"rope_type": "linear", "factor": 8.0},
        )
        new = spec(
            "Gemma3ForCausalLM",
            rope_parameters={
                "full_attention": {"rope_theta": 2e6, "rope_type": "linear", "factor": 8.0},
                "sliding_attention": {"rope_theta": 5e3, "rope_type": "default"},
            },
        )
        assert old.ropes == new.ropes
        assert old.ropes[0].inv_freq[0] == 0.125
        assert old.ropes[1].inv_freq[0] == 1

    def test_scales(self) -> None:
        gemma = spec("Gemma3ForCausalLM", head_dim=128, query_pre_attn_scalar=168)
        assert gemma.attention_scale == 168**-0.5
        assert gemma.embedding_scale == 8
        assert gemma.activation == "gelu_tanh"
        assert gemma.tied_embeddings

    def test_text_part_of_a_vision_language_model(self) -> None:
        path = Path("config.json")
        family = family_of_hf("Gemma3ForConditionalGeneration", path)
        config = HFConfig(path, {"text_config": SIZES, "vision_config": {"hidden_size": 1152}})
        assert family.hf_spec(config, None) == spec("Gemma3ForCausalLM")


class TestSmolLM3:
    def ropes(self, **values: Any) -> list[int | None]:
        return [layer.rope for layer in spec("SmolLM3ForCausalLM", **values).layers]

    def test_every_fourth_layer_has_no_rope(self) -> None:
        assert self.ropes() == [0, 0, 0, None]

    def test_interval_and_list(self) -> None:
        assert self.ropes(no_rope_layer_interval=2) == [0, None, 0, None]
        assert self.ropes(no_rope_layers=[0, 1, 1, 0]) == [None, 0, 0, None]

    def test_list_of_another_length(self) -> None:
        with pytest.raises(ModelCorrupt, match="3 no_rope_layers for 4 layers"):
            self.ropes(no_rope_layers=[1, 1, 1])


def test_gpt2_defaults() -> None:
    path = Path("config.json")
    gpt2 = family_of_hf("GPT2LMHeadModel", path).hf_spec(HFConfig(path, {}), None)
    assert (gpt2.hidden_size, gpt2.num_layers, gpt2.num_heads) == (768, 12, 12)
    assert (gpt2.intermediate_size, gpt2.vocab_size, gpt2.max_position) == (3072, 50257, 1024)
    assert gpt2.activation == "gelu_tanh"
    assert gpt2.learned_positions
    assert gpt2.layers[0].rope is None


@pytest.mark.parametrize(
    ("architecture", "values", "match"),
    [
        ("LlamaForCausalLM", {"mlp_bias": True}, "mlp_bias"),
        ("LlamaForCausalLM", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported; supp"),
        ("Gemma3ForCausalLM", {"use_bidirectional_attention": True}, "bidirectional"),
        ("Gemma3ForCausalLM", {"layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
        ("GPT2LMHeadModel", {"add_cross_attention": True}, "cross-attention"),
    ],
)
def test_features_that_cannot_be_run_are_named(
    architecture: str, values: dict[str, Any], match: str
) -> None:
    with pytest.raises(UnsupportedModel, match=match):
        spec(architecture, **values)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": 0}, "'hidden_size' should be an integer from 1"),
        ({"hidden_size": True}, "'hidden_size' should be"),
        ({"hidden_size": 64.0}, "'hidden_size' should be"),
        ({"vocab_size": 10**12}, "'vocab_size' should be"),
        ({"num_hidden_layers": 10**6}, "'num_hidden_layers' should be an integer from 1 to 2048"),
        ({"head_dim": 10**6}, "'head_dim' should be"),
        ({"rms_norm_eps": float("nan")}, "'rms_norm_eps' should be"),
        ({"rms_norm_eps": 10**400}, "'rms_norm_eps' should be"),
        ({"tie_word_embeddings": "yes"}, "'tie_word_embeddings' should be true or false"),
    ],
)
def test_bad_values_are_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelCorrupt, match=match):
        spec("LlamaForCausalLM", **values)


def test_layer_types_of_another_length() -> None:
    with pytest.raises(ModelCorrupt, match="1 layer_types for 4 layers"):
        spec("Gemma3ForCausalLM", layer_types=["full_attention"])


def test_unknown_architectures_are_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedModel) as caught:
        family_of_hf("FalconForCausalLM", Path("config.json"))
    for family in FAMILIES:
        for name in ("FalconForCausalLM", *family.hf_architectures):
            assert name in str(caught.value)
    with pytest.raises(UnsupportedModel, match="'falcon' is not supported; supported are: llama"):
        family_of_gguf("falcon", Path("m.gguf"))
