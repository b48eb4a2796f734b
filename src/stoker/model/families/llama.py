"""Llama 1 to 3, Mistral, SmolLM and SmolLM2 (all Llama-shaped), SmolLM3."""

from __future__ import annotations

from dataclasses import replace

from stoker.errors import ModelCorrupt
from stoker.model.families.base import (
    GGUF_LAYER_NAMES,
    GGUF_NAMES,
    Family,
    NameTable,
    gguf_decoder,
    hf_decoder,
    hf_sources,
    hf_windows,
    make_sources,
    refuse,
)
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.weights.canonical import Source
from stoker.model.weights.transforms import NeoxOrder

SMOLLM3_NO_ROPE_INTERVAL = 4
"""Every fourth layer has no rotary embedding; GGUF files leave it unsaid."""


def _hf_llama(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    refuse(config.path, "a biased gated MLP (mlp_bias)", config.boolean("mlp_bias", False))
    return hf_decoder("llama", config, max_model_len)


def _hf_mistral(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    spec = hf_decoder("mistral", config, max_model_len)
    window = config.integer("sliding_window") if "sliding_window" in config else None
    return replace(spec, layers=(LayerSpec(window),) * spec.num_layers)


def _hf_smollm3(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    refuse(config.path, "a biased gated MLP (mlp_bias)", config.boolean("mlp_bias", False))
    spec = hf_decoder(
        "smollm3", config, max_model_len, tied_embeddings=True, rope_theta=2_000_000.0
    )
    if "no_rope_layers" in config:
        has_rope = [bool(flag) for flag in config.integers("no_rope_layers")]
    else:
        interval = config.integer("no_rope_layer_interval", SMOLLM3_NO_ROPE_INTERVAL)
        has_rope = _ropes_except_every(interval, spec.num_layers)
    if len(has_rope) != spec.num_layers:
        raise ModelCorrupt(
            f"{config.path}: {len(has_rope)} no_rope_layers for {spec.num_layers} layers."
        )
    windows = hf_windows(config, spec.num_layers)
    return _with_layers(spec, has_rope, windows)


def _gguf_llama(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    spec = gguf_decoder("llama", metadata, max_model_len)
    _refuse_partial_rotation(spec, metadata)
    if metadata.count("attention.sliding_window"):
        window = metadata.integer("attention.sliding_window")
        spec = replace(spec, layers=(LayerSpec(window),) * spec.num_layers)
    return spec


def _gguf_smollm3(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    spec = gguf_decoder("smollm3", metadata, max_model_len)
    _refuse_partial_rotation(spec, metadata)
    has_rope = _ropes_except_every(SMOLLM3_NO_ROPE_INTERVAL, spec.num_layers)
    return _with_layers(spec, has_rope, (None,) * spec.num_layers)


def _refuse_partial_rotation(spec: ModelSpec, metadata: ArchMetadata) -> None:
    partial = spec.ropes[0].dim != spec.head_dim
    refuse(metadata.path, "a partial rotation in interleaved order", partial)


def _ropes_except_every(interval: int, layers: int) -> list[bool]:
    return [(i + 1) % interval != 0 for i in range(layers)]


def _with_layers(
    spec: ModelSpec, has_rope: list[bool], windows: tuple[int | None, ...]
) -> ModelSpec:
    layers = tuple(
        LayerSpec(window, rope=0 if rope else None)
        for rope, window in zip(has_rope, windows, strict=True)
    )
    return replace(spec, layers=layers)


def _gguf_sources(spec: ModelSpec, metadata: ArchMetadata) -> dict[str, Source]:
    """llama.cpp's converter interleaves the rows of these models' queries and keys."""
    interleaved: NameTable = {
        "q": Source("blk.{i}.attn_q", (NeoxOrder(spec.num_heads),)),
        "k": Source("blk.{i}.attn_k", (NeoxOrder(spec.num_kv_heads),)),
    }
    return make_sources(spec, GGUF_NAMES, GGUF_LAYER_NAMES | interleaved)


LLAMA = Family(
    "llama",
    hf_architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),
    gguf_architectures=("llama",),
    hf_spec=_hf_llama,
    hf_sources=hf_sources,
    gguf_spec=_gguf_llama,
    gguf_sources=_gguf_sources,
)

MISTRAL = Family(
    "mistral",
    hf_architectures=("MistralForCausalLM",),
    gguf_architectures=(),  # GGUF files of Mistral call themselves llama
    hf_spec=_hf_mistral,
    hf_sources=hf_sources,
    gguf_spec=_gguf_llama,
    gguf_sources=_gguf_sources,
)

SMOLLM3 = Family(
    "smollm3",
    hf_architectures=("SmolLM3ForCausalLM",),
    gguf_architectures=("smollm3",),
    hf_spec=_hf_smollm3,
    hf_sources=hf_sources,
    gguf_spec=_gguf_smollm3,
    gguf_sources=_gguf_sources,
)
