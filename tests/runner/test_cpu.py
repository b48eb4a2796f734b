"""The CPU runner: against Transformers' logits and the reference runner, and the one rule bit for
bit: what a row gets depends on nothing else in its batch."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker import _kernels
from stoker.model.loader import open_model
from stoker.model.spec import ModelSpec
from stoker.model.weights.base import Weights
from stoker.runner.base import Batch, CacheConfig, Float32Array, Int32Array, SampleRows, ScoreRows
from stoker.runner.cpu import CPURunner
from stoker.runner.reference import ReferenceRunner
from tests.runner.steps import (
    batch,
    float_tensor,
    greedy,
    ids,
    logprobs,
    scattered,
    spec,
    tokens,
    weights,
)

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.npz"))
CHECKPOINTS = [f"{name}{end}" for name in NAMES for end in ("", ".gguf")]
CHECKPOINTS = [checkpoint for checkpoint in CHECKPOINTS if (GOLDEN / checkpoint).exists()]
LONGROPE_ORIGINAL = 16
ISAS = _kernels.available_isas()
BLOCKS = 96


def runner(
    of: ModelSpec,
    tensors: Weights | None = None,
    *,
    dtype: Any = "float32",
    num_blocks: int = BLOCKS,
    **options: Any,
) -> CPURunner:
    limits = {"max_num_batched_tokens": 1024, "max_num_seqs": 40, "threads": 2} | options
    cache = CacheConfig(num_blocks, dtype=dtype)
    return CPURunner(of, weights(of) if tensors is None else tensors, cache, **limits)


def check_close(computed: Float32Array, expected: Float32Array, limit: float = 0.02) -> None:
    """Rows differ by a few roundings: a share of how much their own elements vary, `limit` on the
    whole and four times that in any row."""
    difference = np.square(computed - expected).mean(axis=1)
    shares = np.sqrt(difference / expected.var(axis=1))
    assert np.sqrt(np.square(shares).mean()) < limit
    assert shares.max() < 4 * limit


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_logits_are_those_of_transformers(checkpoint: str) -> None:
    golden = np.load(GOLDEN / f"{checkpoint.removesuffix('.gguf')}.npz")
    lengths = [int(key.removeprefix("ids_")) for key in golden if key.startswith("ids_")]
    for length in lengths:
        max_model_len = LONGROPE_ORIGINAL if length <= LONGROPE_ORIGINAL else None
        model = open_model(GOLDEN / checkpoint, max_model_len)
        prompt = golden[f"ids_{length}"].astype(np.int32)
        computed = logprobs(
            runner(model.spec, model.weights), (prompt, 0, scattered(length, BLOCKS))
        )
        logits = golden[f"logits_{length}"].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        check_close(computed, expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "one layer": {"layers": 1},
    "tied": {"tied_embeddings": True},
    "qkv bias": {"qkv_bias": True},
    "all biases": {"qkv_bias": True, "output_bias": True, "mlp_bias": True, "gated": False},
    "head norms": {"head_norm": True},
    "post norms": {"post_norms": True, "embedding_scale": 9.75},
    "learned positions": {"learned_positions": True, "ropes": (None,), "max_position": 80},
    "layer norm": {"norm": "layer"},
    "layer and post norms": {"norm": "layer", "post_norms": True},
    "not gated": {"gated": False, "activation": "gelu_tanh"},
    "gelu": {"activation": "gelu"},
    "gelu_tanh": {"activation": "gelu_tanh"},
    "windows": {"layers": 3, "windows": (5, None, 17)},
    "two ropes": {"ropes": (0, 1), "rope_dims": (16, 8)},
    "layers without rope": {"ropes": (0, None)},
    "softcaps": {"attention_softcap": 2.0, "logit_softcap": 5.0},
    "one head": {"num_heads": 1, "num_kv_heads": 1, "hidden_size": 40},
    "odd sizes": {"head_dim": 18, "num_heads": 5, "num_kv_heads": 5, "hidden_size": 50,
                  "intermediate_size": 77, "vocab_size": 97},
    "head_dim 128": {"head_dim": 128, "num_heads": 4, "num_kv_heads": 1},
}  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_option_as_in_the_reference(options: dict[str, Any], dtype: Any) -> None:
    """Weights are the same numbers in both; activations are rounded to bfloat16 here alone."""
    of = spec(**options)
    prompt = tokens(70, of.vocab_size)
    part = (prompt, 0, scattered(70, BLOCKS))
    expected = logprobs(ReferenceRunner(of, weights(of), CacheConfig(BLOCKS, dtype=dtype)), part)
    computed = logprobs(runner(of, dtype=dtype), part)
    check_close(computed, expected)


@pytest.mark.parametrize("weight_format", ["q8", "q4"])
def test_quantized_weights_stay_close(weight_format: Any) -> None:
    of = spec()
    part = (tokens(70), 0, scattered(70, BLOCKS))
    expected = logprobs(ReferenceRunner(of, weights(of), CacheConfig(BLOCKS)), part)
    computed = logprobs(runner(of, weight_format=weight_format), part)
    check_close(computed, expected, {"q8": 0.06, "q4": 0.6}[weight_format])


def test_an_8_bit_cache_stays_close() -> None:
    of, part = spec(), (tokens(300), 0, scattered(300, BLOCKS))
    expected = logprobs(ReferenceRunner(of, weights(of), CacheConfig(BLOCKS)), part)
    check_close(logprobs(runner(of, dtype="int8"), part), expected, 0.06)


RULE_SPECS = {
    "llama": spec(),
    "gemma": spec(
        layers=3, windows=(9, None), head_norm=True, post_norms=True, attention_softcap=3.0
    ),
    "gpt2": spec(
        norm="layer", gated=False, qkv_bias=True, mlp_bias=True, output_bias=True,
        learned_positions=True, ropes=(None,), activation="gelu_tanh", head_dim=18,
        hidden_size=108,
    ),
}  # fmt: skip
FORMATS: list[dict[str, Any]] = [
    {"weight_format": "q4", "dtype": "bfloat16"},
    {"weight_format": "q8", "dtype": "float32"},
    {"weight_format": "bf16", "dtype": "bfloat16"},
    {"weight_format": "q8", "dtype": "int8"},
]


@pytest.mark.parametrize("of", RULE_SPECS.values(), ids=RULE_SPECS.keys())
@pytest.mark.parametrize("options", FORMATS, ids=lambda o: f"{o['weight_format']}-{o['dtype']}")
class TestOneRule:
    LENGTH = 300  # more than a partition of attention

    @pytest.fixture
    def whole(self, of: ModelSpec, options: dict[str, Any]) -> Float32Array:
        part = (tokens(self.LENGTH), 0, scattered(self.LENGTH, BLOCKS))
        return logprobs(runner(of, **options), part)

    @pytest.mark.parametrize(
        "cuts", [[17], [1, 2, 3, 21, 39, 270], [256], list(range(280, 300))], ids=str
    )
    def test_chunked_is_as_whole(
        self, of: ModelSpec, options: dict[str, Any], whole: Float32Array, cuts: list[int]
    ) -> None:
        model, table = runner(of, **options), scattered(self.LENGTH, BLOCKS, seed=5)
        prompt = tokens(self.LENGTH)
        parts = [
            logprobs(model, (prompt[start:stop], start, table))
            for start, stop in pairwise([0, *cuts, self.LENGTH])
        ]
        np.testing.assert_array_equal(np.concatenate(parts), whole)

    def test_among_others_is_as_alone(
        self, of: ModelSpec, options: dict[str, Any], whole: Float32Array
    ) -> None:
        """The last token is decoded in a batch with thirty decodes and a prompt."""
        model, prompt = runner(of, num_blocks=300, **options), tokens(self.LENGTH)
        blocks = np.random.default_rng(3).permutation(300).astype(np.int32)
        table, free = blocks[:19], blocks[19:]
        logprobs(model, (prompt[:-1], 0, table))
        others = [(tokens(2 + i % 15, seed=i), free[i : i + 1]) for i in range(30)]
        for other, block in others:
            logprobs(model, (other[:-1], 0, block))
        mixed = [(other[-1:], len(other) - 1, block) for other, block in others]
        mixed[13:13] = [(prompt[-1:], self.LENGTH - 1, table), (prompt[:40], 0, free[40:43])]
        computed = logprobs(model, *mixed)
        np.testing.assert_array_equal(computed[13], whole[-1])
        np.testing.assert_array_equal(computed[14:54], whole[:40])

    def test_any_number_of_threads(
        self, of: ModelSpec, options: dict[str, Any], whole: Float32Array
    ) -> None:
        for threads in (1, 3, 5):
            part = (tokens(self.LENGTH), 0, scattered(self.LENGTH, BLOCKS))
            np.testing.assert_array_equal(
                logprobs(runner(of, threads=threads, **options), part), whole
            )

    @pytest.mark.parametrize("isa", ISAS)
    def test_any_instruction_set(
        self, of: ModelSpec, options: dict[str, Any], whole: Float32Array, isa: str
    ) -> None:
        if options["weight_format"] == "bf16":
            pytest.skip("an instruction set may have its own product of bfloat16 pairs")
        part = (tokens(self.LENGTH)[:80], 0, scattered(80, BLOCKS))
        np.testing.assert_array_equal(logprobs(runner(of, isa=isa, **options), part), whole[:80])

    def test_a_lone_decode_of_a_long_sequence_is_split(
        self, of: ModelSpec, options: dict[str, Any], whole: Float32Array
    ) -> None:
        """Its partitions go to several threads, and come together as on one."""
        prompt, table = tokens(self.LENGTH), scattered(self.LENGTH, BLOCKS)
        for threads in (1, 2, 4):
            model = runner(of, threads=threads, **options)
            logprobs(model, (prompt[:-1], 0, table))
            decoded = logprobs(model, (prompt[-1:], self.LENGTH - 1, table))
            np.testing.assert_array_equal(decoded, whole[-1:])


class TestCache:
    def test_blocks_are_copied_before_anything_is_written(self) -> None:
        model, prompt = runner(spec()), tokens(40)
        logprobs(model, (prompt[:20], 0, ids(0, 1)))
        forked = batch(
            (prompt[20:22], 20, ids(0, 1)),
            (prompt[30:32], 20, ids(0, 2)),
            block_copies=np.array([[1, 2]], np.int32),
            embed_rows=ids(0, 1, 2, 3),
        )
        states = model.run(forked).embeddings
        assert states is not None
        for part, rows in ((prompt[20:22], slice(0, 2)), (prompt[30:32], slice(2, 4))):
            alone = model.run(
                batch((np.concatenate((prompt[:20], part)), 0, ids(3, 4)), embed_rows=ids(20, 21))
            ).embeddings
            np.testing.assert_array_equal(states[rows], alone)

    def test_copies_are_made_in_order(self) -> None:
        model, prompt = runner(spec()), tokens(17)
        logprobs(model, (prompt[:16], 0, ids(0)))
        expected = logprobs(model, (prompt[16:], 16, ids(0, 5)))
        step = batch(
            (prompt[16:], 16, ids(9, 5)),
            block_copies=np.array([[0, 7], [7, 8], [8, 9]], np.int32),
            sample=greedy(0),
        )
        assert model.run(step).token_ids.tolist() == [int(expected[0].argmax())]

    def test_what_a_block_held_before_does_not_matter(self) -> None:
        """Not even if it was not a number."""
        of = spec()
        tensors = weights(of)
        embedding = tensors["embed.weight"].dequantize().copy()
        embedding[130] = np.nan
        tensors["embed.weight"] = float_tensor(embedding)
        for dtype in ("float32", "bfloat16", "int8"):
            model, prompt = runner(of, tensors, dtype=dtype), tokens(21, 130)
            fresh = logprobs(model, (prompt, 0, ids(3, 4)))
            poison = np.full(32, 130, np.int32)
            assert model.run(batch((poison, 0, ids(3, 4)), sample=greedy(31))).token_ids == [-1]
            np.testing.assert_array_equal(logprobs(model, (prompt, 0, ids(3, 4))), fresh)


class TestStep:
    @pytest.fixture
    def of(self) -> ModelSpec:
        return spec(vocab_size=200)

    @pytest.fixture
    def model(self, of: ModelSpec) -> CPURunner:
        return runner(of)

    @pytest.fixture
    def prompt(self) -> Int32Array:
        return tokens(40, 200)

    @pytest.fixture
    def expected(self, model: CPURunner, prompt: Int32Array) -> Float32Array:
        return logprobs(model, (prompt, 0, ids(0, 1, 2)))

    def test_samples_the_rows_asked_for(
        self, model: CPURunner, prompt: Int32Array, expected: Float32Array
    ) -> None:
        result = model.run(batch((prompt, 0, ids(0, 1, 2)), sample=greedy(39, 3, 39)))
        assert result.token_ids.tolist() == expected[[39, 3, 39]].argmax(axis=1).tolist()
        assert result.token_ids.dtype == np.int32
        assert result.logprobs is None
        assert result.scores is None
        assert result.embeddings is None
        assert result.timings == {}

    def test_a_step_that_samples_nothing(self, model: CPURunner, prompt: Int32Array) -> None:
        assert len(model.run(batch((prompt, 0, ids(0, 1, 2)))).token_ids) == 0

    def test_draws_depend_on_seed_and_step_alone(
        self, model: CPURunner, prompt: Int32Array
    ) -> None:
        n = 30
        samples = SampleRows(
            rows=np.full(n, 39, np.int32),
            temperature=np.full(n, 1.5, np.float32),
            top_k=np.zeros(n, np.int32),
            top_p=np.ones(n, np.float32),
            min_p=np.zeros(n, np.float32),
            seeds=np.arange(n, dtype=np.uint64) // 2,
            steps=np.zeros(n, np.int32),
            num_logprobs=np.full(n, -1, np.int32),
        )
        drawn = model.run(batch((prompt, 0, ids(0, 1, 2)), sample=samples)).token_ids
        assert drawn[::2].tolist() == drawn[1::2].tolist()
        assert len(set(drawn.tolist())) > 5

    def test_logprobs_of_samples_that_ask(
        self, model: CPURunner, prompt: Int32Array, expected: Float32Array
    ) -> None:
        sample = greedy(39, 7)
        sample.num_logprobs = ids(-1, 3)
        result = model.run(batch((prompt, 0, ids(0, 1, 2)), sample=sample)).logprobs
        assert result is not None
        assert result.ids.shape == (2, 3)
        assert result.ranks.tolist() == [0, 1]
        order = np.argsort(-expected[7], kind="stable")[:3]
        assert result.ids[1].tolist() == order.tolist()
        np.testing.assert_array_equal(result.logprobs[1], expected[7][order])
        assert result.chosen[1] == expected[7].max()

    def test_scores_of_known_tokens(
        self, model: CPURunner, prompt: Int32Array, expected: Float32Array
    ) -> None:
        score = ScoreRows(ids(20, 0), targets=prompt[[21, 1]], num_logprobs=ids(0, 2))
        result = model.run(batch((prompt, 0, ids(0, 1, 2)), score=score)).scores
        assert result is not None
        rows, targets = [20, 0], prompt[[21, 1]]
        assert result.chosen.tolist() == expected[rows, targets].tolist()
        ahead = expected[rows] > expected[rows, targets][:, None]
        assert result.ranks.tolist() == (1 + ahead.sum(axis=1)).tolist()

    def test_more_rows_of_logits_than_are_computed_at_once(self, prompt: Int32Array) -> None:
        """Scores of a prompt come in groups; each is as if it were alone."""
        model, long = runner(spec(vocab_size=200)), tokens(500, 200)
        table = scattered(500, BLOCKS)
        together = logprobs(model, (long, 0, table))
        for row in (0, 63, 64, 127, 128, 499):
            alone = logprobs(model, (long[row : row + 1], row, table))
            np.testing.assert_array_equal(alone[0], together[row])

    def test_embeddings_are_the_states_before_the_projection(
        self, of: ModelSpec, model: CPURunner, prompt: Int32Array
    ) -> None:
        states = model.run(batch((prompt, 0, ids(0, 1, 2)), embed_rows=ids(39, 0))).embeddings
        reference = ReferenceRunner(of, weights(of), CacheConfig(BLOCKS, dtype="float32"))
        expected = reference.run(batch((prompt, 0, ids(0, 1, 2)), embed_rows=ids(39, 0))).embeddings
        assert states is not None
        assert expected is not None
        check_close(states, expected)

    def test_a_row_that_overflows_has_no_token_and_harms_no_other(
        self, of: ModelSpec, prompt: Int32Array, expected: Float32Array
    ) -> None:
        tensors = weights(of)
        embedding = tensors["embed.weight"].dequantize().copy()
        poisoned = next(t for t in range(200) if t not in prompt)
        embedding[poisoned] = np.nan
        tensors["embed.weight"] = float_tensor(embedding)
        # The projection is another matrix, so only the sequence that reads the token is harmed.
        model = runner(of, tensors)
        step = batch(
            (ids(int(prompt[0]), poisoned), 0, ids(5)),
            (prompt, 0, ids(0, 1, 2)),
            sample=greedy(0, 1, 41),
        )
        result = model.run(step).token_ids
        assert result[0] >= 0
        assert result[1] == -1
        assert result[2] == expected[39].argmax()

    def test_following_steps_are_those_of_the_batches_built_anew(self, of: ModelSpec) -> None:
        """Two sequences, sampled and greedy, over the end of a block, where the tables change."""
        built, followed = runner(of), runner(of)
        tables = np.array([[4, 9], [7, 2]], np.int32)
        context = [13, 5]
        prompts = [tokens(n, 200) for n in context]
        for one in (built, followed):
            one.run(batch(*((p, 0, t) for p, t in zip(prompts, tables, strict=True))))
        sample = greedy(0, 1, num_logprobs=2)
        sample.temperature[0] = 1.5
        sample.seeds[0] = 11
        step = batch((ids(3), 13, tables[0, :1]), (ids(5), 5, tables[1, :1]), sample=sample)
        expected = built.run(step)
        found = followed.run(step)
        for i in range(6):
            np.testing.assert_array_equal(found.token_ids, expected.token_ids)
            assert found.logprobs is not None
            assert expected.logprobs is not None
            np.testing.assert_array_equal(found.logprobs.chosen, expected.logprobs.chosen)
            np.testing.assert_array_equal(found.logprobs.ids, expected.logprobs.ids)
            new = tables if i == 2 else None
            step = step.next(expected.token_ids, new)
            expected = built.run(step)
            found = followed.run_next(new)
        assert step.context_lens.tolist() == [19, 11]
        assert step.sample.steps.tolist() == [6, 6]

    def test_what_no_step_can_follow(self, model: CPURunner, prompt: Int32Array) -> None:
        with pytest.raises(ValueError, match="no step was computed"):
            model.run_next(None)
        model.run(batch((prompt, 0, ids(0, 1, 2)), sample=greedy(39)))
        with pytest.raises(ValueError, match="one token and one sample of each sequence"):
            model.run_next(None)
        model.run(batch((ids(3), 15, ids(0)), sample=greedy(0)))
        with pytest.raises(ValueError, match="at most what its block table holds, 16"):
            model.run_next(None)
        with pytest.raises(ValueError, match="only after it was run"):
            model.run_next(None)
        model.run(batch((ids(3), 1, ids(0)), sample=greedy(0)))
        with pytest.raises(ValueError, match="block_tables has 2 rows; expected 1"):
            model.run_next(np.zeros((2, 1), np.int32))
        with pytest.raises(ValueError, match="must be a contiguous array of int32 with 2 dim"):
            model.run_next(ids(0))

    def test_timings_when_measured(self, of: ModelSpec, prompt: Int32Array) -> None:
        model = runner(of)
        model.measure = True
        timings = model.run(batch((prompt, 0, ids(0, 1, 2)), sample=greedy(39))).timings
        assert list(timings) == [
            *("embed", "norm", "qkv", "rotary", "attention", "output", "gate_up", "down"),
            *("logits", "sampling", "waiting"),
        ]
        assert all(seconds > 0 for seconds in timings.values())


class TestRefusals:
    @pytest.fixture(scope="module", name="model")
    @staticmethod
    def small_model() -> CPURunner:
        return runner(spec(), max_num_batched_tokens=64, max_num_seqs=2)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"token_ids": ids(1, 131)}, r"token_ids\[1\] is 131; expected 0 to 130"),
            ({"token_ids": ids(1, -1)}, r"token_ids\[1\] is -1"),
            ({"token_ids": ids(1)}, "last of query_starts is 2; expected .* tokens, 1"),
            ({"token_ids": ids()}, "number of tokens is 0; expected 1 to"),
            ({"token_ids": tokens(65)}, "number of tokens is 65; expected 1 to .*, 64"),
            ({"token_ids": np.array([1, 2])}, "token_ids must be a contiguous array of int32"),
            ({"query_starts": ids(1, 2)}, r"query_starts\[0\] is 1; expected 0"),
            ({"query_starts": ids(0, 1, 2)}, "query_starts has 3 entries; expected 2"),
            ({"context_lens": ids(-1)}, "context length of sequence 0 is -1"),
            ({"context_lens": ids(31)}, "length of sequence 0 is 33; expected at most .* 32"),
            ({"context_lens": ids(2**31 - 1)}, "length of sequence 0 is 2147483649"),
            ({"block_tables": np.array([[0, 96]], np.int32), "context_lens": ids(15)},
             "block 1 of sequence 0 is 96; expected 0 to 95"),
            ({"block_tables": np.array([[-1, 0]], np.int32)}, "block 0 of sequence 0 is -1"),
            ({"block_tables": np.zeros((2, 2), np.int32)}, "block_tables has 2 rows; expected 1"),
            ({"block_tables": np.zeros(2, np.int32)}, "block_tables must be .* 2 dimensions"),
            ({"sample": greedy(2)}, r"sample.rows\[0\] is 2; expected 0 to 1"),
            ({"embed_rows": ids(0, -1)}, r"embed_rows\[1\] is -1; expected 0 to 1"),
            ({"block_copies": np.array([[0, 96]], np.int32)}, r"block_copies\[0\] is 96"),
            ({"score": ScoreRows(ids(0), ids(131), ids(0))}, r"score.targets\[0\] is 131"),
            ({"score": ScoreRows(ids(0), ids(), ids(0))}, "targets has 0 entries; expected 1"),
        ],
    )  # fmt: skip
    def test_a_malformed_batch(
        self, model: CPURunner, changes: dict[str, Any], message: str
    ) -> None:
        step = batch((ids(1, 2), 0, ids(0, 1)))
        for name, value in changes.items():
            setattr(step, name, value)
        with pytest.raises(ValueError, match=message):
            model.run(step)

    def test_too_many_sequences(self, model: CPURunner) -> None:
        with pytest.raises(ValueError, match=r"sequences is 3; expected 1 to .*, 2"):
            model.run(batch(*((ids(1), 0, ids(i)) for i in range(3))))

    def test_positions_past_the_learned_ones(self) -> None:
        model = runner(spec(learned_positions=True, max_position=20))
        with pytest.raises(ValueError, match=r"sequence 0 is 21; expected at most .* 20"):
            model.run(batch((tokens(21), 0, ids(0, 1))))

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_any_batch_is_computed_or_refused(self, model: CPURunner, data: st.DataObject) -> None:
        def array(*shape: int) -> Int32Array:
            values = st.integers(-2, 5) | st.sampled_from([130, 131, 95, 96, 2**31 - 1, -(2**31)])
            count = int(np.prod(shape))
            drawn = data.draw(st.lists(values, min_size=count, max_size=count))
            return np.array(drawn, np.int32).reshape(shape)

        sizes = st.integers(0, 4)
        sequences, samples = data.draw(st.integers(1, 2)), data.draw(sizes)
        total = data.draw(st.integers(1, 6))
        sample = greedy(*array(samples))
        sample.num_logprobs = array(samples)
        step = Batch(
            token_ids=array(total) if data.draw(st.booleans()) else tokens(total),
            query_starts=np.sort(array(sequences + 1).clip(0, total))
            if data.draw(st.booleans())
            else np.linspace(0, total, sequences + 1).astype(np.int32),
            context_lens=array(sequences),
            block_tables=array(sequences, data.draw(sizes)),
            sample=sample,
            block_copies=array(data.draw(sizes), 2),
            embed_rows=array(data.draw(sizes)),
        )
        refusal, drawn = "", ids()
        try:
            drawn = model.run(step).token_ids
        except ValueError as error:
            refusal = str(error)
        assert refusal.startswith("batch: ") if refusal else len(drawn) == samples
        assert ((drawn >= -1) & (drawn < 131)).all()


class TestLoading:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"head_dim": 15}, "head_dim 15 is odd"),
            ({"num_heads": 7}, "7 heads are not shared evenly by 2 key-value heads"),
            ({"num_heads": 258}, "129 query heads share a key-value head"),
            ({"vocab_size": 0}, "vocab_size is 0"),
        ],
    )
    def test_a_model_that_cannot_run(self, changes: dict[str, Any], message: str) -> None:
        of = spec()
        with pytest.raises(ValueError, match=message):
            runner(dataclasses.replace(of, **changes), weights(of))

    def test_blocks_of_another_size(self) -> None:
        of = spec()
        with pytest.raises(ValueError, match="blocks of 16 tokens, not 32"):
            CPURunner(of, weights(of), CacheConfig(4, 32), max_num_batched_tokens=8, max_num_seqs=1)

    def test_a_closed_runner_says_so(self) -> None:
        model = runner(spec())
        model.close()
        with pytest.raises(RuntimeError, match="closed"):
            model.run(batch((ids(1), 0, ids(0))))
