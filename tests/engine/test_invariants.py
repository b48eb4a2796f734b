"""The invariants of the block pool, the scheduler and the outputs, each by its own test.

The modules' own tests go further; these state the promises one by one.
"""

from __future__ import annotations

import numpy as np
import pytest

from stoker.engine.batch_builder import build_batch
from stoker.engine.block_pool import BlockPool, OutOfBlocksError, hash_block
from stoker.engine.engine import Engine
from stoker.engine.sampling_params import RequestOutputKind, SamplingParams
from stoker.engine.scheduler import Schedule
from stoker.engine.sequence import SequenceState
from stoker.errors import ContextOverflow, InvalidRequest, MemoryPlanError
from tests.engine.doubles import (
    EOS,
    ContextRunner,
    answer_alone,
    byte_tokenizer,
    check,
    finish_all,
    make_engine,
)

PROMPT = list(range(20, 40))


def greedy(max_tokens: int = 8, **settings: object) -> SamplingParams:
    return SamplingParams(
        temperature=0,
        max_tokens=max_tokens,
        output_kind=RequestOutputKind.DELTA,
        **settings,  # type: ignore[arg-type]
    )


def block_of(*tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(tokens, np.int32)


def test_01_every_block_can_be_used_and_leaves_the_middle_of_the_free_list() -> None:
    pool = BlockPool(5, 4)
    blocks = pool.allocate(5)
    assert sorted(blocks) == [0, 1, 2, 3, 4]
    for i, block in enumerate(blocks):
        pool.register(block, bytes([i]), None, block_of(1, 2, 3, 4))
    pool.release(blocks)
    middle = blocks[2]
    pool.acquire([middle])
    pool.check([[middle]])
    assert pool.num_free == 4
    assert pool.allocate(4) == [blocks[4], blocks[3], blocks[1], blocks[0]]


def test_02_a_block_hash_covers_parent_tokens_and_salt_and_a_partial_block_has_none() -> None:
    first = hash_block(None, block_of(1, 2, 3, 4))
    assert first != hash_block(None, block_of(1, 2, 4, 3))
    assert hash_block(first, block_of(5, 6)) != hash_block(None, block_of(5, 6))
    salted = hash_block(None, block_of(1, 2, 3, 4), b"salt")
    assert salted != first
    # The salt enters the first block only, and reaches the others through their parents.
    assert hash_block(first, block_of(5, 6), b"salt") == hash_block(first, block_of(5, 6))

    engine = make_engine()
    for name, salt, expected in (("a", "x", 0), ("b", "x", 8), ("c", "y", 0), ("d", None, 0)):
        engine.submit(name, PROMPT[:10], greedy(1), cache_salt=salt)
        assert finish_all(engine)[name].num_cached_tokens == expected
    assert engine.pool.num_cached == 2 * 3  # ten tokens fill two blocks of four


def test_03_a_shared_prefix_is_referenced_and_the_last_prompt_token_is_computed() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT[:16], greedy(4))
    for _ in range(2):
        engine.step()
    (first,) = engine.scheduler.running
    engine.submit("b", [*PROMPT[:12], 99], greedy(4))
    engine.submit("c", PROMPT[:16], greedy(4))
    engine.step()
    second, third = engine.scheduler.running[1:]
    assert second.block_table[:3] == first.block_table[:3]
    # All sixteen tokens are cached, yet the last block is computed for the sake of its last row.
    assert second.request.num_cached_tokens == 12
    assert third.request.num_cached_tokens == 12
    assert [engine.pool.ref_count(block) for block in first.block_table[:4]] == [3, 3, 3, 2]
    check(engine)


def test_04_a_hit_block_leaves_the_free_list_and_is_not_evicted_for_its_own_request() -> None:
    engine = make_engine(num_blocks=6)
    engine.submit("a", PROMPT[:16], greedy(1))
    finish_all(engine)
    cached = engine.pool.longest_prefix(_hashes(PROMPT[:16]))
    assert len(cached) == 4
    assert engine.pool.num_free == 6
    # The new request needs all six blocks: its hits must not be among those it evicts.
    engine.submit("b", [*PROMPT[:13], *range(60, 69)], greedy(2))
    engine.step()
    (sequence,) = engine.scheduler.running
    assert sequence.block_table[:3] == cached[:3]
    assert len(set(sequence.block_table)) == 6
    assert engine.pool.num_free == 0
    check(engine)
    finish_all(engine)


def test_05_blocks_return_tail_first_and_those_without_a_hash_are_reused_before_cached_ones() -> (
    None
):
    engine = make_engine(num_blocks=8)
    engine.submit("old", PROMPT[:12], greedy(3))
    engine.step()
    engine.step()
    table = list(engine.scheduler.running[0].block_table)
    engine.step()
    assert not engine.has_unfinished
    order = engine.pool.allocate(8)
    never_used = [block for block in range(8) if block not in table]
    assert order[0] == table[3]  # the partial block was freed last and holds nothing to find
    assert sorted(order[1:5]) == never_used
    assert order[5:] == [table[2], table[1], table[0]]


