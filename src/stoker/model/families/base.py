"""What a family's reader is, and what most readers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.families.config import HEAD_DIM_LIMIT, LAYER_LIMIT, HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.families.rope import (
    gguf_context_length,
    gguf_rope,
    hf_context_length,
    hf_rope,
    hf_rope_parameters,
)
from stoker.model.spec import Activation, LayerSpec, ModelSpec
from stoker.model.weights.canonical import Source
from stoker.model.weights.names import weight_shapes
from stoker.model.weights.transforms import Rows


@dataclass(frozen=True, slots=True)
class Family:
    """Reads one family of models, from both kinds of checkpoint.

    `max_model_len` is the longest context that will be used, or None for the model's own: a
    LongRoPE model has other frequencies for short contexts.
    """

    name: str
    hf_architectures: tuple[str, ...]
    """Names in `architectures` of config.json."""
    gguf_architectures: tuple[str, ...]
    """Values of `general.architecture`."""
    hf_spec: Callable[[HFConfig, int | None], ModelSpec]
    hf_sources: Callable[[ModelSpec], dict[str, Source]]
    """Canonical name → source, named as if the file had no prefix (see `hf_prefixes`)."""
    gguf_spec: Callable[[ArchMetadata, int | None], ModelSpec]
    gguf_sources: Callable[[ModelSpec, ArchMetadata], dict[str, Source]]
    hf_prefixes: tuple[str, ...] = ("model.", "")
    """Prefixes that checkpoints put before every name but lm_head's; the first that fits holds."""
    hf_embedding: str = "embed_tokens.weight"
    """The tensor by which the prefix is recognised."""


