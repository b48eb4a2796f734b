"""What the runner is handed for a step, array by array."""

from __future__ import annotations

import numpy as np
import pytest

from stoker.engine.admission import token_mask
from stoker.engine.batch_builder import build_batch
from stoker.engine.engine import Engine
from stoker.engine.sampling_params import SamplingParams
from stoker.runner.base import Batch
from tests.engine.doubles import EOS, VOCAB_SIZE, ContextRunner, finish_all, make_engine


def batches(engine: Engine) -> list[Batch]:
    runner = engine.runner
    assert isinstance(runner, ContextRunner)
    return runner.batches


def test_a_mixed_batch_of_a_decode_and_two_chunks() -> None:
    engine = make_engine(64, 4, max_num_batched_tokens=16, enable_prefix_caching=False)
    sampled = SamplingParams(
        temperature=0.5, top_k=-1, top_p=0.9, min_p=0.1, seed=3, max_tokens=9, logprobs=2
    )
    engine.submit("a", [1, 2, 3], sampled)
    engine.step()
    (token,) = engine.scheduler.running[0].generated.tolist()
    engine.submit("b", list(range(10, 20)), SamplingParams(temperature=0, top_k=7, max_tokens=9))
    engine.submit("c", list(range(50, 70)), SamplingParams(max_tokens=9))
    engine.step()
    batch = batches(engine)[-1]
    assert batch.token_ids.tolist() == [token, *range(10, 20), *range(50, 55)]
    assert batch.query_starts.tolist() == [0, 1, 11, 16]
    assert batch.context_lens.tolist() == [3, 0, 0]
    tables = [sequence.block_table for sequence in engine.scheduler.running]
    for row, table in zip(batch.block_tables.tolist(), tables, strict=True):
        assert row[: len(table)] == table
    sample = batch.sample
    assert sample.rows.tolist() == [0, 10]  # "c" has more to compute and is not sampled
    assert sample.steps.tolist() == [1, 0]
    assert sample.temperature.tolist() == [0.5, 0.0]
    assert sample.top_k.tolist() == [0, 7]
    assert sample.top_p.tolist() == pytest.approx([0.9, 1.0])
    assert sample.min_p.tolist() == pytest.approx([0.1, 0.0])
    assert sample.num_logprobs.tolist() == [2, -1]
    assert not sample.extras
    assert batch.score is None
    assert batch.block_copies is None
    for array, dtype in (
        (batch.token_ids, np.int32),
        (batch.query_starts, np.int32),
        (batch.context_lens, np.int32),
        (batch.block_tables, np.int32),
        (sample.rows, np.int32),
        (sample.steps, np.int32),
        (sample.seeds, np.uint64),
        (sample.temperature, np.float32),
    ):
        assert array.dtype == dtype
        assert array.flags.c_contiguous


def test_n_answers_draw_from_one_row_with_their_own_seeds() -> None:
    engine = make_engine()
    engine.submit("a", [1, 2, 3], SamplingParams(n=3, seed=5, max_tokens=4))
    engine.step()
    engine.step()
    first, second = (batch.sample for batch in batches(engine)[:2])
    assert first.rows.tolist() == [2, 2, 2]
    assert first.steps.tolist() == [0, 0, 0]
    assert len(set(first.seeds.tolist())) == 3
    assert second.rows.tolist() == [0, 1, 2]
    assert second.seeds.tolist() == first.seeds.tolist()
    # The seeds are a function of (seed, index): alone, the first answer is the same.
    engine.submit("b", [1, 2, 3], SamplingParams(seed=5, max_tokens=4))
    engine.step()
    assert batches(engine)[-1].sample.seeds[-1] == first.seeds[0]


def test_requests_without_a_seed_get_different_ones() -> None:
    engine = make_engine()
    for name in "ab":
        engine.submit(name, [1, 2, 3], SamplingParams(max_tokens=2))
    engine.step()
    assert len(set(batches(engine)[-1].sample.seeds.tolist())) == 2


def test_penalties_bring_the_tokens_they_look_at() -> None:
    engine = make_engine()
    engine.submit(
        "a", [5, 6], SamplingParams(temperature=0, max_tokens=3, frequency_penalty=0.5, seed=1)
    )
    engine.submit("b", [7], SamplingParams(temperature=0, max_tokens=3))
    engine.step()
    engine.step()
    last = batches(engine)[-1]
    first, second = last.sample.extras
    assert second is None
    assert first is not None
    assert first.frequency_penalty == 0.5
    assert first.prompt_ids is not None
    assert first.prompt_ids.tolist() == [5, 6]
    assert first.output_ids is not None
    assert first.output_ids.tolist() == last.token_ids[:1].tolist()


def test_stops_are_banned_until_min_tokens() -> None:
    engine = make_engine()
    params = SamplingParams(temperature=0, max_tokens=4, min_tokens=2, stop_token_ids=[9, 3])
    engine.submit("a", [1, 2], params)
    finish_all(engine)
    banned = []
    for batch in batches(engine):
        (extras,) = batch.sample.extras
        assert extras is not None
        banned.append(None if extras.banned_ids is None else extras.banned_ids.tolist())
    assert banned[:3] == [[3, 9, EOS], [3, 9, EOS], None]


def test_a_bad_word_is_banned_where_it_would_be_completed() -> None:
    runner = ContextRunner(script={(1,): list(b"xbaba")})
    engine = make_engine(runner=runner)
    engine.submit("a", [1], SamplingParams(temperature=0, max_tokens=6, bad_words=["bad", "q"]))
    finish_all(engine)
    banned = []
    for batch in runner.batches:
        (extras,) = batch.sample.extras
        assert extras is not None
        assert extras.banned_ids is not None
        banned.append(bytes(extras.banned_ids.tolist()))
    # Before each token: nothing, "x", "xb", "xba", "xbab", "xbaba".
    assert banned == [b"q", b"q", b"q", b"dq", b"q", b"dq"]


def test_bias_and_allowed_tokens() -> None:
    engine = make_engine()
    params = SamplingParams(
        temperature=0, max_tokens=1, logit_bias={4: 2.5, 1: -3}, allowed_token_ids=[0, 33, 256]
    )
    engine.submit("a", [1, 2], params)
    (output,) = engine.step()
    (extras,) = batches(engine)[0].sample.extras
    assert extras is not None
    assert extras.bias_ids is not None
    assert extras.bias_ids.tolist() == [4, 1]
    assert extras.bias_values is not None
    assert extras.bias_values.tolist() == [2.5, -3.0]
    assert extras.allowed_mask is not None
    assert extras.allowed_mask.dtype == np.uint32
    assert extras.allowed_mask.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1]
    assert output.outputs[0].token_ids[0] in (0, 33, 256)


def test_token_mask_has_one_bit_per_token() -> None:
    assert token_mask([0, 31, 32], 33).tolist() == [0x80000001, 1]
    assert len(token_mask([1], VOCAB_SIZE)) == 9


def test_prompt_rows_are_scored_against_the_token_that_follows() -> None:
    engine = make_engine(64, 4, max_num_batched_tokens=4, max_num_seqs=2)
    engine.submit("a", [9, 8, 7, 6, 5, 4], SamplingParams(max_tokens=1, prompt_logprobs=3))
    engine.step()
    engine.step()
    first, second = (batch.score for batch in batches(engine))
    assert first is not None
    assert second is not None
    assert first.rows.tolist() == [0, 1, 2, 3]
    assert first.targets.tolist() == [8, 7, 6, 5]
    assert first.num_logprobs.tolist() == [3] * 4
    assert second.rows.tolist() == [0]
    assert second.targets.tolist() == [4]


def test_a_schedule_becomes_one_batch_entry_per_sequence() -> None:
    engine = make_engine()
    for i in range(5):
        engine.submit(str(i), [i] * (i + 1), SamplingParams(max_tokens=2))
    schedule = engine.scheduler.schedule(0.0)
    built = build_batch(schedule, engine.slots)
    assert built.batch.num_sequences == 5
    assert built.batch.num_tokens == schedule.num_tokens == 15
    assert built.samplers == schedule.sequences
