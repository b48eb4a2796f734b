"""A step that repeats the last one is not built again: the runner goes on by itself.

When that may be done, that it gives the same answers, and each thing that must put an end to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stoker.engine.engine import Engine
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, SamplingParams
from tests.engine.doubles import EOS, ContextRunner, answer_alone, check, finish_all, make_engine

PLAIN = {"temperature": 0.8, "seed": 7, "max_tokens": 40, "ignore_eos": True}


def runner_of(engine: Engine) -> ContextRunner:
    runner = engine.runner
    assert isinstance(runner, ContextRunner)
    return runner


def plain(**settings: Any) -> SamplingParams:
    return SamplingParams(**(PLAIN | settings))


def steps(engine: Engine, count: int) -> int:
    """Make so many steps; how many of them followed from the one before."""
    before = runner_of(engine).num_followed
    for _ in range(count):
        engine.step()
        check(engine)
    return runner_of(engine).num_followed - before


def settled(*prompts: list[int], **settings: Any) -> Engine:
    """An engine in the midst of the answers to some prompts, `0`, `1` …, each step following."""
    engine = make_engine(256, 4, **settings)
    for i, prompt in enumerate(prompts):
        engine.submit(str(i), prompt, plain())
    steps(engine, 2)
    assert steps(engine, 3) == 3
    return engine


def test_an_answer_is_built_once_and_then_followed() -> None:
    engine = make_engine(64, 4)
    engine.submit("a", [1, 2, 3], plain())
    expected = answer_alone([1, 2, 3], plain())
    output = finish_all(engine)["a"]
    assert output.outputs == expected.outputs
    runner = runner_of(engine)
    assert len(runner.batches) == 40  # the prompt, and a step for each token but the last
    assert runner.num_followed == 38  # all but the prompt and the first token after it


def test_what_the_runner_is_told_of_blocks() -> None:
    """Tables only when they have changed; the batch it makes of them is the one built anew."""
    told = []

    class Noting(ContextRunner):
        def run_next(self, block_tables: Any) -> Any:
            told.append(None if block_tables is None else block_tables.tolist())
            return super().run_next(block_tables)

    engine = make_engine(runner=Noting(64, 4))
    engine.submit("a", [1, 2, 3], plain(max_tokens=9))
    tables = []
    while engine.has_unfinished:
        engine.step()
        tables += [list(s.block_table) for s in engine.scheduler.running]
    # Computed after each step: 3, 4, 5 … 11 tokens.
    assert [None if t is None else len(t[0]) for t in told] == [2, None, None, None, 3, None, None]
    assert told[0] == [tables[2]]
    assert told[4] == [tables[6]]
    batches = runner_of(engine).batches
    assert [batch.context_lens.tolist() for batch in batches] == [[0], *([n] for n in range(3, 11))]
    assert [batch.sample.steps.tolist() for batch in batches] == [[n] for n in range(9)]
    assert {array.dtype for b in batches for array in (b.context_lens, b.sample.steps)} == {
        np.dtype(np.int32)
    }


def test_a_request_that_arrives_is_taken_in_and_followed_again() -> None:
    engine = settled([1, 2], [3, 4, 5])
    engine.submit("new", [6, 7], plain())
    assert steps(engine, 2) == 0  # its prompt, then the first step of all three
    assert steps(engine, 3) == 3


def test_an_answer_that_ends_leaves_the_others() -> None:
    engine = make_engine(256, 4)
    engine.submit("short", [1, 2], plain(max_tokens=6))
    engine.submit("long", [3, 4, 5], plain())
    outputs = finish_all(engine)
    assert outputs["short"].outputs == answer_alone([1, 2], plain(max_tokens=6)).outputs
    assert outputs["long"].outputs == answer_alone([3, 4, 5], plain()).outputs
    # Two prompts at once, 39 steps more; built: the first after the prompts, the first alone.
    assert runner_of(engine).num_followed == 40 - 3


@pytest.mark.parametrize("ending", ["stop token", "stop string", "not finite"])
def test_an_end_that_is_found_in_a_followed_step(ending: str) -> None:
    token = {"stop token": EOS, "stop string": ord("!"), "not finite": -1}[ending]
    runner = ContextRunner(256, 4, script={(1, 2): [*b"abcdefgh", token], (3,): list(b"x" * 30)})
    engine = make_engine(runner=runner)
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 30}
    engine.submit("a", [1, 2], SamplingParams(stop=["!"], **greedy))
    engine.submit("b", [3], SamplingParams(**greedy))
    outputs = finish_all(engine)
    (answer,) = outputs["a"].outputs
    assert answer.text == "abcdefgh"
    assert answer.finish_reason == ("error" if ending == "not finite" else "stop")
    assert outputs["b"].outputs[0].text == "x" * 30
    assert engine.stats().generation_tokens == (8 if ending == "not finite" else 9) + 30


def test_an_abort_between_two_steps() -> None:
    engine = settled([1, 2], [3, 4, 5])
    engine.abort("0")
    assert steps(engine, 1) == 0
    assert steps(engine, 2) == 2
    assert finish_all(engine)["1"].outputs == answer_alone([3, 4, 5], plain()).outputs


def test_an_abort_and_a_request_in_its_place() -> None:
    engine = settled([1, 2], [3, 4, 5])
    engine.abort("1")
    engine.submit("2", [3, 4, 5], plain())
    outputs = finish_all(engine)
    assert outputs["0"].outputs == answer_alone([1, 2], plain()).outputs
    assert outputs["2"].outputs == answer_alone([3, 4, 5], plain()).outputs


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("every", [1, 3, 4])
def test_a_sequence_is_preempted_and_resumed_at_once(caching: bool, every: int) -> None:
    """Also where its cached prefix leaves it one token to compute, as before."""
    engine = make_engine(256, 4, enable_prefix_caching=caching)
    engine.submit("a", [1, 2, 3], plain())
    engine.submit("b", [4, 5], plain(seed=8))
    done: dict[str, RequestOutput] = {}
    for i in range(200):
        done |= {output.request_id: output for output in engine.step()}
        check(engine)
        running = engine.scheduler.running
        if running and i % every == 0:
            engine.scheduler.preempt(running[-1])
        if not engine.has_unfinished:
            break
    assert done["a"].outputs == answer_alone([1, 2, 3], plain()).outputs
    assert done["b"].outputs == answer_alone([4, 5], plain(seed=8)).outputs


def test_a_sequence_that_computes_its_tokens_again_one_by_one() -> None:
    """Each step has one token of the same sequence, as a following one would."""
    engine = make_engine(256, 4, long_prefill_token_threshold=1, enable_prefix_caching=False)
    engine.submit("a", [1, 2, 3], plain())
    steps(engine, 8)
    engine.scheduler.preempt(engine.scheduler.running[0])
    assert steps(engine, 8) == 0
    assert finish_all(engine)["a"].outputs == answer_alone([1, 2, 3], plain()).outputs


def test_log_probabilities_are_followed() -> None:
    engine = make_engine(256, 4)
    params = plain(logprobs=3, prompt_logprobs=2)
    engine.submit("a", [1, 2, 3, 4], params)
    outputs = finish_all(engine)
    assert runner_of(engine).num_followed == 38
    expected = answer_alone([1, 2, 3, 4], params)
    assert outputs["a"].outputs == expected.outputs
    assert outputs["a"].prompt_logprobs == expected.prompt_logprobs


@pytest.mark.parametrize(
    "asked",
    [
        {"frequency_penalty": 0.5},
        {"logit_bias": {4: 1.0}},
        {"bad_words": ["q"]},
        {"allowed_token_ids": list(range(97, 123))},
        {"min_tokens": 30, "ignore_eos": False},
    ],
)
def test_what_needs_the_last_token_is_built_anew(asked: dict[str, Any]) -> None:
    engine = make_engine(256, 4)
    engine.submit("a", [1, 2, 3], plain(**asked))
    engine.submit("b", [1, 2, 3], plain())
    finish_all(engine)
    assert runner_of(engine).num_followed == 0


@pytest.mark.parametrize("width", [1, 3])
def test_beams_choose_their_tokens_themselves(width: int) -> None:
    engine = make_engine(256, 4)
    params = BeamSearchParams(beam_width=width, max_tokens=12)
    engine.submit("beams", [1, 2, 3], params)
    engine.submit("plain", [4, 5], plain(max_tokens=10))
    outputs = finish_all(engine)
    assert runner_of(engine).num_followed == 0
    assert outputs["beams"].outputs == answer_alone([1, 2, 3], params).outputs


def test_several_answers_are_followed_once_they_have_parted() -> None:
    engine = make_engine(256, 4)
    engine.submit("a", [1, 2, 3], plain(n=3))
    outputs = finish_all(engine)
    assert outputs["a"].outputs == answer_alone([1, 2, 3], plain(n=3)).outputs
    assert runner_of(engine).num_followed == 38


def test_blocks_run_out_while_steps_follow() -> None:
    engine = make_engine(20, 4, enable_prefix_caching=False)
    for i in range(3):
        engine.submit(str(i), [i + 1] * 5, plain(seed=i))
    outputs = finish_all(engine)
    assert engine.stats().num_preemptions > 0
    assert runner_of(engine).num_followed > 20
    for i in range(3):
        assert outputs[str(i)].outputs == answer_alone([i + 1] * 5, plain(seed=i)).outputs
