"""The weights that a spec implies, with their shapes."""

from __future__ import annotations

from stoker.model.spec import ModelSpec


def weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Canonical name → logical shape of every weight a model of this spec has."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (spec.vocab_size, spec.hidden_size)}
    if spec.learned_positions:
        shapes["positions.weight"] = (spec.max_position, spec.hidden_size)
    for i in range(spec.num_layers):
        shapes |= {f"layers.{i}.{name}": shape for name, shape in _layer_shapes(spec).items()}
    shapes |= _norm_shapes(spec, "norm")
    if not spec.tied_embeddings:
        shapes["lm_head.weight"] = (spec.vocab_size, spec.hidden_size)
    return shapes


def _layer_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    hidden, intermediate = spec.hidden_size, spec.intermediate_size
    shapes = _norm_shapes(spec, "attn_norm")
    for name, size in (("q", spec.q_size), ("k", spec.kv_size), ("v", spec.kv_size)):
        shapes |= _linear_shapes(name, size, hidden, spec.qkv_bias)
    if spec.head_norm:
        shapes |= {"q_norm.weight": (spec.head_dim,), "k_norm.weight": (spec.head_dim,)}
    shapes |= _linear_shapes("o", hidden, spec.q_size, spec.output_bias)
    shapes |= _norm_shapes(spec, "mlp_norm")
    if spec.post_norms:
        shapes |= _norm_shapes(spec, "post_attn_norm") | _norm_shapes(spec, "post_mlp_norm")
    if spec.gated:
        shapes |= _linear_shapes("gate", intermediate, hidden, bias=False)
    shapes |= _linear_shapes("up", intermediate, hidden, spec.mlp_bias)
    shapes |= _linear_shapes("down", hidden, intermediate, spec.mlp_bias)
    return shapes


def _norm_shapes(spec: ModelSpec, name: str) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (spec.hidden_size,)}
    if spec.norm == "layer":
        shapes[f"{name}.bias"] = (spec.hidden_size,)
    return shapes


def _linear_shapes(name: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    if bias:
        shapes[f"{name}.bias"] = (outputs,)
    return shapes
