"""Who is scheduled, admitted and preempted, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from stoker.engine.batch_builder import build_batch
from stoker.engine.engine import Engine
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.engine.scheduler import Schedule
from stoker.engine.sequence import SequenceState
from tests.engine.doubles import answer_alone, check, finish_all, make_engine


def submit(
    engine: Engine, name: str, length: int, max_tokens: int = 4, priority: int = 0, **params: Any
) -> None:
    """A greedy request whose prompt shares nothing with the others'."""
    engine.submit(
        name,
        [ord(name[0])] * length,
        SamplingParams(
            temperature=0,
            max_tokens=max_tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
            **params,
        ),
        priority=priority,
    )


def step(engine: Engine) -> dict[str, int]:
    """Make a step; who computed how many tokens in it."""
    schedule = engine.scheduler.schedule(0.0)
    if schedule.sequences:
        built = build_batch(schedule, engine.slots)
        engine.take_in(schedule, built, engine.runner.run(built.batch))
    check(engine)
    return counts_of(schedule)


def counts_of(schedule: Schedule) -> dict[str, int]:
    return {
        sequence.request.request_id: count
        for sequence, count in zip(schedule.sequences, schedule.counts, strict=True)
    }


def names(sequences: Sequence[Any]) -> list[str]:
    return [sequence.request.request_id for sequence in sequences]


def test_a_long_prefill_never_pushes_a_decode_out_of_a_step() -> None:
    engine = make_engine(256, 4, max_num_batched_tokens=10, max_num_seqs=4)
    submit(engine, "a", 2, 30)
    step(engine)
    submit(engine, "long", 100, 30)
    for _ in range(11):
        assert step(engine) == {"a": 1, "long": 9}
    finish_all(engine)


def test_nor_does_one_that_arrived_before_the_decode() -> None:
    engine = make_engine(
        256, 4, max_num_batched_tokens=10, max_num_seqs=4, enable_prefix_caching=False
    )
    submit(engine, "long", 30, 30)
    for _ in range(3):
        step(engine)
    submit(engine, "b", 2, 30)
    step(engine)
    engine.scheduler.preempt(engine.scheduler.running[0])
    assert step(engine) == {"b": 1, "long": 9}
    # Now the long one is before "b" again and has more to compute than the budget.
    assert step(engine) == {"long": 9, "b": 1}
    finish_all(engine)


def test_the_budget_is_never_exceeded_and_prompts_are_cut_to_the_chunk_limit() -> None:
    engine = make_engine(
        256, 4, max_num_batched_tokens=16, long_prefill_token_threshold=6, max_num_seqs=8
    )
    for name in "abcde":
        submit(engine, name, 20)
    seen = [step(engine) for _ in range(30)]
    assert all(sum(counts.values()) <= 16 for counts in seen)
    assert all(count <= 6 for counts in seen for count in counts.values())
    assert seen[0] == {"a": 6, "b": 6, "c": 4}
    assert not engine.has_unfinished


def test_no_more_sequences_run_than_there_are_slots() -> None:
    engine = make_engine(256, 4, max_num_seqs=3)
    for name in "abcd":
        submit(engine, name, 4)
    step(engine)
    assert names(engine.scheduler.running) == ["a", "b", "c"]
    # Four answers need four slots at once, so "n" waits until that many are free.
    engine = make_engine(256, 4, max_num_seqs=4)
    submit(engine, "a", 4, 2)
    submit(engine, "n", 4, 2, n=4)
    assert step(engine) == {"a": 4}
    assert step(engine) == {"a": 1}
    assert step(engine) == {"n": 4}
    assert names(engine.scheduler.running) == ["n"] * 4


def test_priorities_go_before_arrival_where_they_are_heeded() -> None:
    for policy, order in (("priority", ["high", "mid", "low", "last"]), ("fcfs", None)):
        engine = make_engine(256, 4, max_num_seqs=1, scheduling_policy=policy)
        for name, priority in (("low", 5), ("mid", 1), ("high", -3), ("last", 5)):
            submit(engine, name, 4, 1, priority)
        finished = list(finish_all(engine))
        assert finished == (order or ["low", "mid", "high", "last"])


def test_the_lowest_priority_is_preempted_though_it_arrived_first() -> None:
    engine = make_engine(8, 4, scheduling_policy="priority")
    submit(engine, "low", 8, 20, priority=9)
    step(engine)
    submit(engine, "high", 8, 20, priority=1)
    while engine.stats().num_preemptions == 0:
        step(engine)
    assert names(engine.scheduler.running) == ["high"]
    finish_all(engine)


def test_a_preempted_sequence_comes_back_before_later_arrivals() -> None:
    engine = make_engine(8, 4, max_num_seqs=4)
    submit(engine, "a", 12, 16)
    submit(engine, "b", 10, 12)
    step(engine)
    submit(engine, "c", 4, 2)
    while engine.stats().num_preemptions == 0:
        step(engine)
    assert len(engine.scheduler.waiting) == 2
    first = engine.scheduler.waiting.first()
    assert first is not None
    assert first.request.request_id == "b"
    done = finish_all(engine)
    assert list(done) == ["a", "b", "c"]


