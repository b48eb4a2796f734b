"""The meaning of sampling, on rows small enough to work out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.runner.base import SampleExtras, SampleRows
from stoker.runner.sampling import (
    NO_TOKEN,
    philox,
    sample,
    sample_row,
    top_logprobs,
    uniform,
)


def row(*logits: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(logits, np.float32)


def ids(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def greedy(logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]], extras: SampleExtras) -> int:
    return sample_row(logits, extras, temperature=0, top_k=0, top_p=1.0, min_p=0.0, draw=0.0)


def possible(
    *probabilities: float,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[int]:
    """The tokens that some draw picks, in the order of the draw."""
    logits = np.log(row(*probabilities))
    seen = [
        sample_row(
            logits,
            None,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            draw=draw,
        )
        for draw in np.linspace(0, 1, 2000, endpoint=False)
    ]
    return list(dict.fromkeys(seen))


class TestRandomNumbers:
    @pytest.mark.parametrize(
        ("key", "counter", "words"),
        [  # the known answers of Random123, the authors' implementation
            (0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
            (2**64 - 1, 2**128 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
            (
                0x299F31D0_A4093822,
                0x03707344_13198A2E_85A308D3_243F6A88,
                (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            ),
        ],
    )
    def test_philox(self, key: int, counter: int, words: tuple[int, ...]) -> None:
        assert philox(key, counter) == words

    def test_uniform_takes_the_upper_53_bits(self) -> None:
        assert uniform(0, 0) == (0xE169C58D_6627E8D5 >> 11) / 2**53

    def test_uniform_is_uniform(self) -> None:
        draws = np.array([uniform(seed, step) for seed in range(20) for step in range(100)])
        assert 0 <= draws.min() < draws.max() < 1
        counts, _ = np.histogram(draws, 10, (0, 1))
        assert (np.abs(counts - 200) < 60).all()


class TestGreedy:
    def test_ties_go_to_the_lowest_id(self) -> None:
        assert greedy(row(1, 3, 3, 2), SampleExtras()) == 1

    def test_repetition_penalty_on_prompt_and_output(self) -> None:
        extras = SampleExtras(prompt_ids=ids(0), output_ids=ids(1), repetition_penalty=2.0)
        assert greedy(row(4, 3, 1.9), extras) == 0  # 2, 1.5, 1.9
        assert greedy(row(3, 3, 1.9), extras) == 2  # 1.5, 1.5, 1.9

    def test_repetition_penalty_lowers_negative_logits(self) -> None:
        extras = SampleExtras(prompt_ids=ids(0), repetition_penalty=2.0)
        assert greedy(row(-1, -1.5), extras) == 1  # -2, -1.5

    def test_frequency_penalty_counts_the_output_alone(self) -> None:
        extras = SampleExtras(prompt_ids=ids(1, 1, 1), output_ids=ids(0, 0), frequency_penalty=0.5)
        assert greedy(row(2, 1.5), extras) == 1  # 1, 1.5
        assert greedy(row(3, 1.5), extras) == 0  # 2, 1.5

    def test_presence_penalty_counts_once(self) -> None:
        extras = SampleExtras(output_ids=ids(0, 0), presence_penalty=0.5)
        assert greedy(row(2, 1.4), extras) == 0  # 1.5, 1.4
        assert greedy(row(2, 1.6), extras) == 1

    def test_bias_comes_after_penalties(self) -> None:
        extras = SampleExtras(
            prompt_ids=ids(0),
            repetition_penalty=2.0,
            bias_ids=ids(0),
            bias_values=row(2),
        )
        assert greedy(row(2, 2.5), extras) == 0  # 2 / 2 + 2, not (2 + 2) / 2

    def test_banned_whatever_the_bias(self) -> None:
        extras = SampleExtras(bias_ids=ids(0), bias_values=row(100), banned_ids=ids(0, 2))
        assert greedy(row(1, 1, 5), extras) == 1

    def test_allowed_mask_has_a_bit_per_token(self) -> None:
        mask = np.array([0, 0b1010], np.uint32)
        assert greedy(np.arange(40, dtype=np.float32), SampleExtras(allowed_mask=mask)) == 35

    def test_nothing_possible(self) -> None:
        assert greedy(row(1, 2), SampleExtras(banned_ids=ids(0, 1))) == NO_TOKEN

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_logit_that_is_not_finite(self, bad: float) -> None:
        assert greedy(row(1, bad, 2), SampleExtras()) == NO_TOKEN


class TestFilters:
    def test_none(self) -> None:
        assert possible(0.1, 0.4, 0.3, 0.2) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("top_k", "kept"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (9, [0, 1, 2, 3])]
    )
    def test_top_k(self, top_k: int, kept: list[int]) -> None:
        assert possible(0.1, 0.4, 0.3, 0.2, top_k=top_k) == kept

    def test_top_k_keeps_ties_together(self) -> None:
        assert possible(0.2, 0.4, 0.2, 0.2, top_k=2) == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("top_p", "kept"),
        [(0.01, [1]), (0.39, [1]), (0.41, [1, 2]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3])],
    )
    def test_top_p(self, top_p: float, kept: list[int]) -> None:
        assert possible(0.1, 0.4, 0.3, 0.2, top_p=top_p) == kept

    def test_top_p_keeps_ties_together(self) -> None:
        assert possible(0.25, 0.5, 0.25, top_p=0.6) == [0, 1, 2]

    def test_top_p_is_of_what_top_k_has_left(self) -> None:
        """Of 0.4 and 0.3, the first is 4 / 7 = 0.571 of the mass."""
        assert possible(0.1, 0.4, 0.3, 0.2, top_k=2, top_p=0.57) == [1]
        assert possible(0.1, 0.4, 0.3, 0.2, top_k=2, top_p=0.58) == [1, 2]

    @pytest.mark.parametrize(
        ("min_p", "kept"), [(0.24, [0, 1, 2, 3]), (0.26, [1, 2, 3]), (0.8, [1]), (1.0, [1])]
    )
    def test_min_p(self, min_p: float, kept: list[int]) -> None:
        assert possible(0.1, 0.4, 0.3, 0.2, min_p=min_p) == kept

    def test_min_p_comes_after_the_temperature(self) -> None:
        """At temperature 2, 0.1 and 0.4 are as 1 to 2."""
        assert possible(0.1, 0.4, temperature=2.0, min_p=0.49) == [0, 1]
        assert possible(0.1, 0.4, temperature=2.0, min_p=0.51) == [1]


class TestDraw:
    def test_walks_the_tokens_by_id(self) -> None:
        logits = np.log(row(0.25, 0.5, 0.25))

        def token(draw: float) -> int:
            return sample_row(
                logits, None, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, draw=draw
            )

        assert [token(draw) for draw in (0, 0.24, 0.26, 0.74, 0.76, 1 - 2**-53)] == [
            0, 0, 1, 1, 2, 2,
        ]  # fmt: skip

    def test_never_picks_an_impossible_token(self) -> None:
        extras = SampleExtras(banned_ids=ids(0, 2))
        for draw in (0.0, 1 - 2**-53):
            token = sample_row(
                row(5, 0, 5), extras, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, draw=draw
            )
            assert token == 1

    @given(
        logits=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40),
        temperature=st.floats(0.01, 10),
        top_k=st.integers(0, 50),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
        draw=st.floats(0, 1, exclude_max=True),
    )
    def test_the_filters_as_they_are_worded(
        self,
        logits: list[float],
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        draw: float,
    ) -> None:
        """Token by token, as the module's docstring says it."""
        weights = np.exp((np.array(logits) - max(logits)) / temperature)
        kept = [t for t in range(len(weights)) if weights[t] >= min_p]
        ahead = {t: [o for o in kept if weights[o] > weights[t]] for t in kept}
        kept = [t for t in kept if not top_k or len(ahead[t]) < top_k]
        total = weights[kept].sum()
        kept = [
            t
            for t in kept
            if top_p == 1 or weights[[o for o in kept if o in ahead[t]]].sum() < top_p * total
        ]
        token = sample_row(
            row(*logits),
            None,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            draw=draw,
        )
        assert token in kept
        running = np.cumsum([weights[t] for t in kept])
        at = kept.index(token)
        assert running[at] >= draw * running[-1] * (1 - 1e-12)
        assert at == 0 or running[at - 1] <= draw * running[-1] * (1 + 1e-12)


def test_each_sample_has_its_own_parameters() -> None:
    logits = np.log(np.array([[0.2, 0.8], [0.8, 0.2], [0.5, 0.5]], np.float32))
    seeds, steps = [7, 8, 2**64 - 1], [0, 3, 1]
    samples = SampleRows(
        rows=ids(0, 1, 2),
        temperature=row(0, 1, 1),
        top_k=ids(0, 1, 0),
        top_p=row(1, 1, 1),
        min_p=row(0, 0, 0),
        seeds=np.array(seeds, np.uint64),
        steps=ids(*steps),
        num_logprobs=ids(-1, -1, -1),
        extras=[SampleExtras(banned_ids=ids(1)), None, None],
    )
    expected = int(uniform(seeds[2], steps[2]) >= 0.5)
    assert sample(logits, samples).tolist() == [0, 0, expected]


class TestLogprobs:
    def test_of_the_chosen_and_of_the_best(self) -> None:
        logits = np.log(np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)) + 5
        result = top_logprobs(logits, ids(3), 2)
        np.testing.assert_allclose(result.chosen, np.log([0.2]), rtol=1e-6)
        assert result.ranks.tolist() == [3]
        assert result.ids.tolist() == [[1, 2]]
        np.testing.assert_allclose(result.logprobs, np.log([[0.4, 0.3]]), rtol=1e-6)

    def test_ties_rank_by_id(self) -> None:
        result = top_logprobs(np.zeros((3, 4), np.float32), ids(0, 2, 3), 3)
        assert result.ranks.tolist() == [1, 3, 4]
        assert result.ids.tolist() == [[0, 1, 2]] * 3

    def test_no_more_than_the_vocabulary(self) -> None:
        assert top_logprobs(np.zeros((1, 4), np.float32), ids(0), 20).ids.shape == (1, 4)

    def test_a_row_without_a_token(self) -> None:
        logits = np.array([[0, math.nan], [0, 1]], np.float32)
        result = top_logprobs(logits, ids(NO_TOKEN, 1), 1)
        assert result.chosen[0] == -math.inf
        assert result.ranks.tolist() == [0, 1]
