"""The same request gets the same answer, bit for bit, whatever happens around it.

Alone or among many, its prompt whole or in chunks, computed or found in the cache, preempted or
not, with the reference runner and with the native one, greedy and seeded, log-probabilities
included.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stoker.engine.config import EngineConfig
from stoker.engine.engine import Engine
from stoker.engine.factory import make_runner
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.model.loader import LoadedModel, open_model
from stoker.runner.base import CacheConfig
from tests.engine.doubles import byte_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = ["llama3", "gemma3.gguf", "mistral"]  # plain; softcaps, norms and windows; all windows
RUNNERS = ["reference", "cpu"]
Params = SamplingParams | BeamSearchParams
Requests = dict[str, tuple[list[int], Params]]
Answers = dict[str, RequestOutput]


@cache
def golden(name: str) -> LoadedModel:
    return open_model(GOLDEN / name)


def make_engine(name: str, runner: str, num_blocks: int = 64, **settings: Any) -> Engine:
    given = {"max_num_seqs": 48, "max_num_batched_tokens": 512, "threads": 2} | settings
    config = EngineConfig(runner=runner, **given)  # type: ignore[arg-type]
    model = golden(name)
    return Engine(
        make_runner(model, config, CacheConfig(num_blocks, 16, "bfloat16")),
        byte_tokenizer(),
        config,
    )


def answers(engine: Engine, requests: Requests, *, preempt_every: int = 0) -> Answers:
    """Submit all, then step to the end; every so many steps a running sequence is preempted."""
    steps = 0
    for name, (prompt, params) in requests.items():
        engine.submit(name, prompt, params)
    done: Answers = {}
    while engine.has_unfinished:
        done |= {output.request_id: output for output in engine.step()}
        engine.check()
        steps += 1
        running = engine.scheduler.running
        if preempt_every and steps % preempt_every == 0 and running:
            engine.scheduler.preempt(running[steps % len(running)])
    return done


def one_by_one(engine: Engine, requests: Requests) -> Answers:
    done: Answers = {}
    for name, request in requests.items():
        done |= answers(engine, {name: request})
        engine.reset_prefix_cache()
    return done


def assert_same(found: Answers, expected: Answers) -> None:
    assert found.keys() == expected.keys()
    for name, output in expected.items():
        assert found[name].outputs == output.outputs, name
        assert found[name].prompt_logprobs == output.prompt_logprobs, name


def mixed_requests(count: int) -> Requests:
    """Greedy and seeded, short and long, some with a common beginning, some asking for more."""
    rng = np.random.default_rng(5)
    common = rng.integers(0, 128, 24).tolist()
    requests: Requests = {}
    for i in range(count):
        own = rng.integers(0, 128, int(rng.integers(1, 12))).tolist()
        prompt = common[: 8 * (i % 4)] + own
        if i % 8 == 7:
            requests[f"beams {i}"] = prompt, BeamSearchParams(beam_width=3, max_tokens=6)
            continue
        requests[str(i)] = (
            prompt,
            SamplingParams(
                n=3 if i % 5 == 0 else 1,
                temperature=(0.0, 0.8, 1.3)[i % 3],
                top_k=(0, 20)[i % 2],
                top_p=(1.0, 0.9)[i % 2],
                seed=i,
                max_tokens=4 + i % 14,
                logprobs=(None, 0, 3)[i % 3],
                prompt_logprobs=2 if i % 6 == 1 else None,
                repetition_penalty=1.2 if i % 7 == 3 else 1.0,
                output_kind=RequestOutputKind.FINAL_ONLY,
            ),
        )
    return requests


@cache
def expected(model: str, runner: str) -> Answers:
    """The answers alone, prompts whole, nothing cached."""
    engine = make_engine(model, runner, enable_prefix_caching=False)
    return one_by_one(engine, mixed_requests(32))


each_model_and_runner = pytest.mark.parametrize(
    ("model", "runner"), [(model, runner) for model in MODELS for runner in RUNNERS]
)


@each_model_and_runner
def test_alone_and_among_thirty_two(model: str, runner: str) -> None:
    engine = make_engine(model, runner, 256, enable_prefix_caching=False)
    assert_same(answers(engine, mixed_requests(32)), expected(model, runner))


@each_model_and_runner
@pytest.mark.parametrize("chunk", [1, 5])
def test_whole_and_in_chunks(model: str, runner: str, chunk: int) -> None:
    engine = make_engine(
        model, runner, 256, enable_prefix_caching=False, long_prefill_token_threshold=chunk
    )
    assert_same(answers(engine, mixed_requests(32)), expected(model, runner))


@each_model_and_runner
def test_computed_and_cached(model: str, runner: str) -> None:
    engine = make_engine(model, runner, 256)
    requests = mixed_requests(32)
    answers(engine, requests)
    assert engine.stats().prefix_cache_hits > 0
    before = engine.stats().prefix_cache_hits
    again = answers(engine, requests)
    assert engine.stats().prefix_cache_hits > before
    assert_same(again, expected(model, runner))


@each_model_and_runner
def test_preempted_and_not(model: str, runner: str) -> None:
    engine = make_engine(model, runner, 24)
    found = answers(engine, mixed_requests(32), preempt_every=2)
    assert engine.stats().num_preemptions > 20
    assert_same(found, expected(model, runner))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "settings",
    [{"threads": 1}, {"threads": 3}, {"isa": "portable"}],
    ids=["one thread", "three threads", "portable"],
)
def test_the_processor_makes_no_difference(model: str, settings: dict[str, Any]) -> None:
    """With quantized weights, whose sums are exact."""
    requests = mixed_requests(16)
    usual = answers(make_engine(model, "cpu", 256, weight_format="q8"), requests)
    engine = make_engine(model, "cpu", 256, weight_format="q8", **settings)
    assert_same(answers(engine, requests), usual)


def test_an_answer_does_not_depend_on_how_many_are_asked_for() -> None:
    def first(n: int) -> object:
        params = SamplingParams(n=n, seed=1, max_tokens=9, logprobs=1)
        return answers(make_engine("llama3", "cpu"), {"a": ([1, 2, 3], params)})["a"].outputs[0]

    assert first(1) == first(2) == first(5)


def test_unseeded_answers_repeat_only_with_the_engine_seed() -> None:
    def sample(seed: int | None) -> list[list[int]]:
        params = SamplingParams(temperature=2.0, max_tokens=12)
        requests: Requests = {str(i): ([1, 2, 3], params) for i in range(4)}
        done = answers(make_engine("llama3", "cpu", seed=seed), requests)
        return [output.outputs[0].token_ids for output in done.values()]

    assert sample(7) == sample(7)
    assert sample(7) != sample(8)
    assert sample(None) != sample(None)
    assert len({tuple(tokens) for tokens in sample(None)}) == 4


def test_the_streams_of_steps_differ_in_nothing_but_time() -> None:
    """Two engines given the same requests build the same batches, step by step."""

    def trace() -> list[tuple[int, ...]]:
        seen: list[tuple[int, ...]] = []
        engine = make_engine("llama3", "cpu", 20, max_model_len=64)
        run: Callable[..., Any] = engine.runner.run

        def recorded(batch: Any) -> Any:
            seen.append((*batch.token_ids.tolist(), *batch.block_tables.ravel().tolist()))
            return run(batch)

        engine.runner.run = recorded  # type: ignore[method-assign]
        answers(engine, mixed_requests(16))
        return seen

    assert trace() == trace()
