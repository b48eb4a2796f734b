"""The time of a step, told apart."""

from __future__ import annotations

from itertools import count

import pytest

from stoker.engine.sampling_params import RequestOutputKind, SamplingParams
from stoker.engine.step_timer import StepTimer
from tests.engine.doubles import make_engine


def test_each_part_has_the_time_since_the_last() -> None:
    times = iter([1.0, 1.5, 3.5, 9.0, 9.25])
    timer = StepTimer(lambda: next(times))
    timer.begin()
    timer.lap("schedule")
    timer.lap("batch")
    timer.lap_runner({"matmul": 4.0, "sampling": 1.0}, 7)
    timer.lap("results")
    assert timer.kernels == {"matmul": 4.0, "sampling": 1.0}
    assert timer.python == {"schedule": 0.5, "batch": 2.0, "call": 0.5, "results": 0.25}
    assert (timer.steps, timer.tokens) == (1, 7)
    timer.reset()
    assert (timer.steps, timer.tokens, timer.kernels, timer.python) == (0, 0, {}, {})


def test_a_runner_that_names_no_parts_is_a_kernel() -> None:
    times = iter([1.0, 3.0])
    timer = StepTimer(lambda: next(times))
    timer.begin()
    timer.lap_runner({}, 1)
    assert timer.kernels == {"runner": 2.0}
    assert timer.python == {}


@pytest.mark.parametrize("kind", [RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY])
def test_an_engine_tells_every_part_of_its_steps(kind: RequestOutputKind) -> None:
    engine = make_engine()
    params = SamplingParams(temperature=0, ignore_eos=True, max_tokens=4, output_kind=kind)
    ticks = count()
    timer = engine.timer
    timer.clock = lambda: float(next(ticks))
    engine.submit("a", list(range(60, 75)), params)
    engine.step()
    assert (timer.steps, next(ticks)) == (0, 0)  # off: not a look at the clock
    timer.on = True
    while engine.has_unfinished:
        engine.step()
    assert (timer.steps, timer.tokens) == (3, 3)
    # Each look at the clock is a tick later: a lap for each part of each step. The last token's
    # text has a part of its own, and so has the end of the answer.
    assert timer.kernels == {"runner": 3}
    assert timer.python == {"schedule": 3, "batch": 3, "detokenize": 4, "results": 7}