def test_06_a_reused_block_drops_its_hash_and_a_failed_allocation_changes_nothing() -> None:
    pool = BlockPool(3, 2)
    blocks = pool.allocate(3)
    for i, block in enumerate(blocks):
        pool.register(block, bytes([i]), None, block_of(1, 2))
    pool.release(blocks)
    (reused,) = pool.allocate(1)
    assert reused == blocks[2]
    assert pool.hash_of(reused) is None
    assert pool.lookup(b"\2") is None
    assert pool.lookup(b"\1") == blocks[1]
    before = (pool.num_free, pool.num_cached, [pool.ref_count(block) for block in blocks])
    with pytest.raises(OutOfBlocksError, match="3 blocks wanted, 2 free"):
        pool.allocate(3)
    assert before == (pool.num_free, pool.num_cached, [pool.ref_count(block) for block in blocks])
    pool.check([[reused]])


def test_07_four_answers_to_a_thousand_token_prompt_cost_one_prompt_and_four_tails() -> None:
    engine = make_engine(256, 16, max_num_batched_tokens=1024)
    prompt = [i % 250 for i in range(1000)]
    params = SamplingParams(n=4, seed=7, max_tokens=8, output_kind=RequestOutputKind.FINAL_ONLY)
    engine.submit("a", prompt, params)
    engine.step()
    assert [len(sequence.block_table) for sequence in engine.scheduler.running] == [63] * 4
    assert engine.pool.num_used == 63  # the 63rd block, half full, is shared too
    engine.step()
    check(engine)
    tails = [sequence.block_table[62] for sequence in engine.scheduler.running]
    assert len(set(tails)) == 4
    assert engine.pool.num_used == 62 + 4
    # Three sequences copy the half full block before they write to it; the last one keeps it.
    runner = engine.runner
    assert isinstance(runner, ContextRunner)
    copies = runner.batches[-1].block_copies
    assert copies is not None
    assert copies[:, 0].tolist() == [tails[3]] * 3
    assert copies[:, 1].tolist() == tails[:3]
    finish_all(engine)


def test_08_one_budget_without_phases_running_first() -> None:
    engine = make_engine(
        256, 16, max_num_batched_tokens=1024, long_prefill_token_threshold=400, max_num_seqs=8
    )
    for name in "abc":
        engine.submit(name, [ord(name)] * 800, greedy(3, ignore_eos=True))
    counts = []
    for _ in range(4):
        schedule = engine.scheduler.schedule(0.0)
        counts.append(
            {
                sequence.request.request_id: count
                for sequence, count in zip(schedule.sequences, schedule.counts, strict=True)
            }
        )
        _compute(engine, schedule)
        check(engine)
    assert counts == [
        {"a": 400, "b": 400, "c": 224},
        {"a": 400, "b": 400, "c": 224},
        {"a": 1, "b": 1, "c": 352},
        {"a": 1, "b": 1, "c": 1},
    ]
    finish_all(engine)


def test_09_the_last_arrived_is_preempted_nothing_is_admitted_then_and_its_answer_stays() -> None:
    engine = make_engine(num_blocks=8)
    prompts = {"a": PROMPT[:12], "b": PROMPT[4:14]}
    for name, prompt in prompts.items():
        engine.submit(name, prompt, greedy(16))
    engine.step()
    engine.submit("c", [1, 2], greedy(2))
    preempted: list[str] = []
    while not preempted:
        schedule = engine.scheduler.schedule(0.0)
        preempted = [sequence.request.request_id for sequence in schedule.preempted]
        names = [sequence.request.request_id for sequence in schedule.sequences]
        _compute(engine, schedule)
    assert preempted == ["b"]
    assert names == ["a"]  # neither "c", which has room, nor "b" again
    assert engine.stats().num_preemptions == 1
    assert [s.request.request_id for s in engine.scheduler.running] == ["a"]
    done = finish_all(engine)
    for name, prompt in prompts.items():
        alone = answer_alone(prompt, greedy(16)).outputs[0].token_ids
        assert done[name].outputs[0].token_ids == alone[-len(done[name].outputs[0].token_ids) :]


def test_10_a_token_sampled_while_its_sequence_is_preempted_is_kept() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT, greedy(6))
    engine.step()
    (sequence,) = engine.scheduler.running
    schedule = engine.scheduler.schedule(0.0)
    built = build_batch(schedule, engine.slots)
    result = engine.runner.run(built.batch)
    engine.scheduler.preempt(sequence)
    engine.take_in(schedule, built, result)
    assert sequence.state is SequenceState.WAITING
    assert sequence.num_computed == 0
    assert sequence.generated.tolist() == answer_alone(PROMPT, greedy(2)).outputs[0].token_ids
    check(engine)
    finish_all(engine)
    assert sequence.answer.token_ids == answer_alone(PROMPT, greedy(6)).outputs[0].token_ids


