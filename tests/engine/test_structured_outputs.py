"""Structured output inside the engine, together with everything else a request may ask for."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.engine.engine import Engine
from stoker.engine.outputs import CompletionOutput, RequestOutput
from stoker.engine.sampling_params import (
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from stoker.errors import InvalidRequest
from tests.engine.doubles import answer_alone, check, finish_all, make_engine

SCHEMA = {
    "type": "object",
    "properties": {"id": {"type": "integer"}, "tag": {"enum": ["red", "green", "blue"]}},
    "required": ["id", "tag"],
    "additionalProperties": False,
}
PROMPT = list(b"hello")


def params(seed: int | None = 1, max_tokens: int = 300, **fields: Any) -> SamplingParams:
    kinds = ("json", "regex", "choice", "grammar", "json_object")
    wanted = {kind: fields.pop(kind) for kind in kinds if kind in fields}
    fields.setdefault("output_kind", RequestOutputKind.DELTA)
    return SamplingParams(
        seed=seed,
        max_tokens=max_tokens,
        structured_outputs=StructuredOutputsParams(**wanted),
        **fields,
    )


def answers(wanted: SamplingParams, engine: Engine | None = None) -> list[CompletionOutput]:
    engine = engine or make_engine(256)
    engine.submit("request", PROMPT, wanted)
    outputs = finish_all(engine)["request"].outputs
    engine.close()
    return sorted(outputs, key=lambda output: output.index)


def answer(wanted: SamplingParams) -> CompletionOutput:
    (output,) = answers(wanted)
    return output


@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
def test_the_end_of_the_grammar_ends_the_answer(temperature: float) -> None:
    output = answer(params(choice=["yes", "no"], temperature=temperature))
    assert output.text in ("yes", "no")
    assert output.finish_reason == "stop"
    assert output.stop_reason is None
    assert len(output.token_ids) == len(output.text)  # not one step was spent on an end token


def test_each_of_n_answers_follows_the_grammar_on_its_own() -> None:
    outputs = answers(params(json=SCHEMA, n=5))
    assert len({output.text for output in outputs}) == 5
    for output in outputs:
        jsonschema.validate(json.loads(output.text), SCHEMA)
        assert output.finish_reason == "stop"


def test_same_seed_same_answer_and_streamed_as_unstreamed() -> None:
    streamed = answers(params(json=SCHEMA, n=3, seed=7))
    whole = answers(params(json=SCHEMA, n=3, seed=7, output_kind=RequestOutputKind.FINAL_ONLY))
    assert [output.text for output in streamed] == [output.text for output in whole]
    assert [output.token_ids for output in streamed] == [output.token_ids for output in whole]


def test_logprobs_are_of_the_unconstrained_distribution() -> None:
    output = answer(params(regex="[xyz]{3}", logprobs=2))
    assert output.logprobs is not None
    assert len(output.logprobs) == 3
    for token, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert next(iter(entry)) == token
        assert {rank for lp in entry.values() if (rank := lp.rank) is not None} >= {1, 2}


def test_max_tokens_cuts_the_answer() -> None:
    output = answer(params(regex="a{10}", max_tokens=4))
    assert (output.text, output.finish_reason) == ("aaaa", "length")


def test_a_grammar_that_ends_with_the_last_token_is_whole() -> None:
    output = answer(params(regex="a{4}", max_tokens=4))
    assert (output.text, output.finish_reason) == ("aaaa", "stop")


def test_a_stop_string_ends_the_answer_first() -> None:
    output = answer(params(regex="abc+d", stop="bc"))
    assert (output.text, output.finish_reason, output.stop_reason) == ("a", "stop", "bc")


def test_min_tokens_holds_back_the_end_but_not_past_the_grammar() -> None:
    for seed in range(10):
        output = answer(params(regex="[ab]{0,8}", min_tokens=5, seed=seed))
        assert re.fullmatch("[ab]{5,8}", output.text)
    output = answer(params(regex="abc", min_tokens=5))
    assert (output.text, output.finish_reason) == ("abc", "stop")


def test_ignore_eos_goes_on_as_long_as_the_grammar_can() -> None:
    output = answer(params(regex="[ab]*", ignore_eos=True, max_tokens=25))
    assert re.fullmatch("[ab]{25}", output.text)
    assert output.finish_reason == "length"
    output = answer(params(regex="[ab]{0,9}", ignore_eos=True))
    assert re.fullmatch("[ab]{9}", output.text)
    assert output.finish_reason == "stop"


def test_allowed_tokens_and_the_grammar_both_hold() -> None:
    output = answer(params(regex="[abc]{6}", allowed_token_ids=list(b"bcd")))
    assert re.fullmatch("[bc]{6}", output.text)
    output = answer(params(regex="[abc]{6}", bad_words=["b"], logit_bias={ord("a"): -100.0}))
    assert output.text == "cccccc"


def test_nothing_left_to_choose_ends_that_answer_with_an_error() -> None:
    engine = make_engine(256)
    engine.submit("stuck", PROMPT, params(regex="abc", allowed_token_ids=list(b"ac")))
    engine.submit("other", PROMPT, params(regex="abc"))
    outputs = finish_all(engine)
    assert outputs["stuck"].outputs[0].finish_reason == "error"
    assert outputs["other"].outputs[0].text == "abc"


@pytest.mark.parametrize("block_size", [1, 4])
def test_preemption_leaves_the_answer_as_it_is(block_size: int) -> None:
    wanted = [params(json=SCHEMA, n=2, max_tokens=90, seed=seed) for seed in range(4)]
    engine = make_engine(112 // block_size, block_size)
    for seed, one in enumerate(wanted):
        engine.submit(str(seed), PROMPT, one)
    outputs = finish_all(engine)
    assert engine.stats().num_preemptions > 0
    for seed, one in enumerate(wanted):
        assert _texts(outputs[str(seed)]) == _texts(answer_alone(PROMPT, one))


def test_constrained_and_free_requests_share_batches() -> None:
    engine = make_engine(512, max_num_seqs=8)
    wanted = {
        "json": params(json=SCHEMA),
        "regex": params(regex="[a-f]{3,30}"),
        "free": SamplingParams(max_tokens=20, seed=3, output_kind=RequestOutputKind.DELTA),
        "n": params(choice=["one", "two", "three"], n=3),
    }
    for name, one in wanted.items():
        engine.submit(name, PROMPT, one)
    outputs = finish_all(engine)
    for name, one in wanted.items():
        assert _texts(outputs[name]) == _texts(answer_alone(PROMPT, one))


def test_aborting_while_masks_are_made_leaves_nothing_behind() -> None:
    engine = make_engine(256)
    for i in range(3):
        engine.submit(str(i), PROMPT, params(json=SCHEMA))
    engine.step()
    engine.step()
    engine.abort("1")
    check(engine)
    finish_all(engine)
    engine.close()


@pytest.mark.parametrize("wrong", [{"regex": "["}, {"json": "{"}, {"grammar": "root ::= x"}])
def test_a_wrong_grammar_is_refused_before_it_is_queued(wrong: dict[str, Any]) -> None:
    engine = make_engine(256)
    with pytest.raises(InvalidRequest, match="structured_outputs") as caught:
        engine.submit("wrong", PROMPT, params(**wrong))
    assert caught.value.param == f"structured_outputs.{next(iter(wrong))}"
    assert not engine.has_unfinished


def test_prepare_compiles_ahead() -> None:
    engine = make_engine()
    engine.prepare(params(regex="[a-z]+"))
    engine.prepare(SamplingParams())
    with pytest.raises(InvalidRequest):
        engine.prepare(params(regex="["))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["[ab]{0,12}", "a|b{3}", "(ab)*c", "[^a]{2,5}"]),
            st.integers(1, 3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=5,
    ),
    st.integers(24, 60),
)
def test_answers_do_not_depend_on_company(
    requests: list[tuple[str, int, int]], num_blocks: int
) -> None:
    engine = make_engine(num_blocks, 4)
    for i, (regex, n, seed) in enumerate(requests):
        engine.submit(str(i), PROMPT, params(regex=regex, n=n, seed=seed, max_tokens=20))
    outputs = finish_all(engine)
    for i, (regex, n, seed) in enumerate(requests):
        wanted = params(regex=regex, n=n, seed=seed, max_tokens=20)
        assert _texts(outputs[str(i)]) == _texts(answer_alone(PROMPT, wanted))
        for output in outputs[str(i)].outputs:
            assert output.finish_reason == "length" or re.fullmatch(regex, output.text, re.DOTALL)


def _texts(output: RequestOutput) -> list[tuple[str, str | None]]:
    ordered = sorted(output.outputs, key=lambda one: one.index)
    return [(one.text, one.finish_reason) for one in ordered]
