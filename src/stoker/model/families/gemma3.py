"""Gemma 3, text: local layers with their own rope beside global ones, norms after as before.

The vision-language checkpoints are read too, for their language model alone.
"""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.base import (
    HF_LAYER_NAMES,
    HF_NAMES,
    Family,
    NameTable,
    activation,
    gguf_decoder,
    gguf_sources,
    hf_decoder,
    hf_sliding_layers,
    make_sources,
    refuse,
)
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.families.rope import base_frequencies, hf_rope, hf_rope_parameters, make_rope
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.weights.canonical import Source
from stoker.model.weights.transforms import PlusOne

GLOBAL_EVERY = 6
GLOBAL_THETA = 1_000_000.0
LOCAL_THETA = 10_000.0
LAYERS_OF_27B = 62

# What the vision-language checkpoints' text_config leaves out (it lists only what differs).
_DEFAULTS: dict[str, object] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}


def _hf_spec(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    if "text_config" in config:
        config = config.section("text_config")
    config = config.extended(_DEFAULTS)
    bidirectional = config.boolean("use_bidirectional_attention", False)
    refuse(config.path, "bidirectional attention", bidirectional)
    refuse(config.path, "attn_logit_softcapping", "attn_logit_softcapping" in config)
    spec = hf_decoder("gemma3", config, max_model_len, tied_embeddings=True)
    if "layer_types" in config:
        local = hf_sliding_layers(config, spec.num_layers)
    else:
        interval = config.integer("sliding_window_pattern", GLOBAL_EVERY)
        local = _local_except_every(interval, spec.num_layers)
    nested = config.section("rope_parameters")
    if "full_attention" in nested or "sliding_attention" in nested:
        global_rope = nested.section("full_attention").extended({"rope_theta": GLOBAL_THETA})
        local_theta = nested.section("sliding_attention").number("rope_theta", LOCAL_THETA, above=1)
    else:
        global_rope = hf_rope_parameters(config, GLOBAL_THETA)
        local_theta = config.number("rope_local_base_freq", LOCAL_THETA, above=1)
    softcap = "final_logit_softcapping"
    spec = replace(
        spec,
        ropes=(hf_rope(global_rope, spec.head_dim, spec.max_position, max_model_len),),
        activation=activation(config, "hidden_activation", "gelu_pytorch_tanh"),
        attention_scale=config.number("query_pre_attn_scalar") ** -0.5,
        logit_softcap=config.number(softcap) if softcap in config else None,
    )
    return _gemma(spec, local, config.integer("sliding_window"), local_theta)


def _gguf_spec(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    spec = gguf_decoder("gemma3", metadata, max_model_len)
    # The file does not give query_pre_attn_scalar: it is head_dim in all sizes but the largest.
    scale = spec.attention_scale
    if spec.num_layers == LAYERS_OF_27B:
        scale = (spec.hidden_size / spec.num_heads) ** -0.5
    window: int | None = None
    local: tuple[bool, ...] = (False,) * spec.num_layers
    if metadata.count("attention.sliding_window"):
        window = metadata.integer("attention.sliding_window")
        local = _gguf_local_layers(metadata, spec.num_layers)
    softcap = "final_logit_softcapping"
    spec = replace(
        spec,
        activation="gelu_tanh",
        attention_scale=scale,
        logit_softcap=metadata.number(softcap) if softcap in metadata else None,
    )
    local_theta = metadata.number("rope.freq_base_swa", LOCAL_THETA, above=1)
    return _gemma(spec, local, window, local_theta)


def _gemma(
    spec: ModelSpec, local: tuple[bool, ...], window: int | None, local_theta: float
) -> ModelSpec:
    """What the two kinds of checkpoint share; `spec` has the global rope."""
    return replace(
        spec,
        layers=tuple(LayerSpec(window, rope=1) if is_local else LayerSpec() for is_local in local),
        ropes=(*spec.ropes, make_rope(base_frequencies(spec.head_dim, local_theta))),
        embedding_scale=spec.hidden_size**0.5,
        head_norm=True,
        post_norms=True,
    )


def _local_except_every(interval: int, layers: int) -> tuple[bool, ...]:
    return tuple((i + 1) % interval != 0 for i in range(layers))


def _gguf_local_layers(metadata: ArchMetadata, layers: int) -> tuple[bool, ...]:
    """`sliding_window_pattern` is a number of layers, or a flag for each."""
    flags = metadata.flags("attention.sliding_window_pattern", layers)
    if flags is not None:
        return flags
    interval = metadata.integer("attention.sliding_window_pattern", GLOBAL_EVERY)
    return _local_except_every(interval, layers)


def _hf_sources(spec: ModelSpec) -> dict[str, Source]:
    norms = {
        "attn_norm": "layers.{i}.input_layernorm",
        "q_norm": "layers.{i}.self_attn.q_norm",
        "k_norm": "layers.{i}.self_attn.k_norm",
        "post_attn_norm": "layers.{i}.post_attention_layernorm",
        "mlp_norm": "layers.{i}.pre_feedforward_layernorm",
        "post_mlp_norm": "layers.{i}.post_feedforward_layernorm",
    }
    layer_norms: NameTable = {key: Source(name, (PlusOne(),)) for key, name in norms.items()}
    last_norm: NameTable = {"norm": Source("norm", (PlusOne(),))}
    return make_sources(spec, HF_NAMES | last_norm, HF_LAYER_NAMES | layer_norms)


GEMMA3 = Family(
    "gemma3",
    hf_architectures=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    gguf_architectures=("gemma3",),
    hf_spec=_hf_spec,
    hf_sources=_hf_sources,
    gguf_spec=_gguf_spec,
    gguf_sources=gguf_sources,
    hf_prefixes=("model.", "language_model.model.", "model.language_model.", ""),
)
