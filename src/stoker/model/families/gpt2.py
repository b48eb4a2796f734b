"""GPT-2 and what shares its architecture (DialoGPT)."""

from __future__ import annotations

from stoker.model.families.base import (
    GGUF_LAYER_NAMES,
    GGUF_NAMES,
    Family,
    NameTable,
    activation,
    fused_qkv,
    gguf_vocab_size,
    make_sources,
    refuse,
)
from stoker.model.families.config import LAYER_LIMIT, HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.spec import Activation, LayerSpec, ModelSpec
from stoker.model.weights.canonical import Source
from stoker.model.weights.transforms import Transposed

_HF_NAMES: NameTable = {
    "embed": "wte",
    "positions": "wpe",
    "norm": "ln_f",
    "lm_head": "lm_head",
}


def _hf_spec(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    hidden = config.integer("n_embd", 768)
    inverse = config.boolean("scale_attn_by_inverse_layer_idx", False)
    refuse(config.path, "scale_attn_by_inverse_layer_idx", inverse)
    scaled = config.boolean("scale_attn_weights", True)
    refuse(config.path, "scale_attn_weights: false", not scaled)
    refuse(config.path, "cross-attention", config.boolean("add_cross_attention", False))
    return _spec(
        vocab_size=config.integer("vocab_size", 50257),
        hidden_size=hidden,
        intermediate_size=config.integer("n_inner", 4 * hidden),
        num_heads=config.integer("n_head", 12),
        num_layers=config.integer("n_layer", 12, limit=LAYER_LIMIT),
        max_position=config.integer("n_positions", 1024),
        norm_eps=config.number("layer_norm_epsilon", 1e-5),
        activation=activation(config, "activation_function", "gelu_new"),
        tied_embeddings=config.boolean("tie_word_embeddings", True),
    )


def _gguf_spec(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    return _spec(
        vocab_size=gguf_vocab_size(metadata),
        hidden_size=metadata.integer("embedding_length"),
        intermediate_size=metadata.integer("feed_forward_length"),
        num_heads=metadata.integer("attention.head_count"),
        num_layers=metadata.integer("block_count", limit=LAYER_LIMIT),
        max_position=metadata.integer("context_length"),
        norm_eps=metadata.number("attention.layer_norm_epsilon"),
        activation="gelu_tanh",
        tied_embeddings=not metadata.has_tensor("output.weight"),
    )


def _spec(
    *,
    vocab_size: int,
    hidden_size: int,
    intermediate_size: int,
    num_heads: int,
    num_layers: int,
    max_position: int,
    norm_eps: float,
    activation: Activation,
    tied_embeddings: bool,
) -> ModelSpec:
    head_dim = max(hidden_size // num_heads, 1)
    return ModelSpec(
        architecture="gpt2",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_position=max_position,
        layers=(LayerSpec(rope=None),) * num_layers,
        norm="layer",
        norm_eps=norm_eps,
        activation=activation,
        gated=False,
        attention_scale=head_dim**-0.5,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        learned_positions=True,
        tied_embeddings=tied_embeddings,
    )


def _hf_sources(spec: ModelSpec) -> dict[str, Source]:
    """Matrices are input-major here (Conv1D); vectors, their biases too, are as they should be."""
    layer_names: NameTable = {
        "attn_norm": "h.{i}.ln_1",
        "mlp_norm": "h.{i}.ln_2",
        **fused_qkv(spec, "h.{i}.attn.c_attn"),
        "o": "h.{i}.attn.c_proj",
        "up": "h.{i}.mlp.c_fc",
        "down": "h.{i}.mlp.c_proj",
    }
    sources = make_sources(spec, _HF_NAMES, layer_names)
    for name, source in sources.items():
        if ".c_" in source.name and name.endswith(".weight"):
            sources[name] = Source(source.name, (Transposed(), *source.transforms))
    return sources


def _gguf_sources(spec: ModelSpec, metadata: ArchMetadata) -> dict[str, Source]:
    return make_sources(spec, GGUF_NAMES, GGUF_LAYER_NAMES | fused_qkv(spec, "blk.{i}.attn_qkv"))


GPT2 = Family(
    "gpt2",
    hf_architectures=("GPT2LMHeadModel",),
    gguf_architectures=("gpt2",),
    hf_spec=_hf_spec,
    hf_sources=_hf_sources,
    gguf_spec=_gguf_spec,
    gguf_sources=_gguf_sources,
    hf_prefixes=("transformer.", ""),
    hf_embedding="wte.weight",
)