def test_11_when_all_is_done_nothing_is_left() -> None:
    engine = make_engine(num_blocks=24)
    for i in range(10):
        engine.submit(f"{i}", PROMPT[: i + 1], greedy(i + 1, n=1 + i % 3))
    finish_all(engine)
    assert not engine.has_unfinished
    assert engine.scheduler.running == []
    assert len(engine.scheduler.waiting) == 0
    assert engine.scheduler.waiting.num_tokens == 0
    assert engine.slots.num_free == engine.slots.num_slots
    assert engine.pool.num_free == 24
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
    # A block that is lost is noticed as soon as the engine goes idle.
    engine.pool.allocate(1)
    engine.submit("last", PROMPT, greedy(1))
    with pytest.raises(RuntimeError, match="1 blocks are in use"):
        finish_all(engine)
    engine.submit("aborted", PROMPT, greedy(1))
    with pytest.raises(RuntimeError, match="1 blocks are in use"):
        engine.abort("aborted")


def test_12_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    with pytest.raises(MemoryPlanError, match=r"33, but the model reaches 4096 .* holds 32"):
        make_engine(num_blocks=8, max_model_len=33)
    engine = make_engine(num_blocks=8)  # so its context is the 32 tokens that the cache holds
    engine.submit("fits", list(range(25)), greedy(7))
    with pytest.raises(ContextOverflow, match=r"8, .* 25 tokens the context of 32 .* 7") as at:
        engine.submit("answer too long", list(range(25)), greedy(8))
    assert at.value.param == "max_tokens"
    with pytest.raises(ContextOverflow, match=r"32 tokens, .* context of 32") as at:
        engine.submit("prompt too long", list(range(32)), greedy(1))
    assert at.value.param == "prompt"
    with pytest.raises(InvalidRequest, match=r"n is 17, but .* 16 sequences") as refused:
        engine.submit("too many", [1], greedy(1, n=17))
    assert refused.value.param == "n"
    assert list(finish_all(engine)) == ["fits"]


def test_13_a_cancelled_request_gives_its_blocks_back_at_once() -> None:
    engine = make_engine()
    engine.submit("running", PROMPT, greedy(30, n=3))
    engine.submit("other", PROMPT[:5], greedy(30))
    for _ in range(3):
        engine.step()
    engine.submit("waiting", PROMPT, greedy(30))
    (other,) = [s for s in engine.scheduler.running if s.request.request_id == "other"]
    engine.abort("waiting")
    engine.abort("running")
    check(engine)
    assert engine.pool.num_used == len(other.block_table)
    assert engine.scheduler.running == [other]
    assert len(engine.scheduler.waiting) == 0
    assert engine.abort("running") is None
    engine.abort("other")
    assert engine.pool.num_used == 0


@pytest.mark.parametrize("include", [False, True])
def test_14_text_after_a_stop_string_is_never_sent(include: bool) -> None:
    text = "one two three END four"
    expected = "one two three END" if include else "one two three "
    runner = ContextRunner(script={tuple(PROMPT): list(text.encode())})
    engine = make_engine(runner=runner)
    params = greedy(30, stop=["END", "never"], include_stop_str_in_output=include)
    engine.submit("a", PROMPT, params)
    sent = ""
    while engine.has_unfinished:
        for output in engine.step():
            (completion,) = output.outputs
            sent += completion.text
            assert expected.startswith(sent)
    assert sent == expected
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "END")

    engine.submit("b", PROMPT, greedy(30, stop_token_ids=[ord("e")]))
    (completion,) = finish_all(engine)["b"].outputs
    assert completion.text == "on"
    assert completion.token_ids == list(b"one")
    assert (completion.finish_reason, completion.stop_reason) == ("stop", ord("e"))


def test_15_no_half_character_is_sent_and_the_stream_joins_to_the_whole_text() -> None:
    text = "naïve 🙂 日本 ok"
    answer = [*text.encode(), 0xE2, 0x82, EOS]  # ends inside a character
    runner = ContextRunner(script={tuple(PROMPT): answer})
    engine = make_engine(runner=runner)
    engine.submit("stream", PROMPT, greedy(40))
    pieces = _texts(engine)
    assert "".join(pieces) == text + "\ufffd"
    assert all("\ufffd" not in piece for piece in pieces[:-1])
    assert "🙂" in pieces

    engine.submit("whole", PROMPT, SamplingParams(temperature=0, max_tokens=40))
    assert _texts(engine)[-1] == "".join(pieces)
    assert byte_tokenizer().decode(answer) == "".join(pieces)


def _texts(engine: Engine) -> list[str]:
    texts = []
    while engine.has_unfinished:
        texts += [output.outputs[0].text for output in engine.step()]
    return texts


def _hashes(tokens: list[int], block_size: int = 4) -> list[bytes]:
    hashes: list[bytes] = []
    for i in range(0, len(tokens) - block_size + 1, block_size):
        parent = hashes[-1] if hashes else None
        hashes.append(hash_block(parent, block_of(*tokens[i : i + block_size])))
    return hashes


def _compute(engine: Engine, schedule: Schedule) -> None:
    """Finish a step that the test scheduled itself."""
    built = build_batch(schedule, engine.slots)
    engine.take_in(schedule, built, engine.runner.run(built.batch))
