"""Qwen2, Qwen2.5 and Qwen3 (dense)."""

from __future__ import annotations

from dataclasses import replace

from stoker.model.families.base import (
    Family,
    gguf_decoder,
    gguf_sources,
    hf_decoder,
    hf_sources,
    hf_windows,
)
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.spec import LayerSpec, ModelSpec

QWEN3_HEAD_DIM = 128


def _hf_qwen2(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    spec = _with_windows(hf_decoder("qwen2", config, max_model_len), config)
    return replace(spec, qkv_bias=True, output_bias=False)


def _hf_qwen3(config: HFConfig, max_model_len: int | None) -> ModelSpec:
    config = config.extended({"head_dim": QWEN3_HEAD_DIM})
    spec = _with_windows(hf_decoder("qwen3", config, max_model_len), config)
    return replace(spec, head_norm=True)


def _with_windows(spec: ModelSpec, config: HFConfig) -> ModelSpec:
    windows = hf_windows(config, spec.num_layers)
    return replace(spec, layers=tuple(LayerSpec(window) for window in windows))


def _gguf_qwen2(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    return gguf_decoder("qwen2", metadata, max_model_len)


def _gguf_qwen3(metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    return replace(gguf_decoder("qwen3", metadata, max_model_len), head_norm=True)


QWEN2 = Family(
    "qwen2",
    hf_architectures=("Qwen2ForCausalLM",),
    gguf_architectures=("qwen2",),
    hf_spec=_hf_qwen2,
    hf_sources=hf_sources,
    gguf_spec=_gguf_qwen2,
    gguf_sources=gguf_sources,
)

QWEN3 = Family(
    "qwen3",
    hf_architectures=("Qwen3ForCausalLM",),
    gguf_architectures=("qwen3",),
    hf_spec=_hf_qwen3,
    hf_sources=hf_sources,
    gguf_spec=_gguf_qwen3,
    gguf_sources=gguf_sources,
)
