"""Rotary embeddings: frequencies and their scalings, from both kinds of configuration.

Longer contexts come from scaling the base frequencies theta^(-2i / dim):

- linear: position interpolation (Chen et al. 2023, arXiv:2306.15595)
- llama3: interpolates long wavelengths only (Llama 3.1's reference code)
- yarn: ramps between interpolation and none, per frequency (Peng et al. 2023, arXiv:2309.00071)
- longrope: a factor per frequency, one set for short and one for long contexts (Ding et al.
  2024, arXiv:2402.13753)

Frequencies are computed in float64 and rounded to float32, so that every runner starts from the
same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.families.config import HFConfig
from stoker.model.families.gguf_metadata import ArchMetadata
from stoker.model.spec import RopeSpec

Frequencies = NDArray[np.float64]

KINDS = ("default", "linear", "llama3", "yarn", "longrope")


def base_frequencies(dim: int, theta: float) -> Frequencies:
    """theta^(-2i / dim) for i in 0 … dim / 2 - 1."""
    exponents: Frequencies = np.arange(0, dim, 2, dtype=np.float64) / -dim
    frequencies: Frequencies = np.power(theta, exponents)
    return frequencies


def llama3_frequencies(
    frequencies: Frequencies, factor: float, low: float, high: float, original: int
) -> Frequencies:
    """Wavelengths over original / low are stretched by `factor`, under original / high kept."""
    turns = original * frequencies / (2 * math.pi)
    smooth: Frequencies = np.clip((turns - low) / (high - low), 0, 1)
    return frequencies * ((1 - smooth) / factor + smooth)


def yarn_frequencies(
    frequencies: Frequencies,
    theta: float,
    factor: float,
    original: int,
    beta_fast: float,
    beta_slow: float,
    truncate: bool,
) -> Frequencies:
    """Frequencies that turn more than beta_fast times in `original` positions are kept, those
    that turn less than beta_slow times divided by `factor`, with a ramp between."""
    dim = 2 * len(frequencies)

    def index_of(turns: float) -> float:
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = index_of(beta_fast), index_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    ramp: Frequencies = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
    return frequencies * ((1 - ramp) + ramp / factor)


def yarn_attention_factor(factor: float) -> float:
    """The temperature that YaRN recommends for a context `factor` times as long (its eq. 22)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def make_rope(frequencies: Frequencies, attention_factor: float = 1.0) -> RopeSpec:
    """A rope of these frequencies, rounded to float32."""
    with np.errstate(over="ignore"):  # what overflows is refused with the spec
        inv_freq = tuple(frequencies.astype(np.float32).tolist())
    return RopeSpec(2 * len(inv_freq), inv_freq, attention_factor)


def hf_rope_parameters(config: HFConfig, default_theta: float = 10_000.0) -> HFConfig:
    """The rotary parameters of a configuration: `rope_parameters` (Transformers 5) or
    `rope_theta`, `rope_scaling` and `partial_rotary_factor` (before), in the newer form."""
    scaling = config.section("rope_scaling" if "rope_scaling" in config else "rope_parameters")
    return scaling.extended(
        {
            "rope_theta": config.number("rope_theta", default_theta),
            "rope_type": scaling.string("type", "default"),
            "partial_rotary_factor": config.number("partial_rotary_factor", 1.0),
            "original_max_position_embeddings": config.raw("original_max_position_embeddings")
            or config.raw("max_position_embeddings"),
        }
    )


def hf_rope(
    parameters: HFConfig, head_dim: int, max_position: int, max_model_len: int | None
) -> RopeSpec:
    """The rope that `parameters` (see `hf_rope_parameters`) describe.

    Raises `UnsupportedModel` for a scaling that is not implemented.
    """
    theta = parameters.number("rope_theta", above=1)
    share = parameters.number("partial_rotary_factor", 1.0)
    frequencies = base_frequencies(int(head_dim * min(share, 1.0)), theta)
    kind = parameters.string("rope_type", "default")
    if kind == "default":
        return make_rope(frequencies)
    if kind == "linear":
        return make_rope(frequencies / parameters.number("factor"))
    original = parameters.integer("original_max_position_embeddings", max_position, minimum=2)
    if kind == "llama3":
        factor = parameters.number("factor")
        low = parameters.number("low_freq_factor")
        high = parameters.number("high_freq_factor", above=low)
        return make_rope(llama3_frequencies(frequencies, factor, low, high, original))
    if kind == "yarn":
        return _hf_yarn(parameters, frequencies, theta, original)
    if kind in ("longrope", "su"):
        factor = parameters.number("factor", max_position / original)
        long = (max_model_len or max_position) > original
        factors = parameters.numbers("long_factor" if long else "short_factor")
        attention_factor = parameters.number(
            "attention_factor", longrope_attention_factor(factor, original)
        )
        return longrope(frequencies, factors, attention_factor, str(parameters.path))
    raise UnsupportedModel(
        f"{parameters.path}: rotary scaling {kind!r} is not supported; supported are: "
        f"{', '.join(KINDS)}."
    )


