"""What a model is, apart from its weights: one frozen description for every family.

Readers in `families/` make a `ModelSpec` from a Hugging Face `config.json` or from GGUF
metadata. Runners read nothing else, so a new family is a new reader and not a new runner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu_tanh", "gelu"]
NormKind = Literal["rms", "layer"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """One rotary embedding, with its scaling already folded into the frequencies.

    Rotation pairs element `i` with `i + dim / 2` (the "NeoX" order). Weights stored for the
    interleaved order are permuted while loading, so this is the only order a runner knows.
    """

    dim: int
    """Rotated elements at the start of each head; even, at most `head_dim`."""
    inv_freq: tuple[float, ...]
    """`dim / 2` inverse frequencies in radians per position."""
    attention_factor: float = 1.0
    """Multiplies both cosine and sine (YaRN and LongRoPE)."""


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What may differ from layer to layer."""

    window: int | None = None
    """Sliding window: a query at position p sees keys at p - window + 1 … p. None: all."""
    rope: int | None = 0
    """Index into `ModelSpec.ropes`; None for a layer without rotary embedding."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only transformer.

    The forward pass it stands for, per layer (`?` marks what the spec can leave out)::

        h = norm(x);  q, k, v = h Wq (+bq?), h Wk (+bk?), h Wv (+bv?)
        q, k = head_norm?(q), head_norm?(k);  q, k = rope?(q), rope?(k)
        a = softmax(softcap?(q kᵀ · attention_scale) within window) v
        x = x + post_norm?(a Wo (+bo?))
        h = norm(x)
        m = act(h Wgate) · (h Wup) if gated else act(h Wup (+bup?))
        x = x + post_norm?(m Wdown (+bdown?))

    then `logits = softcap?(norm(x) Wlm_head)`. Weight names are in `weights/base.py`.
    """

    architecture: str
    """The family's name as its reader registers it: `llama`, `qwen2`, `gpt2` …"""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    """The longest context the model was made for, in tokens."""
    layers: tuple[LayerSpec, ...]
    ropes: tuple[RopeSpec, ...] = ()

    norm: NormKind = "rms"
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    gated: bool = True
    attention_scale: float = 1.0
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0

    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    head_norm: bool = False
    """RMS norm over `head_dim` of each query and key head, before the rotation."""
    post_norms: bool = False
    """Norms on the outputs of attention and MLP, before they are added (Gemma)."""
    learned_positions: bool = False
    """A table of position embeddings is added to the token embeddings (GPT-2)."""
    tied_embeddings: bool = False
    """The output projection is the embedding table; there is no `lm_head.weight`."""

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim
