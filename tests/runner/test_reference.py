"""The reference runner: Transformers' logits, and the one rule bit for bit."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from stoker.model.loader import LoadedModel, open_model
from stoker.runner.base import (
    CacheConfig,
    Float32Array,
    Int32Array,
    ModelRunner,
    ScoreRows,
)
from stoker.runner.reference import ReferenceRunner
from stoker.runner.sampling import NO_TOKEN, top_logprobs
from tests.runner.steps import batch, greedy, ids

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
CHECKPOINTS = sorted(
    path.name for path in GOLDEN.iterdir() if path.suffix != ".npz" and path.stem in NAMES
)
LONGROPE_ORIGINAL = 16
BLOCK = 4
CACHE = CacheConfig(num_blocks=32, block_size=BLOCK, dtype="float32")


def runner(model: LoadedModel, cache: CacheConfig = CACHE) -> ReferenceRunner:
    return ReferenceRunner(model.spec, model.weights, cache)


def scattered(length: int, first: int = 0) -> Int32Array:
    """A block table in no order, for `length` tokens."""
    count = -(-length // BLOCK)
    return ((np.arange(count) * 7 + first) % CACHE.num_blocks).astype(np.int32)


def chunked(
    model: ReferenceRunner, tokens: Int32Array, cuts: list[int], table: Int32Array
) -> Float32Array:
    """The logits of a prompt that is computed in pieces."""
    edges = [0, *cuts, len(tokens)]
    return np.concatenate(
        [model.logits(batch((tokens[start:stop], start, table))) for start, stop in pairwise(edges)]
    )


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_logits_are_those_of_transformers(checkpoint: str) -> None:
    golden = np.load(GOLDEN / f"{checkpoint.removesuffix('.gguf')}.npz")
    lengths = [int(key.removeprefix("ids_")) for key in golden if key.startswith("ids_")]
    for length in lengths:
        max_model_len = LONGROPE_ORIGINAL if length <= LONGROPE_ORIGINAL else None
        model = runner(open_model(GOLDEN / checkpoint, max_model_len))
        logits = model.logits(batch((golden[f"ids_{length}"], 0, scattered(length))))
        np.testing.assert_allclose(logits, golden[f"logits_{length}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
class TestOneRule:
    """What a token gets does not depend on what is computed with it."""

    @pytest.fixture
    def model(self, name: str) -> ReferenceRunner:
        return runner(open_model(GOLDEN / name))

    @pytest.fixture
    def tokens(self, name: str) -> Int32Array:
        tokens: Int32Array = np.load(GOLDEN / f"{name}.npz")["ids_40"]
        return tokens

    @pytest.fixture
    def whole(self, model: ReferenceRunner, tokens: Int32Array) -> Float32Array:
        return model.logits(batch((tokens, 0, scattered(len(tokens)))))

    @pytest.mark.parametrize("cuts", [[16], [1, 2, 3, 21, 39], list(range(1, 40))])
    def test_chunked_is_as_whole(
        self,
        model: ReferenceRunner,
        tokens: Int32Array,
        whole: Float32Array,
        cuts: list[int],
    ) -> None:
        np.testing.assert_array_equal(chunked(model, tokens, cuts, scattered(40, 3)), whole)

    def test_cached_prefix_is_as_computed(
        self, model: ReferenceRunner, tokens: Int32Array, whole: Float32Array
    ) -> None:
        """Two sequences share the blocks of a prefix that a third has computed."""
        model.logits(batch((tokens[:12], 0, ids(5, 9, 2))))
        first = (tokens[12:], 12, ids(5, 9, 2, *range(10, 17)))
        second = (tokens[12:], 12, ids(5, 9, 2, *range(20, 27)))
        logits = model.logits(batch(first, second))
        np.testing.assert_array_equal(logits[:28], whole[12:])
        np.testing.assert_array_equal(logits[28:], whole[12:])

    def test_among_others_is_as_alone(
        self, model: ReferenceRunner, tokens: Int32Array, whole: Float32Array
    ) -> None:
        """A prefill chunk, a decode and a whole prompt in one step."""
        model.logits(batch((tokens[:39], 0, ids(*range(10)))))
        model.logits(batch((tokens[:5], 0, ids(*range(10, 20)))))
        mixed = batch(
            (tokens[::-1][:7].copy(), 0, ids(30, 31)),
            (tokens[39:], 39, ids(*range(10))),
            (tokens[5:12], 5, ids(*range(10, 20))),
        )
        logits = model.logits(mixed)
        np.testing.assert_array_equal(logits[7:8], whole[39:])
        np.testing.assert_array_equal(logits[8:], whole[5:12])


class TestStep:
    """What a step returns, on one small model."""

    @pytest.fixture
    def loaded(self) -> LoadedModel:
        return open_model(GOLDEN / "llama3")

    @pytest.fixture
    def model(self, loaded: LoadedModel) -> ReferenceRunner:
        return runner(loaded)

    @pytest.fixture
    def tokens(self) -> Int32Array:
        tokens: Int32Array = np.load(GOLDEN / "llama3.npz")["ids_40"]
        return tokens

    @pytest.fixture
    def expected(self) -> Float32Array:
        expected: Float32Array = np.load(GOLDEN / "llama3.npz")["logits_40"]
        return expected

    def test_samples_the_rows_asked_for(
        self, model: ReferenceRunner, tokens: Int32Array, expected: Float32Array
    ) -> None:
        interface: ModelRunner = model
        step = batch((tokens, 0, ids(*range(10))), sample=greedy(39, 3, 39))
        result = interface.run(step)
        assert interface.cache == CACHE
        assert result.token_ids.tolist() == expected[[39, 3, 39]].argmax(axis=1).tolist()
        assert result.token_ids.dtype == np.int32
        assert result.logprobs is None
        assert result.scores is None
        assert result.embeddings is None

    def test_a_step_that_samples_nothing(self, model: ReferenceRunner, tokens: Int32Array) -> None:
        assert len(model.run(batch((tokens, 0, ids(*range(10))))).token_ids) == 0

    def test_logprobs(
        self, model: ReferenceRunner, tokens: Int32Array, expected: Float32Array
    ) -> None:
        step = batch((tokens, 0, ids(*range(10))), sample=greedy(39, num_logprobs=3))
        result = model.run(step).logprobs
        assert result is not None
        truth = top_logprobs(expected[39:], ids(int(expected[39].argmax())), 3)
        assert result.ranks.tolist() == [1]
        assert result.ids.tolist() == truth.ids.tolist()
        np.testing.assert_allclose(result.logprobs, truth.logprobs, atol=1e-4)
        np.testing.assert_allclose(result.chosen, truth.chosen, atol=1e-4)

    def test_scores_of_known_tokens(
        self, model: ReferenceRunner, tokens: Int32Array, expected: Float32Array
    ) -> None:
        score = ScoreRows(ids(0, 20), targets=tokens[[1, 21]], num_logprobs=ids(0, 2))
        result = model.run(batch((tokens, 0, ids(*range(10))), score=score)).scores
        assert result is not None
        truth = top_logprobs(expected[[0, 20]], tokens[[1, 21]], 2)
        assert result.ranks.tolist() == truth.ranks.tolist()
        assert result.ids.tolist() == truth.ids.tolist()
        np.testing.assert_allclose(result.chosen, truth.chosen, atol=1e-4)

    def test_embeddings_are_the_states_before_the_projection(
        self, loaded: LoadedModel, model: ReferenceRunner, tokens: Int32Array
    ) -> None:
        step = batch((tokens, 0, ids(*range(10))), embed_rows=ids(39, 0))
        states = model.run(step).embeddings
        assert states is not None
        assert states.shape == (2, loaded.spec.hidden_size)
        logits = states @ loaded.weights["lm_head.weight"].dequantize().T
        expected = model.logits(step)[[39, 0]]
        np.testing.assert_allclose(logits, expected, atol=1e-4)

    def test_blocks_are_copied_before_anything_is_written(
        self, model: ReferenceRunner, tokens: Int32Array
    ) -> None:
        """Two continuations of six tokens; the second has its own copy of the last block."""
        model.logits(batch((tokens[:6], 0, ids(0, 1))))
        forked = batch(
            (tokens[6:8], 6, ids(0, 1)),
            (tokens[8:10], 6, ids(0, 2)),
            block_copies=np.array([[1, 2]], np.int32),
        )
        logits = model.logits(forked)
        for part, rows in ((tokens[6:8], slice(0, 2)), (tokens[8:10], slice(2, 4))):
            alone = model.logits(batch((np.concatenate((tokens[:6], part)), 0, ids(3, 4))))
            np.testing.assert_array_equal(logits[rows], alone[6:])

    def test_stale_blocks_do_not_matter(
        self, loaded: LoadedModel, model: ReferenceRunner, tokens: Int32Array
    ) -> None:
        fresh = model.logits(batch((tokens[:6], 0, ids(0, 1))))
        model.logits(batch((tokens, 0, ids(*range(10)))))
        np.testing.assert_array_equal(model.logits(batch((tokens[:6], 0, ids(0, 1)))), fresh)

    def test_bfloat16_cache_rounds_keys_and_values(
        self, loaded: LoadedModel, tokens: Int32Array, expected: Float32Array
    ) -> None:
        rounded = runner(loaded, CacheConfig(32, BLOCK, "bfloat16"))
        difference = np.abs(rounded.logits(batch((tokens, 0, ids(*range(10))))) - expected)
        assert 1e-3 < difference.max() < 0.5

    def test_int8_cache_is_refused(self, loaded: LoadedModel) -> None:
        with pytest.raises(ValueError, match="not int8"):
            runner(loaded, CacheConfig(32, BLOCK, "int8"))

    def test_a_row_that_overflows_has_no_token_and_harms_no_other(
        self, loaded: LoadedModel, tokens: Int32Array, expected: Float32Array
    ) -> None:
        model = runner(loaded)
        poisoned = next(t for t in range(128) if t not in tokens)
        model._weights["embed.weight"][poisoned] = np.nan
        step = batch(
            (ids(poisoned), 0, ids(20)),
            (tokens, 0, ids(*range(10))),
            sample=greedy(0, 40, num_logprobs=1),
        )
        result = model.run(step)
        assert result.token_ids[0] == NO_TOKEN
        assert result.logprobs is not None
        assert result.logprobs.chosen[0] == -np.inf
        assert result.token_ids[1] == expected[39].argmax()

    def test_close_frees_the_weights(self, model: ReferenceRunner) -> None:
        model.close()
        assert not model._weights
        assert model._keys.nbytes == 0
