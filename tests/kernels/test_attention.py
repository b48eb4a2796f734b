"""Paged attention: against NumPy, and bit for bit on any instruction set, chunked or split."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stoker import _kernels

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]

ISAS = _kernels.available_isas()
BLOCK = 16
DTYPES = ["float32", "bfloat16", "int8"]


class Case:
    """The last `queries` of a sequence of `context` tokens, in scattered blocks."""

    def __init__(
        self,
        context: int,
        queries: int,
        *,
        heads: int = 6,
        kv_heads: int = 2,
        dim: int = 64,
        window: int = 0,
        softcap: float = 0.0,
        seed: int = 0,
    ) -> None:
        random = np.random.default_rng(seed)
        self.q = random.normal(0, 1.5, (queries, heads, dim)).astype(np.float32)
        self.k = random.normal(0, 1.5, (context, kv_heads, dim)).astype(np.float32)
        self.v = random.normal(0, 1, (context, kv_heads, dim)).astype(np.float32)
        self.window, self.softcap, self.scale = window, softcap, dim**-0.5
        self.num_blocks = context // BLOCK + 3
        blocks = random.permutation(self.num_blocks)[: -(-context // BLOCK)]
        self.table: Int32Array = blocks.astype(np.int32)

    def computed(
        self, isa: str, dtype: str, chunk: int = 1, split: bool = False, last: int | None = None
    ) -> Float32Array:
        """By the kernel; only the `last` queries if given."""
        q = self.q if last is None else self.q[-last:].copy()
        result: Float32Array = _kernels.attend(
            q,
            self.k,
            self.v,
            self.table,
            num_blocks=self.num_blocks,
            scale=self.scale,
            softcap=self.softcap,
            window=self.window,
            chunk=chunk,
            split=split,
            kv_dtype=dtype,
            isa=isa,
        )
        return result

    def expected(self, dtype: str) -> Float32Array:
        q, k, v = self.q, self.k, self.v
        if dtype == "bfloat16":
            q, k, v = bfloat16(q), bfloat16(k), bfloat16(v)
        elif dtype == "int8":
            k, v = int8(k), int8(v)
        queries, heads, dim = q.shape
        context, kv_heads, _ = k.shape
        grouped = q.astype(np.float64).reshape(queries, kv_heads, heads // kv_heads, dim)
        scores = np.einsum("qhgd,khd->qhgk", grouped, k.astype(np.float64)) * self.scale
        if self.softcap:
            scores = self.softcap * np.tanh(scores / self.softcap)
        position = np.arange(context - queries, context)[:, None]
        key = np.arange(context)[None]
        seen = key <= position
        if self.window:
            seen &= key > position - self.window
        scores = np.where(seen[:, None, None], scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        out = np.einsum("qhgk,khd->qhgd", weights, v.astype(np.float64))
        result: Float32Array = out.reshape(queries, heads, dim).astype(np.float32)
        return result


def bfloat16(x: Float32Array) -> Float32Array:
    bits = x.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def int8(x: Float32Array) -> Float32Array:
    """Each token and head rounded to 8 bits with a scale of its own."""
    scale = np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)
    rounded: Float32Array = np.round(x / scale) * scale
    return rounded


CASES = [
    pytest.param(Case(1, 1), id="first token"),
    pytest.param(Case(33, 1), id="decode"),
    pytest.param(Case(40, 40), id="whole prompt"),
    pytest.param(Case(300, 30), id="chunk across partitions"),
    pytest.param(Case(1100, 3), id="several partitions"),
    pytest.param(Case(290, 9, window=7), id="window in and across blocks"),
    pytest.param(Case(700, 12, window=300), id="window across partitions"),
    pytest.param(Case(60, 5, softcap=3.0), id="softcap"),
    pytest.param(Case(50, 20, heads=4, kv_heads=4), id="no groups"),
    pytest.param(Case(50, 20, heads=9, kv_heads=1), id="one key-value head"),
    pytest.param(Case(50, 3, heads=71, kv_heads=1, dim=16), id="a group larger than an item"),
    pytest.param(Case(50, 20, dim=80), id="head_dim 80"),
    pytest.param(Case(50, 20, dim=18), id="head_dim 18"),
    pytest.param(Case(50, 20, dim=256), id="head_dim 256"),
]


@pytest.mark.parametrize("case", CASES)
class TestAgainstNumPy:
    def test_float32(self, case: Case) -> None:
        computed = case.computed(ISAS[-1], "float32")
        np.testing.assert_allclose(computed, case.expected("float32"), atol=1e-5, rtol=0)

    def test_bfloat16(self, case: Case) -> None:
        """Probabilities are rounded too, each by at most 2⁻⁹ of itself."""
        computed = case.computed(ISAS[-1], "bfloat16")
        limit = 2**-8 * np.abs(case.v).max()
        np.testing.assert_allclose(computed, case.expected("bfloat16"), atol=limit, rtol=0)

    def test_int8(self, case: Case) -> None:
        """Beside keys and values, queries are rounded to 15 bits and weights to 16."""
        computed = case.computed(ISAS[-1], "int8")
        np.testing.assert_allclose(computed, case.expected("int8"), atol=2e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
class TestBitForBit:
    @pytest.mark.parametrize("isa", ISAS)
    def test_instruction_sets(self, case: Case, dtype: str, isa: str) -> None:
        np.testing.assert_array_equal(
            case.computed(isa, dtype), case.computed("portable", dtype), strict=True
        )

    @pytest.mark.parametrize("isa", [ISAS[0], ISAS[-1]])
    @pytest.mark.parametrize("chunk", [2, 5, 8])
    def test_chunks(self, case: Case, dtype: str, isa: str, chunk: int) -> None:
        if case.q.shape[1] // case.k.shape[1] * chunk > 64:
            chunk = 1
        np.testing.assert_array_equal(
            case.computed(isa, dtype, chunk=chunk), case.computed(isa, dtype), strict=True
        )

    def test_splits(self, case: Case, dtype: str) -> None:
        np.testing.assert_array_equal(
            case.computed(ISAS[-1], dtype, split=True), case.computed(ISAS[-1], dtype), strict=True
        )

    def test_alone(self, case: Case, dtype: str) -> None:
        np.testing.assert_array_equal(
            case.computed(ISAS[-1], dtype, last=1),
            case.computed(ISAS[-1], dtype, chunk=1)[-1:],
            strict=True,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("isa", ISAS)
def test_a_later_token_that_is_not_a_number_does_not_reach_an_earlier_query(
    isa: str, dtype: str
) -> None:
    case = Case(40, 40)
    before = case.computed(isa, dtype, chunk=8)
    case.k[29:] = case.v[29:] = np.nan
    after = case.computed(isa, dtype, chunk=8)
    np.testing.assert_array_equal(after[:29], before[:29])
    assert np.isnan(after[29:]).all()
