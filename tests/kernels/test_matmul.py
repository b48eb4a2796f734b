"""Packed weights and their products: against gguf's dequantization, against the exact rule of
`kernels/matmul.h` written in NumPy, and every instruction set against the portable one."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from stoker import _kernels
from stoker._kernels import PackedMatrix

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Bytes = NDArray[np.uint8]

ISAS = _kernels.available_isas()
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
FLOATS = ["F32", "F16", "BF16"]
# Offsets of the fp16 fields in a block, in bytes.
HALF_FIELDS = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
}


def rng_for(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def random_encoded(type_: str, rows: int, cols: int, rng: np.random.Generator) -> Bytes:
    """Random bytes of a tensor type with reasonable scales, `[rows, bytes per row]`."""
    if type_ in FLOATS:
        values = (rng.standard_normal((rows, cols)) * 0.05).astype(np.float32)
        if type_ == "F16":
            return values.astype(np.float16).view(np.uint8)
        if type_ == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.view(np.uint8)
    block_cols, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[type_]]
    blocks = cols // block_cols
    data = rng.integers(0, 256, (rows, blocks, block_bytes), dtype=np.uint8)
    for offset in HALF_FIELDS[type_]:
        field = (rng.standard_normal((rows, blocks, 1)) * 0.01).astype(np.float16)
        data[:, :, offset : offset + 2] = field.view(np.uint8)
    return data.reshape(rows, -1)


def decoded(data: Bytes, type_: str) -> Float32Array:
    return dequantize(data, GGMLQuantizationType[type_])


def fma(a: Float64Array, b: Float64Array, c: Float32Array) -> Float32Array:
    """float32(a · b + c) with one rounding, for a and b that are float32 values.

    The product is exact in float64. The sum is rounded to odd (Boldo and Melquiond, 2008), so
    that rounding it again to float32 gives what one rounding would.
    """
    product, addend = a * b, c.astype(np.float64)
    total = product + addend
    part = total - product
    error = (product - (total - part)) + (addend - part)
    even = (total.view(np.int64) & 1) == 0
    toward = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, toward, total).astype(np.float32)


def quantized_by_rule(x: Float32Array) -> tuple[NDArray[np.int64], Float32Array]:
    """Codes [m, blocks, 32], those of outlier quads whole, and scales [m, blocks] of finite
    activations."""
    m, k = x.shape
    padded = np.zeros((m, -(-k // 32) * 32), np.float32)
    padded[:, :k] = x
    blocks = padded.reshape(m, -1, 32)
    largest = np.abs(blocks).max(axis=2)
    zero = largest < np.float32(1e-30)
    quads = np.sort(np.abs(blocks).reshape(m, -1, 8, 4).max(axis=3), axis=2)
    rest = quads[:, :, 6]
    outlier = largest > np.float32(2) * rest
    range_ = np.where(outlier, np.maximum(rest, largest / np.float32(127)), largest)
    divisor = np.where(zero, np.float32(1), range_)
    inverse = np.where(zero, np.float32(0), np.float32(127) / divisor).astype(np.float32)
    scales = np.where(zero, np.float32(0), range_ / np.float32(127)).astype(np.float32)
    codes = np.rint(blocks * inverse[:, :, None]).astype(np.int64)
    return codes, scales


def product_by_rule(
    x: Float32Array,
    codes: Bytes,
    d: NDArray[np.float16],
    min_: NDArray[np.float16] | None,
    zero: int,
) -> Float32Array:
    """The rule of matmul.h: codes [n, blocks, 32], d and min [n, blocks]."""
    a, sa = quantized_by_rule(x)
    m, n = x.shape[0], codes.shape[0]
    acc = np.zeros((m, n), np.float32)
    for b in range(codes.shape[1]):
        weights = codes[:, b].astype(np.int64) - (0 if min_ is not None else zero)
        sums = a[:, b] @ weights.T
        d_sa = d[:, b].astype(np.float32)[None, :] * sa[:, b][:, None]
        acc = fma(sums.astype(np.float32).astype(np.float64), d_sa.astype(np.float64), acc)
        if min_ is not None:
            scaled = sa[:, b] * a[:, b].sum(axis=1).astype(np.float32)
            acc = fma(
                np.broadcast_to(min_[:, b].astype(np.float64), (m, n)),
                np.broadcast_to(scaled.astype(np.float64)[:, None], (m, n)),
                acc,
            )
    return acc


def activations(m: int, k: int, rng: np.random.Generator) -> Float32Array:
    """Normal values of mixed magnitudes with outliers, some of them huge, and zeros."""
    x = rng.standard_normal((m, k)) * np.exp(rng.standard_normal((m, 1)) * 2)
    x[rng.random((m, k)) < 0.02] *= 30
    x[rng.random((m, k)) < 0.003] *= 1e6
    x[:, :32] *= rng.random((m, 1)) < 0.9
    return x.astype(np.float32)


def as_bytes(array: NDArray[np.float32]) -> bytes:
    return array.tobytes()


class TestPack:
    @pytest.mark.parametrize(
        ("type_", "format_"),
        [
            *(("Q4_0", "q4"), ("Q4_1", "q4"), ("Q5_0", "q8"), ("Q5_1", "q8"), ("Q8_0", "q8")),
            ("BF16", "bf16"),
        ],
    )
    @pytest.mark.parametrize(("rows", "cols"), [(1, 32), (37, 96), (64, 256)])
    def test_exact_types_round_trip(self, type_: str, format_: str, rows: int, cols: int) -> None:
        data = random_encoded(type_, rows, cols, rng_for(type_, rows, cols))
        packed = _kernels.pack(data, type_, cols)
        assert packed.format == format_
        assert as_bytes(packed.dequantize_rows(0, rows)) == as_bytes(decoded(data, type_))

    @pytest.mark.parametrize("type_", ["Q4_K", "Q5_K"])
    def test_k_quants_keep_their_codes(self, type_: str) -> None:
        """Only the scales and mins are rounded, to fp16: half a unit of 2⁻¹¹ of each term."""
        data = random_encoded(type_, 19, 512, rng_for(type_))
        exact = decoded(data, type_)
        packed = _kernels.pack(data, type_, 512)
        assert (packed.format, packed.has_mins) == ("q4" if type_ == "Q4_K" else "q8", True)
        scale = np.abs(exact).reshape(19, -1, 32).max(axis=2, keepdims=True)
        error = np.abs(packed.dequantize_rows(0, 19) - exact).reshape(19, -1, 32)
        # The min is the weight of code 0; scale · code is at most twice the largest weight.
        assert (error <= scale * 3 * 2**-11 + 2**-24).all()

    @pytest.mark.parametrize("type_", [*QUANTIZED, *FLOATS])
    @pytest.mark.parametrize(("format_", "most"), [("q4", 0.6 / 8), ("q8", 0.51 / 127)])
    def test_requantizing_errs_by_half_a_step(self, type_: str, format_: str, most: float) -> None:
        data = random_encoded(type_, 21, 256, rng_for(type_, format_))
        exact = decoded(data, type_).reshape(21, -1, 32)
        packed = _kernels.pack(data, type_, 256, format_).dequantize_rows(0, 21)
        error = np.abs(packed.reshape(exact.shape) - exact)
        largest = np.abs(exact).max(axis=2, keepdims=True)
        # q4 may clip the largest weights where that rounds the others better: 7 / 8.8 is left.
        slack = 0.21 if format_ == "q4" else most
        assert (error <= largest * slack + 1e-6).all()
        assert np.sqrt((error**2).mean()) <= most * np.sqrt((largest**2).mean())

    @pytest.mark.parametrize("type_", [*QUANTIZED, "F32", "F16"])
    def test_bf16_is_rounded_half_to_even(self, type_: str) -> None:
        data = random_encoded(type_, 5, 256, rng_for(type_))
        bits = decoded(data, type_).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
        packed = _kernels.pack(data, type_, 256, "bf16")
        assert as_bytes(packed.dequantize_rows(0, 5)) == rounded.tobytes()

    @pytest.mark.parametrize("cols", [1, 31, 33, 50])
    @pytest.mark.parametrize("format_", ["q4", "q8", "bf16"])
    def test_columns_need_not_fill_blocks(self, cols: int, format_: str) -> None:
        weights = rng_for(cols).standard_normal((3, cols)).astype(np.float32)
        packed = _kernels.pack(weights.view(np.uint8), "F32", cols, format_)
        out = packed.dequantize_rows(0, 3)
        assert out.shape == (3, cols)
        assert np.abs(out - weights).max() <= np.abs(weights).max() / (
            6 if format_ == "q4" else 100
        )

    def test_rows_may_be_strided(self) -> None:
        data = random_encoded("Q4_0", 40, 64, rng_for("strided"))
        view = data[1::3]
        packed = _kernels.pack(view, "Q4_0", 64)
        assert as_bytes(packed.dequantize_rows(0, view.shape[0])) == as_bytes(
            decoded(np.ascontiguousarray(view), "Q4_0")
        )

    def test_a_range_of_rows_is_dequantized(self) -> None:
        data = random_encoded("Q8_0", 40, 64, rng_for("range"))
        packed = _kernels.pack(data, "Q8_0", 64)
        assert as_bytes(packed.dequantize_rows(15, 18)) == as_bytes(decoded(data, "Q8_0")[15:18])
        assert packed.dequantize_rows(7, 7).shape == (0, 64)

    def test_size_in_memory(self) -> None:
        def size(type_: str) -> int:
            return _kernels.pack(random_encoded(type_, 64, 256, rng_for(0)), type_, 256).nbytes

        assert size("Q4_0") == 64 * 8 * (16 + 2)
        assert size("Q4_1") == 64 * 8 * (16 + 4)
        assert size("Q8_0") == 64 * 8 * (32 + 2)
        assert size("BF16") == 64 * 256 * 2

    @pytest.mark.parametrize("format_", ["q4", "q8"])
    def test_extremes(self, format_: str) -> None:
        """Zero blocks stay zero; a block with a NaN or an infinity is NaN, alone."""
        weights = np.zeros((1, 128), np.float32)
        weights[0, 32] = np.inf
        weights[0, 70] = np.nan
        weights[0, 96] = -1e-3
        out = _kernels.pack(weights.view(np.uint8), "F32", 128, format_).dequantize_rows(0, 1)[0]
        assert (out[:32] == 0).all()
        assert np.isnan(out[32:96]).all()
        assert out[96] == pytest.approx(-1e-3, rel=0.02)
        assert (out[97:] == 0).all()

    @pytest.mark.parametrize(
        ("shape", "type_", "cols", "format_", "message"),
        [
            ((2, 18), "Q4_0", 33, None, "whole blocks of 32 columns; got 33"),
            ((2, 17), "Q4_0", 32, None, "18 contiguous bytes"),
            ((2, 18), "Q2_K", 32, None, "unknown tensor type 'Q2_K'"),
            ((2, 18), "Q4_0", 32, "q5", "unknown weight format 'q5'; expected q4, q8 or bf16"),
            ((0, 18), "Q4_0", 32, None, "between 1 and 2\\^30 rows"),
        ],
    )
    def test_refusals(
        self, shape: tuple[int, int], type_: str, cols: int, format_: str | None, message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            _kernels.pack(np.zeros(shape, np.uint8), type_, cols, format_)


class TestQuantizeActivations:
    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize(("m", "k"), [(1, 32), (3, 50), (7, 576)])
    def test_follows_the_rule(self, isa: str, m: int, k: int) -> None:
        x = activations(m, k, rng_for(m, k))
        codes, scales, sums, scaled = _kernels.quantize_activations(x, isa)
        expected_codes, expected_scales = quantized_by_rule(x)
        assert (codes.reshape(expected_codes.shape) == expected_codes).all()
        assert as_bytes(scales) == as_bytes(expected_scales)
        assert (sums == expected_codes.sum(axis=2)).all()
        assert as_bytes(scaled) == as_bytes(expected_scales * sums.astype(np.float32))

    @pytest.mark.parametrize("isa", ISAS)
    def test_halves_round_to_even(self, isa: str) -> None:
        x = np.zeros((1, 32), np.float32)
        x[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -0.0]
        x[0, 31] = -127
        codes, scales, sums, _ = _kernels.quantize_activations(x, isa)
        assert codes[0, :8].tolist() == [127, 0, 2, 2, 0, -2, -2, 0]
        assert (scales[0, 0], sums[0, 0]) == (1, 0)

    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("quad", range(8))
    def test_an_outlier_quad_has_more_bits(self, isa: str, quad: int) -> None:
        x = np.zeros((1, 32), np.float32)
        x[0, (quad * 4 + 7) % 32] = 127  # the largest of the rest, in the next quad
        x[0, quad * 4 : quad * 4 + 4] = [-1000.5, 63.5, 1001.5, -64.5]
        codes, scales, sums, _ = _kernels.quantize_activations(x, isa)
        assert codes[0, quad * 4 : quad * 4 + 4].tolist() == [-1000, 64, 1002, -64]
        assert (scales[0, 0], sums[0, 0]) == (1, 127 + 2)

    @pytest.mark.parametrize("isa", ISAS)
    def test_when_a_quad_is_an_outlier(self, isa: str) -> None:
        """Beyond twice the rest; the scale does not fall below 1 / 127² of the largest."""
        x = np.zeros((1, 160), np.float32)
        x[0, [0, 4]] = [254, 127]  # twice
        x[0, [32, 37]] = [-254.1, 127]  # more
        x[0, [64, 65]] = [254.1, 254.1]  # nothing else
        x[0, [99, 127]] = [-508, 508]  # a tie
        x[0, [131, 132]] = [127e6, 127]
        codes, scales, _, _ = _kernels.quantize_activations(x, isa)
        assert codes[0, [0, 4, 32, 37, 64, 65, 99, 127, 131, 132]].tolist() == [
            *[127, 64],
            *[-254, 127],
            *[16129, 16129],
            *[-127, 127],
            *[16129, 0],
        ]
        expected = quantized_by_rule(x)
        assert codes.tolist() == expected[0].reshape(1, -1).tolist()
        assert as_bytes(scales) == as_bytes(expected[1])

    @pytest.mark.parametrize("isa", ISAS)
    def test_extremes(self, isa: str) -> None:
        x = np.zeros((1, 192), np.float32)
        x[0, 0] = np.nan
        x[0, 33] = -np.inf
        x[0, 64] = np.finfo(np.float32).max
        x[0, 65] = -np.finfo(np.float32).max
        x[0, 96] = 1e-31  # too small to scale
        x[0, 128] = -1e-30
        x[0, 160] = np.finfo(np.float32).smallest_subnormal
        codes, scales, sums, scaled = _kernels.quantize_activations(x, isa)
        assert np.isnan(scales[0, :2]).all()
        assert np.isnan(scaled[0, :2]).all()
        assert codes[0, :64].tolist() == [0] * 64
        assert codes[0, 64:66].tolist() == [16129, -16129]
        assert np.isfinite(scales[0, 2])
        smallest = np.float32(1e-30) / np.float32(127) / np.float32(127)
        assert scales[0, 3:].tolist() == [0, smallest, 0]
        assert codes[0, 96:].nonzero()[0].tolist() == [32]
        assert sums[0].tolist() == [0, 0, 0, 0, -16129, 0]


def unpacked(
    data: Bytes, type_: str
) -> tuple[Bytes, NDArray[np.float16], NDArray[np.float16] | None]:
    """Codes, scales and mins of Q8_0 (offset by 128), Q4_0 and Q4_1 rows."""
    blocks = data.reshape(data.shape[0], -1, {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[type_])
    d = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[:, :, 0]
    if type_ == "Q8_0":
        return blocks[:, :, 2:] ^ np.uint8(0x80), d, None
    nibbles = blocks[:, :, -16:]
    codes = np.concatenate([nibbles & 15, nibbles >> 4], axis=2)
    if type_ == "Q4_0":
        return codes, d, None
    return codes, d, np.ascontiguousarray(blocks[:, :, 2:4]).view(np.float16)[:, :, 0]


class TestQuantizedProducts:
    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("type_", ["Q8_0", "Q4_0", "Q4_1"])
    @pytest.mark.parametrize(
        ("m", "n", "k"), [(1, 16, 32), (3, 37, 96), (9, 70, 576), (70, 20, 64), (7, 18, 2208)]
    )
    def test_equal_the_rule_bit_for_bit(self, isa: str, type_: str, m: int, n: int, k: int) -> None:
        rng = rng_for(type_, m, n, k)
        data, x = random_encoded(type_, n, k, rng), activations(m, k, rng)
        expected = product_by_rule(x, *unpacked(data, type_), zero=8 if type_ == "Q4_0" else 128)
        out = _kernels.matmul(x, _kernels.pack(data, type_, k), isa)
        assert as_bytes(out) == as_bytes(expected)

    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("type_", ["Q8_0", "Q4_0", "Q4_1"])
    @pytest.mark.parametrize("code", [0x00, 0xFF, 0x80, 0x7F])
    @pytest.mark.parametrize("sign", [1, -1])
    def test_no_sum_saturates(self, isa: str, type_: str, code: int, sign: int) -> None:
        """All codes at an extreme and all activations at ±127."""
        blocks = np.full((17, 2, {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}[type_]), code, np.uint8)
        blocks[:, :, :2] = np.array([0.5], np.float16).view(np.uint8)
        if type_ == "Q4_1":
            blocks[:, :, 2:4] = np.array([-3.0], np.float16).view(np.uint8)
        data = blocks.reshape(17, -1)
        x = np.full((5, 64), 127 * sign, np.float32)
        expected = product_by_rule(x, *unpacked(data, type_), zero=8 if type_ == "Q4_0" else 128)
        out = _kernels.matmul(x, _kernels.pack(data, type_, 64), isa)
        assert as_bytes(out) == as_bytes(expected)
        assert out[0, 0] == (x[0] @ decoded(data, type_)[0])
        for quad in range(8):  # with an outlier quad at ±127² too
            x[:, 32 + quad * 4 : 36 + quad * 4] = 127**2 * sign
            expected = product_by_rule(x, *unpacked(data, type_), 8 if type_ == "Q4_0" else 128)
            out = _kernels.matmul(x, _kernels.pack(data, type_, 64), isa)
            assert as_bytes(out) == as_bytes(expected)
            x[:, 32 + quad * 4 : 36 + quad * 4] = 127 * sign

    @pytest.mark.parametrize("isa", ISAS[1:])
    @pytest.mark.parametrize("type_", [*QUANTIZED, *FLOATS])
    @pytest.mark.parametrize("format_", ["q4", "q8"])
    def test_every_instruction_set_gives_the_portable_bits(
        self, isa: str, type_: str, format_: str
    ) -> None:
        for m, n, k in [(1, 50, 256), (4, 33, 512), (17, 80, 256), (33, 16, 768)]:
            rng = rng_for(type_, format_, m, n, k)
            packed = _kernels.pack(random_encoded(type_, n, k, rng), type_, k, format_)
            x = activations(m, k, rng)
            portable = _kernels.matmul(x, packed, "portable")
            assert as_bytes(_kernels.matmul(x, packed, isa)) == as_bytes(portable), (m, n, k)

    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("format_", ["q4", "q8"])
    def test_float_columns_that_do_not_fill_blocks(self, isa: str, format_: str) -> None:
        rng = rng_for(format_)
        for k in [1, 31, 33, 100]:
            weights = rng.standard_normal((18, k)).astype(np.float32)
            packed = _kernels.pack(weights.view(np.uint8), "F32", k, format_)
            x = activations(3, k, rng)
            codes, scales = quantized_by_rule(x)
            rounded = (codes * scales[:, :, None]).reshape(3, -1)[:, :k]
            expected = rounded @ packed.dequantize_rows(0, 18).T.astype(np.float64)
            out = _kernels.matmul(x, packed, isa)
            np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize("format_", ["q4", "q8", "bf16"])
    def test_what_is_not_finite_shows(self, isa: str, format_: str) -> None:
        weights = rng_for("finite").standard_normal((16, 64)).astype(np.float32)
        packed = _kernels.pack(weights.view(np.uint8), "F32", 64, format_)
        x = np.ones((3, 64), np.float32)
        x[0, 40] = np.nan
        x[1, 40] = np.inf
        out = _kernels.matmul(x, packed, isa)
        assert not np.isfinite(out[:2]).any()
        assert np.isfinite(out[2]).all()


def product_of(m: int, n: int, k: int, format_: str) -> tuple[Float32Array, PackedMatrix]:
    rng = rng_for("product", m, n, k, format_)
    weights = (rng.standard_normal((n, k)) * 0.05).astype(np.float32)
    return activations(m, k, rng), _kernels.pack(weights.view(np.uint8), "F32", k, format_)


class TestBf16Products:
    @pytest.mark.parametrize("isa", ISAS)
    @pytest.mark.parametrize(
        ("m", "n", "k"), [(1, 16, 2), (2, 37, 33), (5, 100, 576), (70, 20, 64)]
    )
    def test_close_to_the_exact_product(self, isa: str, m: int, n: int, k: int) -> None:
        """A sum of k float32 terms in any order errs by at most about k · 2⁻²⁴ of Σ|w·x|."""
        x, packed = product_of(m, n, k, "bf16")
        bits = x.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
        exact_x = rounded.view(np.float32).astype(np.float64)
        weights = packed.dequantize_rows(0, n).astype(np.float64)
        out = _kernels.matmul(x, packed, isa)
        bound = np.abs(exact_x) @ np.abs(weights).T * k * 2.0**-24
        assert (np.abs(out - exact_x @ weights.T) <= bound).all()

    def test_avx2_gives_the_portable_bits(self) -> None:
        if "avx2" not in ISAS:
            pytest.skip("this processor has no AVX2")
        for m in [1, 3, 9]:
            x, packed = product_of(m, 50, 320, "bf16")
            portable = _kernels.matmul(x, packed, "portable")
            assert as_bytes(_kernels.matmul(x, packed, "avx2")) == as_bytes(portable)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format_", ["q4", "q8", "bf16"])
class TestIndependence:
    def test_of_the_batch(self, isa: str, format_: str) -> None:
        x, packed = product_of(70, 90, 160, format_)
        whole = _kernels.matmul(x, packed, isa)
        for m in [1, 2, 3, 5, 6, 7, 8, 9, 12, 16, 17, 31, 33, 64]:
            first = 70 - m
            part = _kernels.matmul(np.ascontiguousarray(x[first:]), packed, isa)
            assert as_bytes(part) == as_bytes(whole[first:]), m

    def test_of_many_rows_of_many_columns(self, isa: str, format_: str) -> None:
        x, packed = product_of(200, 16, 8192, format_)
        whole = _kernels.matmul(x, packed, isa)
        for rows in [(0, 97), (97, 200), (150, 151)]:
            out = _kernels.matmul(x, packed, isa, rows, (0, 1))
            assert as_bytes(out[slice(*rows)]) == as_bytes(whole[slice(*rows)]), rows
            assert not out[: rows[0]].any()
            assert not out[rows[1] :].any()

    def test_of_the_ranges(self, isa: str, format_: str) -> None:
        x, packed = product_of(11, 90, 160, format_)
        whole = _kernels.matmul(x, packed, isa)
        for rows in [(0, 11), (2, 3), (4, 11), (5, 5)]:
            for panels in [(0, 6), (0, 1), (1, 4), (3, 6), (5, 6), (2, 2)]:
                out = _kernels.matmul(x, packed, isa, rows, panels)
                expected = np.zeros_like(whole)
                window = slice(*rows), slice(panels[0] * 16, panels[1] * 16)
                expected[window] = whole[window]
                assert as_bytes(out) == as_bytes(expected), (rows, panels)


def test_refused_products() -> None:
    x, packed = product_of(2, 16, 32, "q8")
    with pytest.raises(ValueError, match="x has 31 columns, the weights 32"):
        _kernels.matmul(np.ascontiguousarray(x[:, :31]), packed, "portable")
    with pytest.raises(ValueError, match="instruction set 'sse' cannot be used here"):
        _kernels.matmul(x, packed, "sse")
    with pytest.raises(ValueError, match="outside the product"):
        _kernels.matmul(x, packed, "portable", (0, 3))