def test_a_prompt_is_admitted_only_when_all_of_it_and_the_growth_of_others_find_room() -> None:
    def start(num_blocks: int) -> Engine:
        engine = make_engine(
            num_blocks, 4, max_num_batched_tokens=16, long_prefill_token_threshold=8
        )
        submit(engine, "a", 24, 8)  # six blocks, two in each step
        submit(engine, "b", 16, 4)  # four
        return engine

    # "b" leaves four blocks to the rest of "a", and one for it to grow into.
    assert step(start(2 + 4 + 4 + 1)) == {"a": 8, "b": 8}
    engine = start(2 + 4 + 4)
    for _ in range(3):
        assert step(engine) == {"a": 8}
    finish_all(engine)
    assert engine.stats().num_preemptions == 0
    # The same for one that comes while the prompt of "a" is half computed.
    engine = start(2 + 4 + 4)
    engine.abort("b")
    assert step(engine) == {"a": 8}
    submit(engine, "late", 16, 4)
    assert step(engine) == {"a": 8}
    finish_all(engine)


def test_nothing_is_admitted_in_a_step_that_preempted_though_it_would_find_room() -> None:
    engine = make_engine(8, 4, scheduling_policy="priority")
    submit(engine, "a", 8, 12, priority=1)
    submit(engine, "low", 16, 12, priority=5)
    step(engine)
    submit(engine, "mid", 8, 2, priority=3)
    while engine.stats().num_preemptions == 0:
        counts = step(engine)
    assert counts == {"a": 1}
    assert engine.pool.num_free == 4
    assert step(engine) == {"a": 1, "mid": 8}
    finish_all(engine)


def test_a_blocked_request_is_not_looked_at_again_until_a_block_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(8, 4)
    submit(engine, "a", 20, 8)
    step(engine)
    submit(engine, "b", 20, 4)
    looked = []
    lookup = engine.pool.longest_prefix

    def count(hashes: Iterable[bytes]) -> list[int]:
        looked.append(1)
        return lookup(hashes)

    monkeypatch.setattr(engine.pool, "longest_prefix", count)
    for _ in range(6):
        assert list(step(engine)) == ["a"]
    assert len(looked) == 1
    finish_all(engine)


def test_identical_prompts_come_to_share_their_blocks() -> None:
    engine = make_engine(32, 4)
    for name in ("x1", "x2"):
        submit(engine, name, 14)
    step(engine)
    first, second = engine.scheduler.running
    assert first.block_table[:3] == second.block_table[:3]
    assert first.block_table[3] != second.block_table[3]
    assert engine.pool.num_used == 5
    finish_all(engine)


def test_without_prefix_caching_nothing_is_cached_or_found() -> None:
    engine = make_engine(32, 4, enable_prefix_caching=False)
    for _ in range(2):
        submit(engine, "same", 12)
        assert finish_all(engine)["same"].num_cached_tokens == 0
    assert engine.pool.num_cached == 0
    assert engine.stats().prefix_cache_queries == 0


def test_beams_that_wait_for_a_sibling_make_room_for_it() -> None:
    """A pool that holds one beam of the search but not two: they take turns."""
    prompt = list(range(30, 46))
    params = BeamSearchParams(beam_width=3, max_tokens=6)
    engine = make_engine(6, 4, enable_prefix_caching=False)
    engine.submit("beams", prompt, params)
    parked = 0
    done: dict[str, RequestOutput] = {}
    while engine.has_unfinished:
        done |= {output.request_id: output for output in engine.step()}
        check(engine)
        beams = engine._requests["beams"].beams if engine.has_unfinished else None
        if beams is not None:
            parked += sum(beam.state is SequenceState.PARKED for beam in beams.live)
    assert parked > 0
    assert done["beams"].outputs == answer_alone(prompt, params).outputs


def test_finishing_a_waiting_sequence_leaves_the_queue_small() -> None:
    engine = make_engine(8, 4, max_num_seqs=1, max_waiting_requests=0)
    submit(engine, "running", 4, 8)
    step(engine)
    for i in range(500):
        submit(engine, f"w{i}", 4)
    for i in range(500):
        engine.abort(f"w{i}")
    assert len(engine.scheduler.waiting) == 0
    assert engine.scheduler.waiting.num_tokens == 0
    assert len(engine.scheduler.waiting._heap) <= 17
    finish_all(engine)


@pytest.mark.parametrize("damage", ["order", "slot", "table"])
def test_check_notices_damage(damage: str) -> None:
    engine = make_engine()
    submit(engine, "a", 6)
    submit(engine, "b", 6)
    step(engine)
    match damage:
        case "order":
            engine.scheduler.running.reverse()
        case "slot":
            engine.slots.give_back(engine.scheduler.running[0].slot)
        case _:
            engine.slots.block_tables[engine.scheduler.running[0].slot, 0] += 1
    with pytest.raises(RuntimeError):
        engine.check()


def test_a_decode_that_forked_copies_the_block_it_shares() -> None:
    """Also one that was sure of its block before: whoever writes first makes the copy."""
    engine = make_engine(64, 4)
    submit(engine, "a", 5, max_tokens=20)
    step(engine)
    step(engine)
    scheduler = engine.scheduler
    (parent,) = scheduler.running
    assert (parent.num_computed, parent.writable) == (6, 8)
    child = parent.fork(1, parent.answer)
    scheduler.fork(parent, child)
    shared = parent.block_table[1]
    schedule = scheduler.schedule(0.0)
    assert schedule.sequences == [parent, child]
    assert schedule.copies == [(shared, parent.block_table[1])]
    assert child.block_table[1] == shared
    assert scheduler.schedule(0.0).copies == []
    scheduler.finish(child)
    scheduler.preempt(parent)
    assert parent.writable == 0
    engine.abort_all()
