"""Norms, rotary embedding, activations: against NumPy, and alike on every instruction set."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _kernels

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

ISAS = _kernels.available_isas()
WIDTHS = [1, 7, 16, 33, 576]


def rows(width: int, scale: float = 3.0, seed: int = 0) -> Float32Array:
    return np.random.default_rng(seed).normal(0.5, scale, (5, width)).astype(np.float32)


def rms_norm(x: Float32Array, isa: str) -> Float32Array:
    return _kernels.rms_norm(x, rows(x.shape[1], seed=1)[0], 1e-5, isa)


def layer_norm(x: Float32Array, isa: str) -> Float32Array:
    weight, bias = rows(x.shape[1], seed=1)[:2]
    return _kernels.layer_norm(x, weight, bias, 1e-5, isa)


def rope(x: Float32Array, isa: str) -> Float32Array:
    angles = np.arange(x.shape[1] // 2, dtype=np.float32)
    return _kernels.rope(x, np.cos(angles), np.sin(angles), isa)


def gated(activation: str) -> Callable[[Float32Array, str], Float32Array]:
    return lambda x, isa: _kernels.gate(activation, x, rows(x.shape[1], seed=1), isa)


def activated(activation: str) -> Callable[[Float32Array, str], Float32Array]:
    return lambda x, isa: _kernels.activate(activation, x, isa)


def softcap(x: Float32Array, isa: str) -> Float32Array:
    return _kernels.softcap(x, 2.5, isa)


def expected_rms_norm(x: Float32Array) -> Float64Array:
    wide = x.astype(np.float64)
    scale = np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-5)
    normed: Float64Array = wide / scale * rows(x.shape[1], seed=1)[0]
    return normed


def expected_layer_norm(x: Float32Array) -> Float64Array:
    wide = x.astype(np.float64)
    weight, bias = rows(x.shape[1], seed=1)[:2].astype(np.float64)
    scale = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
    normed: Float64Array = (wide - wide.mean(axis=1, keepdims=True)) / scale * weight + bias
    return normed


def expected_rope(x: Float32Array) -> Float64Array:
    half = x.shape[1] // 2
    first, second = x[:, :half].astype(np.float64), x[:, half : 2 * half].astype(np.float64)
    angles = np.arange(half, dtype=np.float64)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.hstack((first * cos - second * sin, second * cos + first * sin, x[:, 2 * half :]))


def expected_activation(activation: str, x: Float32Array) -> Float64Array:
    wide = x.astype(np.float64)
    match activation:
        case "silu":
            factor = 1 / (1 + np.exp(-wide))
        case "gelu_tanh":
            inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
            factor = 0.5 * (1 + np.tanh(inner))
        case _:
            erf = np.array([math.erf(v / math.sqrt(2)) for v in wide.ravel()])
            factor = 0.5 * (1 + erf.reshape(wide.shape))
    result: Float64Array = wide * factor
    return result


def expected_gate(activation: str) -> Callable[[Float32Array], Float64Array]:
    return lambda x: expected_activation(activation, x) * rows(x.shape[1], seed=1)


KERNELS: list[
    tuple[
        str,
        Callable[[Float32Array, str], Float32Array],
        Callable[[Float32Array], Float64Array],
        float,
    ]
] = [
    ("rms_norm", rms_norm, expected_rms_norm, 1e-5),
    ("layer_norm", layer_norm, expected_layer_norm, 1e-5),
    ("rope", rope, expected_rope, 3e-6),
    ("softcap", softcap, lambda x: 2.5 * np.tanh(x.astype(np.float64) / 2.5), 1e-6),
    *(
        (f"gate {name}", gated(name), expected_gate(name), 2e-5)
        for name in ("silu", "gelu_tanh", "gelu")
    ),
    *(
        (name, activated(name), lambda x, name=name: expected_activation(name, x), 2e-6)
        for name in ("silu", "gelu_tanh", "gelu")
    ),
]
PARAMETERS = [pytest.param(*rest, id=name) for name, *rest in KERNELS]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("kernel", "expected", "limit"), PARAMETERS)
def test_against_numpy(
    kernel: Callable[[Float32Array, str], Float32Array],
    expected: Callable[[Float32Array], Float64Array],
    limit: float,
    width: int,
) -> None:
    x = rows(width)
    np.testing.assert_allclose(kernel(x, ISAS[-1]), expected(x), atol=limit, rtol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("kernel", "expected", "limit"), PARAMETERS)
def test_every_instruction_set_computes_the_same_bits(
    kernel: Callable[[Float32Array, str], Float32Array],
    expected: Callable[[Float32Array], Float64Array],
    limit: float,
    width: int,
    isa: str,
) -> None:
    x = rows(width, scale=30.0)
    np.testing.assert_array_equal(kernel(x, isa), kernel(x, "portable"), strict=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
def test_activations_far_out(activation: str, isa: str) -> None:
    x = np.array([[-1e6, -300.0, -90.0, 0.0, 90.0, 300.0, 1e6]], np.float32)
    computed = _kernels.activate(activation, x, isa)
    np.testing.assert_allclose(computed, [[0, 0, 0, 0, 90, 300, 1e6]], atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_not_a_number_stays_so(isa: str) -> None:
    x = np.array([[1.0, np.nan, 2.0]], np.float32)
    for kernel in (softcap, activated("silu"), activated("gelu_tanh"), activated("gelu")):
        assert np.isnan(kernel(x, isa)).tolist() == [[False, True, False]]
    for kernel in (rms_norm, layer_norm):
        assert np.isnan(kernel(x, isa)).all()


def test_an_unknown_instruction_set_is_named() -> None:
    with pytest.raises(ValueError, match="instruction set 'mmx' cannot be used here"):
        _kernels.softcap(rows(4), 1.0, "mmx")
