"""The engine from submit to output: what is refused, what comes out, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stoker.engine.engine import Engine
from stoker.engine.kv_events import AllBlocksCleared, BlockStored, KVEvent
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import (
    BeamSearchParams,
    RequestOutputKind,
    SamplingParams,
)
from stoker.engine.stats import StepStats
from stoker.errors import ContextOverflow, EngineOverloaded, InvalidRequest
from tests.engine.doubles import (
    EOS,
    VOCAB_SIZE,
    Clock,
    ContextRunner,
    answer_alone,
    check,
    context_logits,
    finish_all,
    log_softmax,
    make_engine,
)

PROMPT = list(range(60, 75))
DELTA = RequestOutputKind.DELTA


def greedy(max_tokens: int = 8, **fields: Any) -> SamplingParams:
    return SamplingParams(**({"temperature": 0, "max_tokens": max_tokens} | fields))


def scripted(text: str | list[int], **settings: Any) -> Engine:
    """An engine that answers PROMPT with `text`."""
    answer = list(text.encode()) if isinstance(text, str) else text
    return make_engine(runner=ContextRunner(script={tuple(PROMPT): answer}), **settings)


def answer(engine: Engine, params: SamplingParams) -> RequestOutput:
    engine.submit("a", PROMPT, params)
    last = None
    while engine.has_unfinished:
        for output in engine.step():
            last = output
        check(engine)
    assert last is not None
    return last


# ── what is refused ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "empty"),
        ([1, -1], "token id -1"),
        ([1, VOCAB_SIZE], f"token id {VOCAB_SIZE}; the vocabulary has ids 0 to {VOCAB_SIZE - 1}"),
        ([1, 2**40], "token id 1099511627776"),
        ([1, 2**80], "list of token ids"),
        ([1.5], "list of token ids"),
        (["a"], "list of token ids"),
        ([[1], [2]], "list of token ids"),
        ([[1], [2, 3]], "list of token ids"),
    ],
)
def test_a_bad_prompt_is_refused(prompt: Any, message: str) -> None:
    engine = make_engine()
    with pytest.raises(InvalidRequest, match=message) as refused:
        engine.submit("a", prompt, greedy())
    assert refused.value.param == "prompt"
    assert not engine.has_unfinished


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"stop_token_ids": [VOCAB_SIZE]}, "stop_token_ids"),
        ({"allowed_token_ids": [VOCAB_SIZE]}, "allowed_token_ids"),
        ({"logit_bias": {VOCAB_SIZE: 1.0}}, "logit_bias"),
        ({"bad_words": [" "]}, "bad_words"),
        ({"n": 17, "temperature": 1.0}, "n"),
    ],
)
def test_a_parameter_this_engine_cannot_serve_is_refused(
    fields: dict[str, Any], param: str
) -> None:
    engine = make_engine()
    with pytest.raises(InvalidRequest) as refused:
        engine.submit("a", PROMPT, greedy(**fields))
    assert refused.value.param == param


def test_a_parameter_spoilt_after_it_was_made_is_refused() -> None:
    params = greedy()
    params.top_p = float("nan")
    with pytest.raises(InvalidRequest, match="top_p"):
        make_engine().submit("a", PROMPT, params)


def test_the_callers_parameters_are_not_kept() -> None:
    engine = make_engine()
    params = greedy(4)
    engine.submit("a", PROMPT, params)
    params.max_tokens = 1
    assert len(finish_all(engine)["a"].outputs[0].token_ids) == 4


def test_all_logprobs_are_allowed_where_the_engine_says_so() -> None:
    engine = make_engine(max_logprobs=-1)
    (completion,) = answer(engine, greedy(1, logprobs=-1)).outputs
    assert completion.logprobs is not None
    assert len(completion.logprobs[0]) == VOCAB_SIZE


def test_beams_wider_than_the_batch_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="beam_width") as refused:
        make_engine().submit("a", PROMPT, BeamSearchParams(beam_width=17, max_tokens=2))
    assert refused.value.param == "beam_width"


def test_max_tokens_is_what_the_context_has_room_for_unless_given() -> None:
    engine = make_engine(max_model_len=20)
    (completion,) = answer(engine, greedy(None, ignore_eos=True)).outputs  # type: ignore[arg-type]
    assert len(completion.token_ids) == 5
    assert completion.finish_reason == "length"
    with pytest.raises(ContextOverflow, match="room for 5") as refused:
        engine.submit("b", PROMPT, greedy(6))
    assert refused.value.code == "context_length_exceeded"


def test_a_request_id_in_use_is_refused() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT, greedy())
    with pytest.raises(ValueError, match="'a' is in use"):
        engine.submit("a", PROMPT, greedy())
    finish_all(engine)
    engine.submit("a", PROMPT, greedy())
    finish_all(engine)


def test_a_full_queue_turns_requests_away() -> None:
    engine = make_engine(max_num_seqs=1, max_waiting_requests=2)
    for name in "ab":
        engine.submit(name, PROMPT, greedy())
    with pytest.raises(EngineOverloaded, match="2 requests are waiting, 2 may") as refused:
        engine.submit("c", PROMPT, greedy())
    assert refused.value.retry_after > 0
    engine.step()
    engine.submit("c", PROMPT, greedy())
    assert engine.stats().admission_rejections == 1
    assert sorted(finish_all(engine)) == ["a", "b", "c"]


def test_too_many_waiting_tokens_turn_requests_away() -> None:
    engine = make_engine(max_num_seqs=1, max_waiting_tokens=20)
    engine.submit("a", [1] * 30, greedy())  # nothing waits yet
    with pytest.raises(EngineOverloaded, match="30 prompt tokens are waiting, 20 may"):
        engine.submit("b", [1], greedy())
    engine.step()
    engine.submit("b", [1] * 10, greedy())
    finish_all(engine)


# ── what comes out ──────────────────────────────────────────────────────────────────────────


def test_the_three_kinds_of_output() -> None:
    def texts(kind: RequestOutputKind) -> list[str]:
        engine = scripted("abc")
        engine.submit("a", PROMPT, greedy(3, output_kind=kind))
        found = []
        while engine.has_unfinished:
            found += [output.outputs[0].text for output in engine.step()]
        return found

    assert texts(RequestOutputKind.CUMULATIVE) == ["a", "ab", "abc"]
    assert texts(RequestOutputKind.DELTA) == ["a", "b", "c"]
    assert texts(RequestOutputKind.FINAL_ONLY) == ["abc"]


def test_the_end_token_ends_the_answer_and_is_no_part_of_its_text() -> None:
    (completion,) = answer(scripted([*b"Hi", EOS, *b"more"]), greedy()).outputs
    assert completion.text == "Hi"
    assert completion.token_ids == [*b"Hi", EOS]
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)


def test_the_end_token_can_be_ignored() -> None:
    (completion,) = answer(
        scripted([*b"Hi", EOS, *b"mo"]), greedy(5, ignore_eos=True, skip_special_tokens=False)
    ).outputs
    assert completion.text == "Hi<end>mo"
    assert completion.finish_reason == "length"


def test_a_stop_token_is_in_the_text_when_asked_for() -> None:
    for include, text in ((False, "ab"), (True, "abX")):
        params = greedy(stop_token_ids=[ord("X")], include_stop_str_in_output=include)
        (completion,) = answer(scripted("abXc"), params).outputs
        assert (completion.text, completion.stop_reason) == (text, ord("X"))


def test_no_stop_is_heeded_before_min_tokens() -> None:
    params = greedy(8, min_tokens=3, stop=["b", "z"], stop_token_ids=[ord("q")])
    (completion,) = answer(scripted("abcbxy"), params).outputs
    assert completion.text == "abc"
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "b")


def test_a_stop_string_completed_by_the_last_token_is_the_reason() -> None:
    (completion,) = answer(scripted("abcd"), greedy(4, stop=["cd"])).outputs
    assert (completion.text, completion.finish_reason) == ("ab", "stop")


def test_held_back_text_is_sent_when_the_answer_ends_otherwise() -> None:
    engine = scripted("ab ST")
    engine.submit("a", PROMPT, greedy(5, stop=["STOP"], output_kind=DELTA))
    texts = []
    while engine.has_unfinished:
        texts += [output.outputs[0].text for output in engine.step()]
    assert texts == ["a", "b", " ", "", "ST"]


def test_without_detokenization_there_is_no_text() -> None:
    (completion,) = answer(scripted("abc"), greedy(3, detokenize=False)).outputs
    assert completion.text == ""
    assert completion.token_ids == list(b"abc")


def test_logprobs_are_of_the_chosen_token_and_of_the_likeliest() -> None:
    params = SamplingParams(temperature=1.5, seed=3, max_tokens=6, logprobs=3)
    (completion,) = answer(make_engine(), params).outputs
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids)
    total = 0.0
    for i, token in enumerate(completion.token_ids):
        exact = log_softmax(context_logits(np.array(PROMPT + completion.token_ids[:i], np.int32)))
        best = np.argsort(-exact, kind="stable")[:3].tolist()
        entry = completion.logprobs[i]
        assert list(entry) == list(dict.fromkeys([token, *best]))
        assert [entry[b].rank for b in best] == [1, 2, 3]
        assert entry[token].rank == 1 + int((exact > exact[token]).sum())
        for t, logprob in entry.items():
            assert logprob.logprob == pytest.approx(float(exact[t]))
            if t < 128:
                assert logprob.decoded_token == chr(t)
        total += entry[token].logprob
    assert completion.cumulative_logprob == pytest.approx(total)


def test_prompt_logprobs_are_the_same_in_chunks_and_after_a_preemption() -> None:
    params = greedy(3, prompt_logprobs=2)
    whole = answer(make_engine(), params).prompt_logprobs
    assert whole is not None
    assert whole[0] is None
    for i, entry in enumerate(whole[1:], 1):
        exact = log_softmax(context_logits(np.array(PROMPT[:i], np.int32)))
        assert entry is not None
        assert entry[PROMPT[i]].logprob == pytest.approx(float(exact[PROMPT[i]]))
    engine = make_engine(long_prefill_token_threshold=4)
    # Cached blocks are not used, as they have no logits.
    engine.submit("warm", PROMPT, greedy(1))
    finish_all(engine)
    engine.submit("a", PROMPT, params)
    engine.step()
    engine.step()
    engine.scheduler.preempt(engine.scheduler.running[0])
    output = finish_all(engine)["a"]
    assert output.prompt_logprobs == whole
    assert output.num_cached_tokens == 0


def test_prompt_logprobs_come_once_in_a_stream() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT, greedy(4, prompt_logprobs=0, output_kind=DELTA))
    found = []
    while engine.has_unfinished:
        found += [output.prompt_logprobs for output in engine.step()]
    assert found[0] is not None
    assert len(found[0]) == len(PROMPT)
    assert found[1:] == [None, None, None]


def test_n_answers_come_in_order_and_differ() -> None:
    params = SamplingParams(n=4, seed=2, max_tokens=6, ignore_eos=True)
    output = answer(make_engine(), params)
    assert [completion.index for completion in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 4
    # Every answer is a function of (seed, index): more of them do not change the first ones.
    fewer = answer(make_engine(), SamplingParams(n=2, seed=2, max_tokens=6, ignore_eos=True))
    assert [c.token_ids for c in fewer.outputs] == [c.token_ids for c in output.outputs[:2]]


def test_an_answer_that_ends_early_does_not_end_the_others() -> None:
    params = SamplingParams(
        n=6, seed=1, max_tokens=12, stop_token_ids=list(range(0, 256, 6)), output_kind=DELTA
    )
    engine = make_engine()
    engine.submit("a", PROMPT, params)
    output = finish_all(engine)["a"]
    assert len({len(completion.token_ids) for completion in output.outputs}) > 1
    assert all(completion.finish_reason in ("stop", "length") for completion in output.outputs)
    assert len(output.outputs) == 6


def test_a_row_that_is_not_finite_ends_only_its_own_answer() -> None:
    engine = scripted([*b"ok", -1])
    engine.submit("bad", PROMPT, greedy(8, output_kind=DELTA))
    engine.submit("good", PROMPT[::-1], greedy(8, output_kind=DELTA))
    done = finish_all(engine)
    (bad,) = done["bad"].outputs
    assert (bad.text, bad.token_ids, bad.finish_reason) == ("ok", list(b"ok"), "error")
    assert done["good"].outputs == answer_alone(PROMPT[::-1], greedy(8)).outputs
    assert engine.stats().finished["error"] == 1


def test_what_is_aborted_ends_with_its_last_output() -> None:
    engine = scripted("abcdef")
    engine.submit("a", PROMPT, greedy(6, output_kind=DELTA))
    engine.step()
    engine.step()
    last = engine.abort("a")
    assert last is not None
    assert last.finished
    assert [completion.finish_reason for completion in last.outputs] == ["abort"]
    engine.submit("b", PROMPT, greedy(6))
    engine.submit("c", PROMPT, greedy(6))
    assert [output.request_id for output in engine.abort_all()] == ["b", "c"]
    assert not engine.has_unfinished


def test_the_prompt_and_its_text_are_handed_back() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT, greedy(1), prompt="hello")
    (output,) = engine.step()
    assert output.prompt == "hello"
    assert output.prompt_token_ids == PROMPT


# ── what is counted ─────────────────────────────────────────────────────────────────────────


def test_times_are_those_of_the_clock() -> None:
    clock = Clock()
    steps: list[StepStats] = []
    engine = make_engine(clock=clock, max_num_batched_tokens=10, max_num_seqs=4)
    engine.step_listener = steps.append
    engine.submit("a", PROMPT, greedy(3, ignore_eos=True))
    while engine.has_unfinished:
        clock.now += 1.0
        output = engine.step()
    metrics = output[0].metrics
    assert metrics is not None
    assert metrics.arrival_time == 0.0
    assert metrics.first_scheduled_time == 1.0
    assert metrics.time_in_queue == 1.0
    assert metrics.first_token_time == 2.0  # the prompt took two steps
    assert metrics.last_token_time == metrics.finished_time == 4.0
    assert [step.num_tokens for step in steps] == [10, 5, 1, 1]
    assert [step.num_generation_tokens for step in steps] == [0, 1, 1, 1]
    assert [step.times_to_first_token for step in steps] == [[], [2.0], [], []]
    assert [step.inter_token_latencies for step in steps] == [[], [], [1.0], [1.0]]
    (finished,) = steps[-1].finished
    assert finished.finish_reason == "length"
    assert (finished.num_prompt_tokens, finished.num_generation_tokens) == (15, 3)
    assert (finished.queue_time, finished.prefill_time, finished.decode_time) == (1.0, 1.0, 2.0)
    assert finished.e2e_time == 4.0
    assert finished.inference_time == 3.0
    assert finished.time_per_output_token == 1.0


def test_an_aborted_request_is_counted() -> None:
    steps: list[StepStats] = []
    engine = make_engine()
    engine.step_listener = steps.append
    engine.submit("a", PROMPT, greedy())
    engine.step()
    engine.abort("a")
    assert [finished.finish_reason for finished in steps[-1].finished] == ["abort"]
    assert engine.stats().finished == {"abort": 1}


def test_totals() -> None:
    engine = make_engine()
    engine.submit("a", PROMPT, greedy(3, ignore_eos=True))
    engine.submit("b", PROMPT[:4], greedy(2, ignore_eos=True))
    waiting = engine.stats()
    assert (waiting.num_running, waiting.num_waiting) == (0, 2)
    assert waiting.num_waiting_tokens == 19
    engine.step()
    running = engine.stats()
    assert (running.num_running, running.num_waiting, running.num_waiting_tokens) == (2, 0, 0)
    assert running.num_used_blocks == 4  # "b" found its only block filled by "a"
    assert running.kv_cache_usage == 4 / 64
    finish_all(engine)
    engine.submit("c", PROMPT, greedy(1))
    finish_all(engine)
    stats = engine.stats()
    assert stats.prompt_tokens == 15 + 4 + 15
    assert stats.generation_tokens == 3 + 2 + 1
    assert stats.prefix_cache_queries == 34
    assert stats.prefix_cache_hits == 12
    assert stats.finished == {"length": 3}
    assert stats.steps == 4


def test_what_the_cache_holds_is_told_once_a_step() -> None:
    told: list[list[KVEvent]] = []
    engine = make_engine(kv_listener=told.append)
    engine.submit("salted", PROMPT, greedy(1), cache_salt="mine")
    finish_all(engine)
    [events] = told
    assert [type(event) for event in events] == [BlockStored] * 3
    salts = [event.cache_salt for event in events if isinstance(event, BlockStored)]
    assert salts == [b"mine", b"", b""], "the first block's; the others follow from it"
    assert engine.reset_prefix_cache()
    assert told[1:] == [[AllBlocksCleared()]]


def test_nothing_is_noted_when_nobody_listens() -> None:
    assert make_engine().pool.listener is None
