"""Beam search against a plain restatement of its rules, and the blocks it shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stoker.engine.engine import Engine
from stoker.engine.outputs import CompletionOutput
from stoker.engine.sampling_params import BeamSearchParams
from tests.engine.doubles import (
    EOS,
    ContextRunner,
    byte_tokenizer,
    check,
    context_logits,
    finish_all,
    log_softmax,
    make_engine,
)

PROMPT = list(range(40, 50))


def plain_beam_search(
    prompt: list[int], params: BeamSearchParams, eos: set[int]
) -> list[tuple[list[int], float]]:
    """The rules of vLLM's beam search, each beam a list of tokens with its log-probability."""
    width = params.beam_width

    def score(beam: tuple[list[int], float]) -> float:
        tokens, logprob = beam
        ended = bool(tokens) and tokens[-1] in eos
        return float(logprob / (len(prompt) + len(tokens) - ended) ** params.length_penalty)

    beams: list[tuple[list[int], float]] = [([], 0.0)]
    ended: list[tuple[list[int], float]] = []
    for _ in range(params.max_tokens):
        proposals: list[tuple[list[int], float]] = []
        for tokens, logprob in beams:
            logprobs = log_softmax(context_logits(np.array(prompt + tokens, np.int32)))
            for token in np.argsort(-logprobs, kind="stable")[: 2 * width].tolist():
                beam = [*tokens, token], logprob + float(logprobs[token])
                (ended if token in eos else proposals).append(beam)
        beams = sorted(proposals, key=score, reverse=True)[:width]
    return sorted(ended + beams, key=score, reverse=True)[:width]


def run(engine: Engine, params: BeamSearchParams) -> list[CompletionOutput]:
    engine.submit("beams", PROMPT, params)
    return finish_all(engine)["beams"].outputs


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_the_beams_are_those_of_the_plain_rules(width: int, length_penalty: float) -> None:
    params = BeamSearchParams(beam_width=width, max_tokens=7, length_penalty=length_penalty)
    beams = run(make_engine(), params)
    expected = plain_beam_search(PROMPT, params, {EOS})
    assert [beam.token_ids for beam in beams] == [tokens for tokens, _ in expected]
    for beam, (_, logprob) in zip(beams, expected, strict=True):
        assert beam.cumulative_logprob == pytest.approx(logprob, abs=1e-5)
    assert [beam.index for beam in beams] == list(range(width))


def test_beams_that_end_compete_with_those_that_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = set(range(0, 256, 8))
    engine = make_engine()
    monkeypatch.setattr(engine._admission, "_eos_token_ids", frozenset(ends))
    params = BeamSearchParams(beam_width=4, max_tokens=8)
    beams = run(engine, params)
    expected = plain_beam_search(PROMPT, params, ends)
    assert [beam.token_ids for beam in beams] == [tokens for tokens, _ in expected]
    ended = [beam for beam in beams if beam.token_ids[-1] in ends]
    assert ended
    for beam in ended:
        assert beam.finish_reason == "stop"
        assert beam.text == byte_tokenizer().decode(beam.token_ids[:-1])
    ignoring = BeamSearchParams(beam_width=4, max_tokens=8, ignore_eos=True)
    assert [beam.token_ids for beam in run(engine, ignoring)] == [
        tokens for tokens, _ in plain_beam_search(PROMPT, ignoring, set())
    ]


def test_every_token_of_a_beam_has_its_logprobs() -> None:
    for beam in run(make_engine(), BeamSearchParams(beam_width=3, max_tokens=5)):
        assert beam.logprobs is not None
        assert len(beam.logprobs) == len(beam.token_ids) == 5
        total = 0.0
        for i, (token, logprobs) in enumerate(zip(beam.token_ids, beam.logprobs, strict=True)):
            exact = log_softmax(context_logits(np.array(PROMPT + beam.token_ids[:i], np.int32)))
            assert logprobs[token].logprob == pytest.approx(float(exact[token]))
            total += logprobs[token].logprob
        assert beam.cumulative_logprob == pytest.approx(total)


def test_four_beams_of_a_thousand_tokens_share_all_but_their_tails() -> None:
    engine = make_engine(128, 16, max_num_batched_tokens=1024)
    prompt = [i % 200 for i in range(1000)]
    engine.submit("beams", prompt, BeamSearchParams(beam_width=4, max_tokens=30))
    peak = 0
    while engine.has_unfinished:
        engine.step()
        check(engine)
        peak = max(peak, engine.pool.num_used)
        for beam in engine.scheduler.running[1:]:
            assert beam.block_table[:62] == engine.scheduler.running[0].block_table[:62]
    # 62 full blocks of the prompt once; each beam may have the partial block and two more.
    assert 62 + 4 <= peak <= 62 + 4 * 3


def test_a_sampled_token_is_considered_at_a_temperature() -> None:
    prompt_params: dict[str, Any] = {"beam_width": 2, "max_tokens": 6}
    cold = run(make_engine(), BeamSearchParams(**prompt_params))
    hot = run(make_engine(), BeamSearchParams(**prompt_params, temperature=2.0))
    # It only ever adds a proposal, so the best beam is at least as good.
    assert (hot[0].cumulative_logprob or 0) >= (cold[0].cumulative_logprob or 0)


def test_a_beam_whose_logits_are_not_finite_is_dropped() -> None:
    best = int(context_logits(np.array(PROMPT, np.int32)).argmax())
    runner = ContextRunner(script={(*PROMPT, best): [-1]})
    beams = run(make_engine(runner=runner), BeamSearchParams(beam_width=2, max_tokens=3))
    assert len(beams) == 2
    assert all(beam.token_ids[0] != best for beam in beams)
    assert all(beam.finish_reason == "length" for beam in beams)


def test_when_no_beam_is_left_the_answer_is_an_error() -> None:
    runner = ContextRunner(script={tuple(PROMPT): [-1]})
    (answer,) = run(make_engine(runner=runner), BeamSearchParams(beam_width=2, max_tokens=3))
    assert (answer.finish_reason, answer.token_ids) == ("error", [])


def test_an_aborted_search_gives_everything_back() -> None:
    engine = make_engine()
    engine.submit("beams", PROMPT, BeamSearchParams(beam_width=3, max_tokens=9))
    for _ in range(3):
        engine.step()
    last = engine.abort("beams")
    assert last is not None
    assert last.finished
    assert [output.finish_reason for output in last.outputs] == ["abort"] * 3
    assert engine.pool.num_used == 0
