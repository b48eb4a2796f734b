"""Rotary frequencies and their scalings, against the formulas worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from stoker.errors import ModelCorrupt, UnsupportedModel
from stoker.model.families.config import HFConfig
from stoker.model.families.rope import (
    base_frequencies,
    hf_context_length,
    hf_rope,
    hf_rope_parameters,
    llama3_frequencies,
    longrope_attention_factor,
    yarn_attention_factor,
    yarn_frequencies,
)
from stoker.model.spec import RopeSpec


def config(**values: Any) -> HFConfig:
    return HFConfig(Path("config.json"), {"max_position_embeddings": 64, **values})


def rope(config: HFConfig, head_dim: int = 8, max_model_len: int | None = None) -> RopeSpec:
    return hf_rope(hf_rope_parameters(config), head_dim, 64, max_model_len)


def test_base_frequencies() -> None:
    np.testing.assert_allclose(base_frequencies(8, 10_000.0), [1, 0.1, 0.01, 0.001], rtol=1e-15)


def test_frequencies_are_float32_values() -> None:
    frequencies = rope(config()).inv_freq
    assert [float(np.float32(f)) for f in frequencies] == list(frequencies)
    assert frequencies[1] == float(np.float32(0.1))


def test_both_ways_of_writing_a_configuration() -> None:
    scaling = {"factor": 4.0}
    old = config(rope_theta=500.0, rope_scaling={"type": "linear", **scaling})
    new = config(rope_parameters={"rope_theta": 500.0, "rope_type": "linear", **scaling})
    assert rope(old) == rope(new)
    np.testing.assert_allclose(rope(old).inv_freq, base_frequencies(8, 500.0) / 4, rtol=1e-7)


def test_partial_rotation() -> None:
    partial = rope(config(partial_rotary_factor=0.5), head_dim=16)
    assert partial.dim == 8
    assert partial.inv_freq == rope(config(), head_dim=8).inv_freq


def test_llama3_keeps_short_wavelengths_and_stretches_long_ones() -> None:
    original = 8192
    turns = np.array([4.5, 4.0, 2.5, 1.0, 0.5])  # of a whole context
    frequencies = turns * 2 * math.pi / original
    scaled = llama3_frequencies(frequencies, 8.0, 1.0, 4.0, original)
    np.testing.assert_allclose(scaled / frequencies, [1, 1, 0.5 / 8 + 0.5, 1 / 8, 1 / 8])


def test_yarn_ramps_from_kept_to_interpolated() -> None:
    theta, original = 10_000.0, 2048
    frequencies = base_frequencies(128, theta)
    scaled = yarn_frequencies(frequencies, theta, 4.0, original, 32, 1, truncate=True)
    turns = original * frequencies / (2 * math.pi)
    ratio = frequencies / scaled
    np.testing.assert_allclose(ratio[turns > 34], 1)
    np.testing.assert_allclose(ratio[turns < 0.8], 4)
    assert (np.diff(ratio) >= -1e-12).all()
    assert yarn_attention_factor(4.0) == pytest.approx(1.1386294)
    assert yarn_attention_factor(1.0) == 1


def test_yarn_lengthens_the_context() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    c = config(max_position_embeddings=40, rope_scaling=scaling)
    assert hf_context_length(c, hf_rope_parameters(c)) == 128
    assert rope(c).attention_factor == yarn_attention_factor(4.0)


class TestLongRope:
    factors: ClassVar = {
        "short_factor": [1.0, 1.0, 1.0, 2.0],
        "long_factor": [1.0, 2.0, 4.0, 8.0],
    }
    config = config(
        rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=16
    )

    @pytest.mark.parametrize(
        ("max_model_len", "factors"),
        [(None, "long_factor"), (17, "long_factor"), (16, "short_factor")],
    )
    def test_factors_depend_on_the_context_used(
        self, max_model_len: int | None, factors: str
    ) -> None:
        expected = base_frequencies(8, 10_000.0) / np.array(self.factors[factors])
        result = rope(self.config, max_model_len=max_model_len)
        np.testing.assert_allclose(result.inv_freq, expected, rtol=1e-7)
        assert result.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))

    def test_no_extension_no_factor(self) -> None:
        assert longrope_attention_factor(1.0, 16) == 1

    def test_number_of_factors(self) -> None:
        with pytest.raises(ModelCorrupt, match="4 rotary factors for 8 frequencies"):
            rope(self.config, head_dim=16)


@pytest.mark.parametrize("kind", ["dynamic", "proportional", "mrope"])
def test_other_scalings_are_refused_by_name(kind: str) -> None:
    match = f"'{kind}' is not supported; supported are: default, linear, llama3, yarn, longrope"
    with pytest.raises(UnsupportedModel, match=match):
        rope(config(rope_scaling={"type": kind, "factor": 2.0}))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"rope_theta": -1.0}, "'rope_theta' should be a finite number above 0"),
        ({"rope_theta": 1}, "'rope_theta' should be a finite number above 1"),
        ({"rope_theta": "10000"}, "'rope_theta' should be"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "'factor' should be"),
        ({"rope_scaling": {"type": 4}}, "'type' should be a string"),
        ({"rope_scaling": [1]}, "'rope_scaling' should be an object"),
        ({"rope_scaling": {"type": "su", "short_factor": [1, 0]}}, "'long_factor' is missing"),
        (
            {
                "rope_scaling": {
                    "type": "llama3",
                    "factor": 8,
                    "low_freq_factor": 4,
                    "high_freq_factor": 4,
                }
            },
            "'high_freq_factor' should be a finite number above 4",
        ),
    ],
)
def test_bad_parameters_are_named(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelCorrupt, match=match):
        rope(config(**values), max_model_len=65)
