"""Random traffic on tiny pools: the invariants hold after every operation, nothing is left in the
end, and every answer is the one its request gets alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.engine.engine import Engine
from stoker.engine.outputs import RequestOutput
from stoker.engine.sampling_params import BeamSearchParams, RequestOutputKind, SamplingParams
from stoker.errors import ContextOverflow
from tests.engine.doubles import VOCAB_SIZE, answer_alone, check, make_engine

_alone: dict[str, list[Any]] = {}

prompts = st.builds(
    lambda start, length, last: [*range(start, start + length), last],
    st.sampled_from([30, 30, 30, 60]),  # most share their beginning
    st.integers(0, 14),
    st.integers(0, 255),
)
kinds = st.sampled_from(list(RequestOutputKind))
sampling = st.builds(
    SamplingParams,
    n=st.sampled_from([1, 1, 1, 2, 3]),
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    seed=st.integers(0, 3),
    max_tokens=st.integers(1, 16),
    min_tokens=st.sampled_from([0, 0, 1]),
    stop=st.sampled_from([None, None, ["a", "bc"], ["A", "x", "Z", "7", " "]]),
    stop_token_ids=st.sampled_from([None, list(range(0, VOCAB_SIZE, 8))]),
    ignore_eos=st.booleans(),
    logprobs=st.sampled_from([None, None, 0, 2]),
    prompt_logprobs=st.sampled_from([None, None, 1]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.3]),
    output_kind=kinds,
)
beams = st.builds(
    BeamSearchParams,
    beam_width=st.integers(1, 4),
    max_tokens=st.integers(1, 8),
    length_penalty=st.sampled_from([0.0, 1.0]),
)


requests = st.tuples(
    prompts,
    st.one_of(sampling, sampling, beams),
    st.sampled_from([None, None, "x"]),
    st.integers(0, 2),
)
_Wanted = tuple[list[int], SamplingParams | BeamSearchParams, str | None, int]


def essence(output: RequestOutput) -> list[Any]:
    """Everything about the answers that must not depend on the company they were made in."""
    return [
        output.prompt_logprobs,
        sorted(output.outputs, key=lambda completion: completion.index),
    ]


def expected(prompt: list[int], params: SamplingParams | BeamSearchParams) -> list[Any]:
    key = repr((prompt, params))
    if key not in _alone:
        if isinstance(params, SamplingParams):
            params = replace(params, output_kind=RequestOutputKind.FINAL_ONLY)
        _alone[key] = essence(answer_alone(prompt, params))
    return _alone[key]


class Traffic(RuleBasedStateMachine):
    """Requests come, are cancelled and finish, in any order."""

    engine: Engine

    @initialize(
        num_blocks=st.integers(7, 16),
        block_size=st.sampled_from([2, 4]),
        max_num_seqs=st.integers(4, 8),
        budget=st.integers(8, 24),
        chunk=st.sampled_from([0, 1, 5]),
        policy=st.sampled_from(["fcfs", "priority"]),
        caching=st.booleans(),
    )
    def start(self, num_blocks: int, block_size: int, **choices: Any) -> None:
        self.engine = make_engine(
            num_blocks,
            block_size,
            max_num_seqs=choices["max_num_seqs"],
            max_num_batched_tokens=choices["budget"],
            long_prefill_token_threshold=choices["chunk"],
            scheduling_policy=choices["policy"],
            enable_prefix_caching=choices["caching"],
        )
        self.count = 0
        self.asked: dict[str, tuple[list[int], SamplingParams | BeamSearchParams]] = {}
        self.got: dict[str, RequestOutput] = {}

    @rule(wanted=st.lists(requests, min_size=1, max_size=4))
    def submit(self, wanted: list[_Wanted]) -> None:
        for prompt, params, salt, priority in wanted:
            name = str(self.count)
            self.count += 1
            try:
                self.engine.submit(name, prompt, params, priority=priority, cache_salt=salt)
            except ContextOverflow:
                assert len(prompt) + (params.max_tokens or 1) > self.engine.max_model_len
            else:
                self.asked[name] = prompt, params

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.asked)))
        finished = name in self.got and self.got[name].finished
        last = self.engine.abort(name)
        assert (last is None) == finished
        if last is not None:
            assert last.finished
            del self.asked[name]
            self.got.pop(name, None)

    @rule(count=st.integers(1, 8))
    def step(self, count: int) -> None:
        for _ in range(count):
            for output in self.engine.step():
                self._take(output)
            check(self.engine)

    @rule()
    def reset(self) -> None:
        assert self.engine.reset_prefix_cache() == (self.engine.pool.num_used == 0)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "engine"):
            check(self.engine)

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(3000):
            if not self.engine.has_unfinished:
                break
            self.step(1)
        assert not self.engine.has_unfinished
        self.engine.scheduler.check_idle()
        for name, (prompt, params) in self.asked.items():
            assert self.got[name].finished
            assert essence(self.got[name]) == expected(prompt, params)

    def _take(self, output: RequestOutput) -> None:
        params = self.asked[output.request_id][1]
        known = self.got.get(output.request_id)
        kind = getattr(params, "output_kind", RequestOutputKind.FINAL_ONLY)
        if known is not None and kind is RequestOutputKind.DELTA:
            known.merge(output)
        else:
            self.got[output.request_id] = output


Traffic.TestCase.settings = settings(
    max_examples=120,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTraffic = Traffic.TestCase
