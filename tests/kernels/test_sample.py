"""The sampler: against `runner.sampling`, which says what is to be computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stoker import _kernels
from stoker.runner import sampling
from stoker.runner.base import SampleExtras, SampleRows, TopLogprobs

Float32Array = NDArray[np.float32]
ISAS = _kernels.available_isas()
VOCABULARIES = [1, 5, 256, 1000, 33_000]


def logits_of(vocab: int, count: int = 1, seed: int = 0, scale: float = 3.0) -> Float32Array:
    return np.random.default_rng(seed).normal(0, scale, (count, vocab)).astype(np.float32)


def rows(count: int, extras: list[SampleExtras | None] | None = None, **columns: Any) -> SampleRows:
    """`count` samples that differ in their step alone."""

    def column(name: str, default: float, dtype: type[np.generic]) -> NDArray[Any]:
        return np.full(count, columns.get(name, default), dtype)

    return SampleRows(
        rows=np.arange(count, dtype=np.int32),
        temperature=column("temperature", 0, np.float32),
        top_k=column("top_k", 0, np.int32),
        top_p=column("top_p", 1, np.float32),
        min_p=column("min_p", 0, np.float32),
        seeds=column("seed", 1234, np.uint64),
        steps=np.arange(count, dtype=np.int32),
        num_logprobs=column("num_logprobs", -1, np.int32),
        extras=extras or (),
    )


def repeated(row: Float32Array, count: int) -> Float32Array:
    return np.ascontiguousarray(np.broadcast_to(row, (count, row.shape[-1])))


FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 40},
    {"top_k": 5000},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.01},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 20.0])
def test_draws_as_the_reference_does(
    vocab: int, temperature: float, filters: dict[str, Any]
) -> None:
    logits = repeated(logits_of(vocab), 40)
    samples = rows(40, temperature=temperature, **filters)
    assert (
        _kernels.sample(logits, samples, ISAS[-1]).tolist()
        == sampling.sample(logits, samples).tolist()
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_every_instruction_set_draws_the_same(isa: str, filters: dict[str, Any]) -> None:
    logits = logits_of(3001, 60)
    samples = rows(60, temperature=0.8, **filters)
    np.testing.assert_array_equal(
        _kernels.sample(logits, samples, isa), _kernels.sample(logits, samples, "portable")
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), vocab=st.integers(1, 90))
def test_extras_as_in_the_reference(data: st.DataObject, vocab: int) -> None:
    ids = st.lists(st.integers(0, vocab - 1), max_size=8).map(lambda x: np.array(x, np.int32))
    bias_ids = data.draw(ids)
    extras = SampleExtras(
        prompt_ids=data.draw(ids),
        output_ids=data.draw(ids),
        repetition_penalty=data.draw(st.sampled_from([1.0, 0.5, 1.3])),
        presence_penalty=data.draw(st.sampled_from([0.0, -1.5, 1.0])),
        frequency_penalty=data.draw(st.sampled_from([0.0, -0.5, 0.75])),
        bias_ids=bias_ids,
        bias_values=np.linspace(-4, 6, len(bias_ids), dtype=np.float32),
        banned_ids=data.draw(ids),
        allowed_mask=data.draw(
            st.none()
            | st.lists(
                st.integers(0, 2**32 - 1), min_size=-(-vocab // 32), max_size=-(-vocab // 32)
            ).map(lambda x: np.array(x, np.uint32))
        ),
    )
    # Two decimals, so that the reference's float64 and our float32 order them alike.
    logits = np.round(logits_of(vocab, seed=data.draw(st.integers(0, 9))), 2)
    temperature = data.draw(st.sampled_from([0.0, 1.0]))
    samples = rows(1, [extras], temperature=temperature, top_k=data.draw(st.integers(0, 5)))
    assert (
        _kernels.sample(logits, samples, ISAS[-1]).tolist()
        == sampling.sample(logits, samples).tolist()
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_greedy_takes_the_lowest_of_equals(isa: str, vocab: int) -> None:
    logits = np.zeros((3, vocab), np.float32)
    logits[1, vocab // 2 :] = 1
    logits[2, -1] = 1
    tokens = _kernels.sample(logits, rows(3), isa)
    assert tokens.tolist() == [0, vocab // 2, vocab - 1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_a_row_that_is_not_finite_has_no_token(isa: str, bad: float, place: int) -> None:
    logits = logits_of(1001, 3)
    logits[1, place] = bad
    for temperature in (0.0, 1.0):
        samples = rows(3, temperature=temperature)
        tokens = _kernels.sample(logits, samples, isa)
        assert tokens[1] == sampling.NO_TOKEN
        assert tokens.tolist() == sampling.sample(logits, samples).tolist()


def test_nothing_allowed_has_no_token() -> None:
    extras = SampleExtras(allowed_mask=np.zeros(2, np.uint32))
    assert _kernels.sample(logits_of(40), rows(1, [extras]), ISAS[-1]).tolist() == [-1]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("vocab", VOCABULARIES)
@pytest.mark.parametrize("count", [0, 1, 20, 2000])
def test_logprobs_as_in_the_reference(isa: str, vocab: int, count: int) -> None:
    logits = np.round(logits_of(vocab, 4), 1)  # with equals
    chosen = np.array([0, vocab - 1, vocab // 2, -1], np.int32)
    logits[2, 0] = np.nan
    computed = TopLogprobs(*_kernels.top_logprobs(logits, chosen, count, isa))
    expected = sampling.top_logprobs(logits, chosen, count)
    np.testing.assert_array_equal(computed.ranks, expected.ranks, strict=True)
    np.testing.assert_array_equal(computed.ids, expected.ids, strict=True)
    np.testing.assert_allclose(computed.chosen, expected.chosen, atol=3e-6)
    np.testing.assert_allclose(computed.logprobs, expected.logprobs, atol=3e-6)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    extras = SampleExtras(banned_ids=np.array([40], np.int32))
    with pytest.raises(ValueError, match=r"banned_ids\[0\] is 40; expected 0 to 39"):
        _kernels.sample(logits_of(40), rows(1, [extras]), ISAS[-1])


def test_a_mask_of_the_wrong_length_is_refused() -> None:
    extras = SampleExtras(allowed_mask=np.zeros(1, np.uint32))
    with pytest.raises(ValueError, match="number of words of allowed_mask is 1; expected 2"):
        _kernels.sample(logits_of(40), rows(1, [extras]), ISAS[-1])
