"""Phi-3, Phi-3.5 and Phi-4 (dense): fused projections, LongRoPE, a sliding window."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.base import (
    GGUF_LAYER_NAMES,
    GGUF_NAMES,
    HF_LAYER_NAMES,
    HF_NAMES,
    Family,
    NameTable,
    fused_qkv,
    gguf_decoder,
    hf_decoder,
    make_sources,
)
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.spec import LayerSpec, ModelSpec
from stoker.model.weights.canonical import Source
from stoker.model.weights.transforms import Rows


def _hf_spec(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    spec = hf_decoder("phi3", config, max_model_len, rms_norm_eps=1e-5)
    window = config.integer("sliding_window") if "sliding_window" in config else None
    return replace(
        spec,
        layers=(LayerSpec(window),) * spec.num_layers,
        qkv_bias=False,
        output_bias=False,
    )


def _gguf_spec(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    spec = gguf_decoder("phi3", metadata, max_model_len)
    # Phi-4's converter writes 0 for no window.
    if metadata.count("attention.sliding_window"):
        window = metadata.integer("attention.sliding_window")
        spec = replace(spec, layers=(LayerSpec(window),) * spec.num_layers)
    return spec


def _hf_sources(spec: ModelSpec) -> dict[str, Source]:
    fused = fused_qkv(spec, "layers.{i}.self_attn.qkv_proj") | _fused_gate_up(
        spec, "layers.{i}.mlp.gate_up_proj"
    )
    return make_sources(spec, HF_NAMES, HF_LAYER_NAMES | fused)


def _gguf_sources(spec: ModelSpec, metadata: ArchMetadata) -> dict[str, Source]:
    fused = _fused_gate_up(spec, "blk.{i}.ffn_up")
    if metadata.has_tensor("blk.0.attn_qkv.weight"):
        fused |= fused_qkv(spec, "blk.{i}.attn_qkv")
    return make_sources(spec, GGUF_NAMES, GGUF_LAYER_NAMES | fused)


def _fused_gate_up(spec: ModelSpec, name: str) -> NameTable:
    size = spec.intermediate_size
    return {
        "gate": Source(name, (Rows(0, size, 2 * size),)),
        "up": Source(name, (Rows(size, 2 * size, 2 * size),)),
    }


PHI3 = Family(
    "phi3",
    hf_architectures=("Phi3ForCausalLM",),
    gguf_architectures=("phi3",),
    hf_spec=_hf_spec,
    hf_sources=_hf_sources,
    gguf_spec=_gguf_spec,
    gguf_sources=_gguf_sources,
)