def longrope_attention_factor(factor: float, original: int) -> float:
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def longrope(
    frequencies: Frequencies, factors: Sequence[float], attention_factor: float, path: str
) -> RopeSpec:
    """Each frequency divided by its own factor."""
    if len(factors) != len(frequencies):
        raise ModelCorrupt(
            f"{path}: {len(factors)} rotary factors for {len(frequencies)} frequencies."
        )
    return make_rope(frequencies / np.asarray(factors, np.float64), attention_factor)


def _hf_yarn(
    parameters: HFConfig, frequencies: Frequencies, theta: float, original: int
) -> RopeSpec:
    factor = parameters.number("factor")
    if "mscale" in parameters or "mscale_all_dim" in parameters:
        raise UnsupportedModel(f"{parameters.path}: YaRN with 'mscale' is not supported.")
    scaled = yarn_frequencies(
        frequencies,
        theta,
        factor,
        original,
        parameters.number("beta_fast", 32),
        parameters.number("beta_slow", 1),
        parameters.boolean("truncate", True),
    )
    attention_factor = parameters.number("attention_factor", yarn_attention_factor(factor))
    return make_rope(scaled, attention_factor)


def hf_context_length(config: HFConfig, parameters: HFConfig) -> int:
    """The longest context: what is configured, or what YaRN extends the original one to."""
    max_position = config.integer("max_position_embeddings")
    if parameters.string("rope_type", "default") == "yarn":
        original = parameters.integer("original_max_position_embeddings")
        return max(max_position, int(original * parameters.number("factor")))
    return max_position


def gguf_rope(metadata: ArchMetadata, head_dim: int, max_model_len: int | None) -> RopeSpec:
    """The rope that GGUF metadata and the tensors of factors beside it describe.

    Raises `UnsupportedModel` for a scaling that is not implemented.
    """
    theta = metadata.number("rope.freq_base", 10_000.0, above=1)
    dim = metadata.integer("rope.dimension_count", head_dim, limit=head_dim)
    frequencies = base_frequencies(dim, theta)
    if (factors := metadata.vector("rope_freqs.weight")) is not None:  # llama3, precomputed
        return longrope(frequencies, factors, 1.0, str(metadata.path))
    context = metadata.integer("context_length")
    original = metadata.integer("rope.scaling.original_context_length", context, minimum=2)
    attention_factor = metadata.number("rope.scaling.attn_factor", 1.0)
    long = (max_model_len or context) > original
    name = "rope_factors_long.weight" if long else "rope_factors_short.weight"
    if (factors := metadata.vector(name)) is not None:
        return longrope(frequencies, factors, attention_factor, str(metadata.path))
    kind = metadata.string("rope.scaling.type", "none")
    factor = metadata.number("rope.scaling.factor", 1.0)
    if kind in ("none", "longrope"):
        return make_rope(frequencies)
    if kind == "linear":
        return make_rope(frequencies / factor)
    if kind == "yarn":
        scaled = yarn_frequencies(
            frequencies,
            theta,
            factor,
            original,
            metadata.number("rope.scaling.yarn_beta_fast", 32),
            metadata.number("rope.scaling.yarn_beta_slow", 1),
            truncate=True,
        )
        return make_rope(scaled, attention_factor * yarn_attention_factor(factor))
    raise UnsupportedModel(
        f"{metadata.path}: rotary scaling {kind!r} is not supported; supported are: "
        f"{', '.join(KINDS)}."
    )


def gguf_context_length(metadata: ArchMetadata) -> int:
    """The longest context: what is written, or what YaRN extends the original one to."""
    context = metadata.integer("context_length")
    if metadata.string("rope.scaling.type", "none") == "yarn":
        original = metadata.integer("rope.scaling.original_context_length", context)
        return max(context, int(original * metadata.number("rope.scaling.factor", 1.0)))
    return context
