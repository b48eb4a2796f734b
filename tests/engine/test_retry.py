"""How long a request that was turned away is asked to wait."""

from __future__ import annotations

import pytest

from stoker.engine.retry import RetryEstimate
from stoker.engine.sampling_params import SamplingParams
from stoker.errors import EngineOverloaded
from tests.engine.doubles import Clock, make_engine


def test_each_request_turned_away_is_given_the_next_place() -> None:
    estimate = RetryEstimate()
    for second in range(0, 20, 5):
        estimate.note_ended(float(second))
    # Four ended between 0 and 20: one every 5 s.
    assert [estimate.seconds(20.0) for _ in range(3)] == [5.0, 10.0, 15.0]
    # Six seconds later one of those places is gone, and 26 s over four endings is 6.5 s.
    assert estimate.seconds(26.0) == 15.0 - 6.0 + 6.5


def test_nothing_known_yet_is_a_second_and_the_wait_has_bounds() -> None:
    assert RetryEstimate().seconds(100.0) == 1.0
    fast, slow = RetryEstimate(), RetryEstimate()
    for moment in range(10):
        fast.note_ended(moment / 1000)
    slow.note_ended(0.0)
    assert fast.seconds(0.01) == 1.0
    assert slow.seconds(1000.0) == 60.0


def test_the_engine_learns_from_requests_that_end() -> None:
    clock = Clock()
    engine = make_engine(max_num_seqs=1, max_waiting_requests=1, clock=clock)
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    for number in range(4):
        engine.submit(str(number), [1, 2], params)
        engine.step()
        clock.now += 10
    engine.submit("last", [1, 2], params)
    with pytest.raises(EngineOverloaded) as caught:
        engine.submit("too many", [1, 2], params)
    assert caught.value.retry_after == 10.0
