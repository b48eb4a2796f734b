"""No minute sees more than the limit, whenever it begins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.router.ledger.refusals import limit_lines
from stoker.router.ledger.window import Window, take_both


def test_a_full_window_says_when_there_is_room() -> None:
    window = Window(3)
    assert [window.take(1, at) for at in (100.0, 100.9, 130.5, 131.0)] == [True, True, True, False]
    assert window.left(131.0)[0] == 0
    assert window.seconds_until(1, 131.0) == 30.0  # at 161 the second 100 has left
    assert window.seconds_until(3, 131.0) == 60.0
    assert window.seconds_until(4, 131.0) is None
    assert window.left(131.0)[1] == 60.0
    assert not window.take(1, 160.99)
    assert window.take(1, 161.0)


def test_a_correction_counts_where_it_was_taken() -> None:
    window = Window(100)
    assert window.take(60, 10.0)
    window.correct(-50, 10.0, 20.0)
    assert window.left(20.0)[0] == 90
    window.correct(+95, 10.0, 20.0)  # it took more than was allowed
    assert window.left(20.0)[0] == 0
    assert window.left(71.0)[0] == 100
    window.correct(-50, 10.0, 80.0)  # long gone
    assert window.left(80.0)[0] == 100


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.floats(0, 20), st.integers(1, 5)), max_size=120),
)
def test_no_minute_has_more_than_the_limit(limit: int, steps: list[tuple[float, int]]) -> None:
    window, now = Window(limit), 0.0
    taken: list[tuple[float, int]] = []
    for passed, amount in steps:
        now += passed
        wait = window.seconds_until(amount, now)
        allowed = window.take(amount, now)
        assert allowed == (wait == 0.0)
        if allowed:
            taken.append((now, amount))
        elif wait is not None:
            assert 0 < wait <= 61
        assert sum(one for at, one in taken if at > now - 60) <= limit


def test_as_others_tell_it() -> None:
    window = Window(10, {100: 4, 159: 5})
    assert window.left(160.0)[0] == 1
    assert window.seconds_until(3, 160.0) == 1.0


@given(
    st.integers(1, 8),
    st.integers(1, 30),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 9), st.integers(-9, 9)), max_size=60),
)
def test_two_windows_at_once_are_as_each_alone(
    most_requests: int, most_tokens: int, steps: list[tuple[float, int, int]]
) -> None:
    requests, tokens = Window(most_requests), Window(most_tokens)
    alone = Window(most_requests), Window(most_tokens)
    now = 1000.0
    for passed, amount, difference in steps:
        now += passed
        room = [one.seconds_until(n, now) == 0.0 for one, n in zip(alone, (1, amount), strict=True)]
        assert take_both(requests, tokens, amount, now) == all(room)
        if all(room):
            assert alone[0].take(1, now)
            assert alone[1].take(amount, now)
            tokens.correct(difference, now, now)
            alone[1].correct(difference, now, now)
        both = limit_lines(requests, tokens, now)
        assert both == limit_lines(alone[0], None, now) + limit_lines(None, alone[1], now)