_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def activation(config: HFConfig, key: str, default: str) -> Activation:
    """The activation a configuration names; `UnsupportedModel` for one that is not known."""
    name = config.string(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{config.path}: {key} {name!r} is not supported; supported are: "
            f"{', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def refuse(path: Path, what: str, present: bool) -> None:
    """Raise `UnsupportedModel` if a feature that is not implemented is present."""
    if present:
        raise UnsupportedModel(f"{path}: {what} is not supported.")


def hf_decoder(
    architecture: str,
    config: HFConfig,
    max_model_len: int | None,
    *,
    tied_embeddings: bool = False,
    rope_theta: float = 10_000.0,
    rms_norm_eps: float = 1e-6,
) -> ModelSpec:
    """The spec of a Llama-shaped decoder, with full attention and one rope for all layers.

    The keywords are the family's defaults for what its config.json may leave out.
    """
    hidden = config.integer("hidden_size")
    heads = config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", max(hidden // heads, 1), limit=HEAD_DIM_LIMIT)
    parameters = hf_rope_parameters(config, rope_theta)
    max_position = hf_context_length(config, parameters)
    attention_bias = config.boolean("attention_bias", False)
    return ModelSpec(
        architecture=architecture,
        vocab_size=config.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.integer("intermediate_size"),
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        max_position=max_position,
        layers=(LayerSpec(),) * config.integer("num_hidden_layers", limit=LAYER_LIMIT),
        ropes=(hf_rope(parameters, head_dim, max_position, max_model_len),),
        norm_eps=config.number("rms_norm_eps", rms_norm_eps),
        activation=activation(config, "hidden_act", "silu"),
        attention_scale=head_dim**-0.5,
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        tied_embeddings=config.boolean("tie_word_embeddings", tied_embeddings),
    )


def hf_windows(config: HFConfig, layers: int) -> tuple[int | None, ...]:
    """Each layer's sliding window, from `layer_types` or, before it, `max_window_layers`."""
    if not config.boolean("use_sliding_window", False) or "sliding_window" not in config:
        return (None,) * layers
    window = config.integer("sliding_window")
    if "layer_types" in config:
        return tuple(window if sliding else None for sliding in hf_sliding_layers(config, layers))
    first = config.integer("max_window_layers", layers) if config.raw("max_window_layers") else 0
    return tuple(window if i >= first else None for i in range(layers))


def hf_sliding_layers(config: HFConfig, layers: int) -> tuple[bool, ...]:
    """Which layers `layer_types` calls sliding."""
    types = config.strings("layer_types")
    if len(types) != layers:
        raise ModelCorrupt(f"{config.path}: {len(types)} layer_types for {layers} layers.")
    for kind in types:
        if kind not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(f"{config.path}: attention of type {kind!r} is not supported.")
    return tuple(kind == "sliding_attention" for kind in types)


def gguf_decoder(architecture: str, metadata: ArchMetadata, max_model_len: int | None) -> ModelSpec:
    """The spec of a Llama-shaped decoder, with full attention and one rope for all layers."""
    hidden = metadata.integer("embedding_length")
    heads = metadata.integer("attention.head_count")
    head_dim = metadata.integer(
        "attention.key_length", max(hidden // heads, 1), limit=HEAD_DIM_LIMIT
    )
    refuse(metadata.path, "a mixture of experts", metadata.count("expert_count") > 0)
    refuse(metadata.path, "a biased gated MLP", metadata.has_tensor("blk.0.ffn_gate.bias"))
    return ModelSpec(
        architecture=architecture,
        vocab_size=gguf_vocab_size(metadata),
        hidden_size=hidden,
        intermediate_size=metadata.integer("feed_forward_length"),
        num_heads=heads,
        num_kv_heads=metadata.integer("attention.head_count_kv", heads),
        head_dim=head_dim,
        max_position=gguf_context_length(metadata),
        layers=(LayerSpec(),) * metadata.integer("block_count", limit=LAYER_LIMIT),
        ropes=(gguf_rope(metadata, head_dim, max_model_len),),
        norm_eps=metadata.number("attention.layer_norm_rms_epsilon"),
        attention_scale=head_dim**-0.5,
        qkv_bias=metadata.has_tensor("blk.0.attn_q.bias"),
        output_bias=metadata.has_tensor("blk.0.attn_output.bias"),
        tied_embeddings=not metadata.has_tensor("output.weight"),
    )


def gguf_vocab_size(metadata: ArchMetadata) -> int:
    """The rows of the embedding table."""
    embedding = metadata.file.tensors.get("token_embd.weight")
    if embedding is None:
        raise ModelCorrupt(f"{metadata.path}: tensor 'token_embd.weight' is missing.")
    return embedding.shape[0]


NameTable: TypeAlias = dict[str, str | Source]
"""Stem of a canonical name → the file's, with what is done to the tensor if anything."""


def make_sources(spec: ModelSpec, names: NameTable, layer_names: NameTable) -> dict[str, Source]:
    """Every canonical weight's source, from the file's names without `.weight` and `.bias`.

    `layer_names` is keyed by the part after `layers.{i}.`, and `{i}` stands for the layer in
    its values.
    """
    sources = {}
    for name in weight_shapes(spec):
        stem, _, suffix = name.rpartition(".")
        if stem in names:
            layer, source = "", names[stem]
        else:
            _, layer, stem = stem.split(".", 2)
            source = layer_names[stem]
        if isinstance(source, str):
            source = Source(source)
        file_name = f"{source.name.replace('{i}', layer)}.{suffix}"
        sources[name] = Source(file_name, source.transforms)
    return sources


HF_NAMES: NameTable = {
    "embed": "embed_tokens",
    "norm": "norm",
    "lm_head": "lm_head",
}

HF_LAYER_NAMES: NameTable = {
    "attn_norm": "layers.{i}.input_layernorm",
    "q": "layers.{i}.self_attn.q_proj",
    "k": "layers.{i}.self_attn.k_proj",
    "v": "layers.{i}.self_attn.v_proj",
    "q_norm": "layers.{i}.self_attn.q_norm",
    "k_norm": "layers.{i}.self_attn.k_norm",
    "o": "layers.{i}.self_attn.o_proj",
    "mlp_norm": "layers.{i}.post_attention_layernorm",
    "gate": "layers.{i}.mlp.gate_proj",
    "up": "layers.{i}.mlp.up_proj",
    "down": "layers.{i}.mlp.down_proj",
}

GGUF_NAMES: NameTable = {
    "embed": "token_embd",
    "positions": "position_embd",
    "norm": "output_norm",
    "lm_head": "output",
}

GGUF_LAYER_NAMES: NameTable = {
    "attn_norm": "blk.{i}.attn_norm",
    "q": "blk.{i}.attn_q",
    "k": "blk.{i}.attn_k",
    "v": "blk.{i}.attn_v",
    "q_norm": "blk.{i}.attn_q_norm",
    "k_norm": "blk.{i}.attn_k_norm",
    "o": "blk.{i}.attn_output",
    "post_attn_norm": "blk.{i}.post_attention_norm",
    "mlp_norm": "blk.{i}.ffn_norm",
    "gate": "blk.{i}.ffn_gate",
    "up": "blk.{i}.ffn_up",
    "down": "blk.{i}.ffn_down",
    "post_mlp_norm": "blk.{i}.post_ffw_norm",
}


def hf_sources(spec: ModelSpec) -> dict[str, Source]:
    """Llama's names, which most families use."""
    return make_sources(spec, HF_NAMES, HF_LAYER_NAMES)


def gguf_sources(spec: ModelSpec, metadata: ArchMetadata) -> dict[str, Source]:
    """GGUF's names, where nothing is fused or permuted."""
    return make_sources(spec, GGUF_NAMES, GGUF_LAYER_NAMES)


def fused_qkv(spec: ModelSpec, name: str) -> NameTable:
    """Query, key and value as parts of one tensor."""
    ends = (spec.q_size, spec.q_size + spec.kv_size, spec.q_size + 2 * spec.kv_size)
    starts = (0, *ends[:2])
    return {
        part: Source(name, (Rows(start, end, ends[2]),))
        for part, start, end in zip("qkv", starts, ends, strict=True)
    }
